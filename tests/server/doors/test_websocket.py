"""/ws through a real server: text in pieces, sound as it is made, interruptions, and a conversation that is kept."""

from __future__ import annotations

import base64
import json
import random
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import WebSocketTestSession
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from audio_utils import Audio, decode
from server.app import create_app
from server.doors.websocket import connection
from server.doors.websocket.messages import MESSAGES
from speech.caller import Caller
from speech.engines.hibari import HibariEngine
from speech.errors import CallerLeft
from speech.service import Service
from speech.settings import Settings
from tests import ears
from tests.conftest import ROOT, Served

STORY = (
    "It was a bright cold day in April, and the clocks were striking thirteen. "
    "The hallway smelt of boiled cabbage and old rag mats. Nobody was there to meet him."
)
RECORDING = ROOT / "tests" / "data" / "recordings" / "psx__austen_f.wav"


@dataclass
class Told:
    """What a server has told of one utterance."""

    pcm: bytes = b""
    messages: list[dict[str, Any]] = field(default_factory=list)

    def of(self, kind: str) -> dict[str, Any]:
        return next(message for message in self.messages if message["type"] == kind)

    @property
    def audio(self) -> Audio:
        return Audio(np.frombuffer(self.pcm, "<i2").astype(np.float32) / 32767, 24_000)


class Talk:
    """A connection as a client holds it."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.patience_s = 60.0
        self.hello = self.receive()
        assert isinstance(self.hello, dict) and self.hello["type"] == "ready"

    def send(self, type: str, **fields: Any) -> None:
        self.socket.send(json.dumps({"type": type, **fields}))

    def receive(self) -> dict[str, Any] | bytes:
        message = self.socket.recv(timeout=self.patience_s)
        return json.loads(message) if isinstance(message, str) else message

    def until(self, *kinds: str) -> Told:
        """All that comes up to the first message of one of `kinds`."""
        told = Told()
        while True:
            message = self.receive()
            if isinstance(message, bytes):
                told.pcm += message
                continue
            told.messages.append(message)
            if message["type"] in kinds:
                return told

    def say(self, text: str) -> Told:
        self.send("text", text=text)
        self.send("end")
        return self.until("done", "error")


@contextmanager
def talking(served: Served) -> Iterator[Talk]:
    with connect(served.url.replace("http", "ws") + "/ws", max_size=None, close_timeout=1) as socket:
        yield Talk(socket)


def idle(served: Served, seconds: float = 20) -> bool:
    """Whether nobody is served any more, within `seconds`."""
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        health = served.http.get("/health").json()
        if health["speaking"] == 0 and health["queue_length"] == 0:
            return True
        time.sleep(0.05)
    return False


def words(text: str) -> list[str]:
    return text.split()


def test_text_cut_anywhere_is_spoken_whole(kokoro: Served) -> None:
    chance = random.Random(1)
    with talking(kokoro) as talk:
        at = 0
        while at < len(STORY):
            size = chance.randint(1, 9)
            talk.send("text", text=STORY[at : at + size])
            at += size
        talk.send("end")
        told = talk.until("done")
    assert ears.word_error_rate(STORY, told.audio) < 0.1
    assert words(told.of("done")["text"]) == words(STORY)
    assert told.of("done")["duration_ms"] == round(told.audio.duration_ms)
    parts = [message for message in told.messages if message["type"] == "part"]
    assert words(" ".join(part["text"] for part in parts)) == words(STORY)
    assert len(parts) > 2  # clause by clause and sentence by sentence, not all at the end
    assert [part["start_ms"] for part in parts] == sorted(part["start_ms"] for part in parts)


def test_speech_begins_before_the_text_has_ended(hibari: Served) -> None:
    with talking(hibari) as talk:
        talk.send("text", text="This is the first sentence. And this")
        told = talk.until("part")
        assert told.of("part")["text"] == "This is the first sentence."
        assert isinstance(talk.receive(), bytes)
        talk.send("text", text=" is the second")
        talk.send("end")
        rest = talk.until("done")
    assert rest.of("done")["text"] == "This is the first sentence. And this is the second"


def test_a_flush_and_a_pause_are_ends_too(hibari: Served) -> None:
    with talking(hibari) as talk:
        talk.send("text", text="half of a")
        talk.send("flush")
        assert talk.until("part").of("part")["text"] == "half of a"
        talk.send("text", text="A whole one.")  # and then nothing more
        assert talk.until("part").of("part")["text"] == "A whole one."


def test_a_text_that_stalls_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "STALLED_S", 0.1)
    configured = Settings(engine="hibari")
    service = Service(HibariEngine(), configured)
    service.start()
    with TestClient(create_app(service, configured)) as http, http.websocket_connect("/ws") as socket:
        socket.send_json({"type": "text", "text": "This is said. And this was"})
        while "text" not in (message := socket.receive()) or '"done"' not in message["text"]:
            pass
        assert json.loads(message["text"])["text"] == "This is said. And this was"
        assert (service.gate.speaking, service.gate.waiting) == (0, 0)


def test_a_listener_who_took_nothing_for_too_long_is_told_and_not_left_in_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def stalled(self: connection.Connection, turn: object, piece: object) -> None:
        raise CallerLeft

    monkeypatch.setattr(connection.Connection, "_deliver", stalled)
    configured = Settings(engine="hibari")
    service = Service(HibariEngine(), configured)
    service.start()
    with TestClient(create_app(service, configured)) as http, http.websocket_connect("/ws") as socket:
        socket.send_json({"type": "text", "text": "Is anybody there? "})
        socket.send_json({"type": "end"})
        while (message := socket.receive())["type"] != "websocket.close":
            pass
        assert (message["code"], message["reason"]) == (1008, "what was sent was not taken in time")
    assert (service.gate.speaking, service.gate.waiting) == (0, 0)


def test_utterances_come_one_after_the_other(hibari: Served) -> None:
    texts = ["One is here.", "Two comes now, with a little more.", "Three."]
    with talking(hibari) as talk:
        talk.send("start", utterance="first")
        for text in texts:
            talk.send("text", text=text)
            talk.send("end")
        told = [talk.until("done") for _ in texts]
    assert [each.of("done")["utterance"] for each in told] == ["first", "u2", "u3"]
    for each, text in zip(told, texts, strict=True):
        assert len({message["utterance"] for message in each.messages}) == 1
        assert each.of("done")["text"] == text
        assert each.audio.duration_ms > 300


def test_what_is_streamed_is_what_is_spoken_at_once(hibari: Served) -> None:
    with talking(hibari) as talk:
        talk.send("start", seed=5)
        told = talk.say("A single sentence.")
    whole = hibari.speak(
        "/stream_speak", text="A single sentence.", seed=5, response_format="pcm", stream_format="audio"
    )
    assert told.pcm == whole.content


@pytest.mark.parametrize("response_format", ["wav", "mp3", "opus", "flac", "aac"])
def test_every_format_and_base64(hibari: Served, response_format: str) -> None:
    with talking(hibari) as talk:
        talk.send("start", response_format=response_format, audio="base64")
        told = talk.say("Hello there, my friend.")
    assert told.of("started")["response_format"] == response_format
    data = b"".join(base64.b64decode(message["audio"]) for message in told.messages if message["type"] == "audio")
    assert not told.pcm
    assert decode(data, field="audio").duration_ms == pytest.approx(told.of("done")["duration_ms"], abs=150)


def test_an_interruption_tells_what_was_heard(kokoro: Served) -> None:
    text = STORY + " " + STORY
    with talking(kokoro) as talk:
        talk.send("text", text=text)
        talk.send("end")
        begun, received = talk.until("part"), 0
        while received < 2 * 24_000:  # a second
            received += len(message) if isinstance(message := talk.receive(), bytes) else 0
        talk.send("cancel", utterance=begun.of("started")["utterance"], played_ms=900)
        told = talk.until("cancelled")
        report = told.of("cancelled")
        assert report["played_ms"] == 900
        assert words(report["spoken_text"] + " " + report["unspoken_text"]) == words(text)
        assert 1 <= len(words(report["spoken_text"])) <= 6
        assert idle(kokoro)
        after = talk.say("Sorry, go on.")
    assert ears.word_error_rate("Sorry, go on.", after.audio) < 0.4
    assert {message["utterance"] for message in after.messages} == {"u2"}


def test_an_interruption_without_a_position_goes_by_the_clock(hibari: Served) -> None:
    with talking(hibari) as talk:
        done = talk.say(STORY).of("done")
        time.sleep(0.5)
        talk.send("cancel")  # made and sent long ago, and still playing
        report = talk.until("cancelled").of("cancelled")
        assert 400 < report["played_ms"] < done["duration_ms"] - 1000
        assert words(report["spoken_text"] + " " + report["unspoken_text"]) == words(STORY)
        assert report["spoken_text"]
        talk.send("cancel")
        assert talk.until("cancelled").of("cancelled")["utterance"] is None


def test_a_cancel_reports_those_that_wait_too(hibari: Served) -> None:
    with talking(hibari) as talk:
        for text in ("One.", "Two.", "Three."):
            talk.send("text", text=text)
            talk.send("end")
        talk.send("text", text="Four is not")
        talk.send("cancel", played_ms=0)
        seen = {}
        while "u4" not in seen:
            report = talk.until("cancelled").of("cancelled")
            seen[report["utterance"]] = report["unspoken_text"]
    assert seen["u4"] == "Four is not"


def test_a_conversation_keeps_its_voice(kokoro: Served) -> None:
    recording = base64.b64encode(RECORDING.read_bytes()).decode()
    with talking(kokoro) as talk:
        talk.send("start", speaker=0)
        talk.send("heard", text="It is a truth universally acknowledged.", speaker=0, audio_b64=recording)
        assert talk.until("heard").of("heard")["duration_ms"] > 500
        first, second = talk.say("That is true."), talk.say("And so is this.")
        session_id = talk.hello["session_id"]
    voice = first.of("started")["voice"]
    assert voice.startswith("match:")
    assert second.of("started")["voice"] == voice
    with talking(kokoro) as talk:  # another connection, the same conversation
        talk.send("start", speaker=0, session_id=session_id)
        assert talk.say("Here I am again.").of("started")["voice"] == voice


BAD: list[tuple[str | bytes, str]] = [
    ("not json", "message"),
    (b"\x00\x01", "message"),
    ("[]", "type"),
    ('{"type": "sing"}', "type"),
    ('{"type": "text"}', "text"),
    ('{"type": "text", "text": 5}', "text"),
    ('{"type": "start", "voice": "../../etc/passwd"}', "voice"),
    ('{"type": "start", "speaker": 7}', "speaker"),
    ('{"type": "start", "response_format": "midi"}', "response_format"),
    ('{"type": "cancel", "utterance": "nobody"}', "utterance"),
    ('{"type": "heard", "text": "Hm.", "audio_b64": "!"}', "audio_b64"),
]


def test_bad_messages_are_answered_and_the_connection_goes_on(hibari: Served) -> None:
    with talking(hibari) as talk:
        for message, name in BAD:
            talk.socket.send(message)
            error = talk.until("error").of("error")
            assert error["field"] == name, error
            assert error["code"] == "invalid_input"
        talk.send("text", text="x" * 9_999)
        talk.send("text", text="x" * 9_999)
        talk.send("text", text="x" * 9_999)
        assert talk.until("error").of("error")["field"] == "text"
        talk.send("cancel")
        talk.until("cancelled")
        assert talk.say("Still here.").of("done")["text"] == "Still here."


def test_an_empty_text_is_nothing_and_no_mistake(hibari: Served) -> None:
    with talking(hibari) as talk:
        for _ in range(2 * connection.MAX_MISTAKES):
            talk.send("text", text="")
        told = talk.say("Still here.")
    assert [message["type"] for message in told.messages if message["type"] == "error"] == []
    assert told.of("done")["utterance"] == "u1"


def test_mistakes_close_a_connection_that_makes_nothing_else(hibari: Served) -> None:
    with talking(hibari) as talk:
        for _ in range(3):
            for _ in range(connection.MAX_MISTAKES - 1):
                talk.send("sing")
                talk.until("error")
            talk.send("flush")
        assert talk.say("Still here.").of("done")["text"] == "Still here."
        for _ in range(connection.MAX_MISTAKES):
            talk.send("sing")
            talk.until("error")
        with pytest.raises(ConnectionClosed):
            talk.receive()


def test_characters_cut_in_two_are_left_out(hibari: Served) -> None:
    with talking(hibari) as talk:
        for piece in ("Hi \ud83d", "\ude00", " there \ud83d\ude00."):
            talk.send("text", text=piece)
        talk.send("end")
        assert talk.until("done", "error").of("done")["text"] == "Hi there \U0001f600."


def test_a_message_of_too_many_values_is_not_taken_apart(hibari: Served) -> None:
    with talking(hibari) as talk:
        talk.socket.send('{"type": "text", "text": "Hm.", "more": [' + "0," * 1_000_001 + "0]}")
        error = talk.until("error").of("error")
        assert error["field"] == "message"
        assert "more values" in error["detail"]


def test_nothing_is_compressed(hibari: Served) -> None:
    with talking(hibari) as talk:
        assert talk.socket.response
        assert "Sec-WebSocket-Extensions" not in talk.socket.response.headers


def test_a_cancel_that_names_nobody_changes_nothing(hibari: Served) -> None:
    with talking(hibari) as talk:
        talk.send("text", text="This is being ")
        talk.send("cancel", utterance="long ago")
        assert talk.until("error").of("error")["field"] == "utterance"
        told = talk.say("written.")
    assert told.of("done")["text"] == "This is being written."


@pytest.fixture
def small() -> Iterator[tuple[Service, WebSocketTestSession]]:
    """A service with one place, and a connection to it."""
    configured = Settings(engine="hibari", queue=0)
    service = Service(HibariEngine(), configured)
    service.start()
    with TestClient(create_app(service, configured)) as http, http.websocket_connect("/ws") as socket:
        assert socket.receive_json()["type"] == "ready"
        yield service, socket


def next_of(socket: WebSocketTestSession, *kinds: str) -> dict[str, Any]:
    """The next message of one of `kinds`."""
    while (message := socket.receive()).get("text") is None or json.loads(message["text"])["type"] not in kinds:
        pass
    return json.loads(message["text"])


ENDS: list[dict[str, Any]] = [
    {"type": "end"},
    {"type": "start", "speaker": 0},
    {"type": "cancel"},
    {"type": "cancel", "utterance": "u1"},
]


@pytest.mark.parametrize("end", ENDS)
def test_the_rest_of_an_utterance_that_found_no_place_is_not_spoken(
    small: tuple[Service, WebSocketTestSession], end: dict[str, Any]
) -> None:
    service, socket = small
    with service.gate.place(Caller()):
        socket.send_json({"type": "text", "text": "Never, as long as you live, "})
        socket.send_json({"type": "flush"})
        error = next_of(socket, "error")
    assert (error["code"], error["utterance"]) == ("busy", "u1")
    assert error["unspoken_text"] == "Never, as long as you live,"
    socket.send_json({"type": "text", "text": "press the red button. "})
    socket.send_json({"type": "flush"})
    socket.send_json(end)
    socket.send_json({"type": "text", "text": "I am here again."})
    socket.send_json({"type": "end"})
    assert next_of(socket, "done") | {"first_audio_ms": 0, "duration_ms": 0} == {
        "type": "done",
        "utterance": "u2",
        "duration_ms": 0,
        "truncated": False,
        "first_audio_ms": 0,
        "text": "I am here again.",
        "unspoken_text": "",
    }


@pytest.mark.parametrize("end", ENDS)
def test_the_rest_of_an_utterance_that_was_refused_is_not_spoken(
    small: tuple[Service, WebSocketTestSession], end: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, socket = small
    with monkeypatch.context() as patched:
        patched.setattr(connection, "MAX_WAITING", 0)
        socket.send_json({"type": "text", "text": "Never, as long as you live, "})
        error = next_of(socket, "error")
    assert (error["code"], error["utterance"]) == ("busy", "u1")
    assert error["unspoken_text"] == "Never, as long as you live, "
    socket.send_json({"type": "text", "text": "press the red button. "})
    socket.send_json({"type": "cancel", "utterance": "long ago"})
    assert next_of(socket, "error")["field"] == "utterance"
    socket.send_json({"type": "text", "text": "Do not wait. "})
    socket.send_json(end)
    socket.send_json({"type": "text", "text": "I am here again."})
    socket.send_json({"type": "end"})
    done = next_of(socket, "done")
    assert (done["utterance"], done["text"]) == ("u2", "I am here again.")


def test_a_refused_utterance_ends_when_its_writer_stalls(
    small: tuple[Service, WebSocketTestSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, socket = small
    with monkeypatch.context() as patched:
        patched.setattr(connection, "MAX_WAITING", 0)
        patched.setattr(connection, "STALLED_S", 0.1)
        socket.send_json({"type": "text", "text": "Never, as long as you live, "})
        assert next_of(socket, "error")["code"] == "busy"
        time.sleep(connection.IDLE_S + 0.5)
    socket.send_json({"type": "text", "text": "I am here again."})
    socket.send_json({"type": "end"})
    assert next_of(socket, "done")["text"] == "I am here again."


def test_what_the_limit_cut_off_is_told(kokoro: Served) -> None:
    with talking(kokoro) as talk:
        talk.send("start", max_duration_ms=3000)
        done = talk.say(STORY).of("done")
        assert done["truncated"]
        assert words(done["text"] + " " + done["unspoken_text"]) == words(STORY)
        assert 3 <= len(words(done["text"])) <= 13
        talk.send("start")
        assert talk.say("All of it.").of("done")["unspoken_text"] == ""


def test_what_is_written_after_the_limit_is_not_spoken(hibari: Served) -> None:
    with talking(hibari) as talk:
        talk.send("start", max_duration_ms=1000)
        talk.send("text", text=STORY)
        assert talk.until("done").of("done")["truncated"]
        talk.send("text", text=" And this is the end of it.")
        talk.send("end")
        assert talk.say("A new one.").of("done")["text"] == "A new one."


def test_an_engine_that_has_no_words_for_it_says_so(hibari: Served) -> None:
    with talking(hibari) as talk:
        error = talk.say("你好")
        assert error.of("error")["field"] == "text"
        assert error.of("error")["unspoken_text"] == "你好"
        assert talk.say("Hello.").of("done")["text"] == "Hello."


def test_a_reader_who_stops_reading_slows_nobody(hibari: Served) -> None:
    with talking(hibari) as slow:
        slow.send("start", max_duration_ms=300_000)
        for _ in range(3):
            slow.send("text", text=(STORY + " ") * 25)
            slow.send("end")
        for _ in range(5):
            assert hibari.speak(text="Others are served.").status_code == 200
        with talking(hibari) as other:
            assert other.say("Me too.").of("done")["text"] == "Me too."
    assert idle(hibari)


def test_writers_who_pause_leave_room_for_others(serve: Callable[..., Served]) -> None:
    served = serve(engine="hibari", queue="3")
    with talking(served) as one, talking(served) as another, talking(served) as third:
        for talk in (one, another):
            talk.send("text", text="Let me look that up for you. I will")
            talk.until("part")
        error = third.say("And what of me?").of("error")
        assert (error["code"], error["unspoken_text"]) == ("busy", "And what of me?")
        assert served.speak(text="Others are served.").status_code == 200
        one.send("end")
        one.until("done")
        assert third.say("And now?").of("done")["text"] == "And now?"


def test_two_hundred_sessions_come_and_go_and_leave_nothing_behind(serve: Callable[..., Served]) -> None:
    served = serve(engine="hibari", queue="64")
    process = psutil.Process(served.process.pid)

    def session(seed: int) -> None:
        chance = random.Random(seed)
        try:
            with talking(served) as talk:
                talk.patience_s = 2  # after an end and a cancel there may be nothing left to come
                for _ in range(chance.randint(0, 3)):
                    for start in range(0, len(STORY), 40):
                        talk.send("text", text=STORY[start : start + 40])
                        if chance.random() < 0.1:
                            talk.send(chance.choice(["flush", "cancel", "end"]))
                    talk.send("end")
                    if chance.random() < 0.5:
                        talk.until("done", "cancelled", "error")
                if chance.random() < 0.3:
                    talk.socket.socket.close()  # gone without a word
        except (ConnectionClosed, OSError, TimeoutError):
            pass

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(session, range(50)))
    assert idle(served)
    memory, threads = process.memory_info().rss, process.num_threads()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(session, range(200)))
    assert idle(served)
    assert process.memory_info().rss - memory < 100e6  # the allocator's arenas settle at about 80; half a MB a session
    assert process.num_threads() <= threads + 16  # a pool's idle workers
    assert len([each for each in process.net_connections() if each.status == "ESTABLISHED"]) <= 2
    assert served.speak(text="All is well.").status_code == 200


def test_frames_that_are_none_harm_nobody(hibari: Served) -> None:
    host, port = hibari.url.removeprefix("http://").split(":")
    upgrade = (
        f"GET /ws HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    chance = random.Random(7)
    heads = [
        b"",
        b"\x81",
        b"\x82\xff" + b"\xff" * 8,
        b"\x81\xfe\xff\xff",
        b"\x01\x80",
        b"\x89\xfe",
        b"\xc1\x00",
        b"\x88\x02",
    ]
    for number in range(80):
        with socket.create_connection((host, int(port)), timeout=5) as raw:
            raw.sendall(upgrade.encode())
            assert raw.recv(12) == b"HTTP/1.1 101"
            raw.sendall(heads[number % len(heads)] + chance.randbytes(chance.randint(0, 400)))
            if number % 3 == 0:
                raw.shutdown(socket.SHUT_WR)
                while raw.recv(65536):
                    pass  # the server ends it
    assert idle(hibari)
    with talking(hibari) as talk:
        assert talk.say("Still here.").of("done")["text"] == "Still here."


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(messages=st.lists(st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=20) | st.sampled_from([*MESSAGES, "u1"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["type", "text", "utterance", "played_ms", "voice", "context", "x"]), inner),
    max_leaves=12,
), max_size=8))  # fmt: skip
def test_messages_of_any_shape_are_answered(hibari: Served, messages: list[Any]) -> None:
    with talking(hibari) as talk:
        for message in messages:
            talk.socket.send(json.dumps(message))
        talk.send("cancel")
        talk.send("end", last=True)  # an error that comes last, once all of those are read
        while (error := talk.until("error").of("error"))["field"] != "last":
            assert error["code"] in ("invalid_input", "busy"), error
