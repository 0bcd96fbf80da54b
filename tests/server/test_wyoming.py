"""The Wyoming protocol through its own client: what Home Assistant asks, what it gets, and what others may try."""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wyoming.audio import AudioStart
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.ping import Ping
from wyoming.tts import Synthesize, SynthesizeChunk, SynthesizeStart, SynthesizeStop, SynthesizeVoice

import server.__main__
from server import logs
from server.wyoming import MAX_CONNECTIONS, frames
from tests import ears
from tests.server.assistant import Answer, Assistant
from tests.server.test_main import free_port, started

STORY = (
    "It was a bright cold day in April, and the clocks were striking thirteen. "
    "The hallway smelt of boiled cabbage and old rag mats. Nobody was there to meet him."
)


@dataclass
class Server:
    """A running server that Home Assistant can find."""

    http: httpx.Client
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @asynccontextmanager
    async def assistant(self) -> AsyncIterator[Assistant]:
        async with Assistant("127.0.0.1", self.port) as client:
            yield client

    def with_assistant(self, talk: Callable[[Assistant], Coroutine[Any, Any, Any]]) -> Any:
        async def connected() -> Any:
            async with self.assistant() as client:
                return await asyncio.wait_for(talk(client), 100)

        return asyncio.run(connected())

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    async def freed(self) -> None:
        """Returns when nobody is served any more."""
        for _ in range(600):
            health = self.http.get("/health").json()
            if health["speaking"] == 0 and health["queue_length"] == 0:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(health)

    @property
    def answers(self) -> bool:
        async def ask(client: Assistant) -> Answer:
            await client.say(Describe())
            return await client.until("info")

        return self.with_assistant(ask).types == ["info"]


@contextmanager
def serving(log: Path, **settings: str) -> Iterator[Server]:
    port = free_port()
    wanted = {"engine": "hibari", "port": "0", "wyoming_port": str(port)} | settings
    with started(log, subprocess.PIPE, **wanted) as process:
        assert process.stdout
        address = re.search(r"http://[\d.]+:\d+", process.stdout.readline().decode())
        assert address, log.read_text()
        process.stdout.readline()
        assert process.stdout.readline().decode().strip().endswith(f":{port} (Wyoming)")
        with httpx.Client(base_url=address[0], timeout=60) as http:
            yield Server(http, port, process, log)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Open to all, so that it has something to warn of."""
    with serving(tmp_path_factory.mktemp("wyoming") / "log", host="0.0.0.0") as running:
        yield running
    log = running.log.read_text()
    assert running.process.returncode == 0
    assert f"Wyoming has no keys: whoever reaches port {running.port} of this machine" in log
    assert "Traceback" not in log and "foresaw" not in log and "never retrieved" not in log


def test_it_tells_who_it_is_and_every_voice(served: Server) -> None:
    async def ask(client: Assistant) -> Info:
        await client.say(Describe())
        return Info.from_event((await client.until("info")).events[0])

    (program,) = served.with_assistant(ask).tts
    assert program.installed and program.supports_synthesize_streaming
    assert program.version and program.attribution.name and program.attribution.url.startswith("https://")
    voices = served.http.get("/v1/audio/voices").json()["voices"]
    assert [voice.name for voice in program.voices] == [voice["name"] for voice in voices]
    assert all(voice.installed and voice.languages == ["en"] and voice.description for voice in program.voices)


def test_a_whole_text_is_spoken(served: Server) -> None:
    answer = served.with_assistant(lambda client: client.whole(STORY, name="Alloy", speaker="0"))
    assert answer.types == ["audio-start", "audio-chunk", "audio-stop"]
    start = AudioStart.from_event(answer.events[0])
    assert (start.rate, start.width, start.channels) == (24_000, 2, 1)
    assert {(chunk.rate, chunk.width, chunk.channels) for chunk in answer.chunks} == {(24_000, 2, 1)}
    assert max(chunk.milliseconds for chunk in answer.chunks) <= 200
    assert [chunk.timestamp for chunk in answer.chunks] == sorted(chunk.timestamp or 0 for chunk in answer.chunks)
    assert ears.word_error_rate(STORY, answer.audio) < 0.15


def test_a_text_in_pieces_is_spoken_as_home_assistant_2026_2_3_sends_it(served: Server) -> None:
    """homeassistant/components/wyoming/tts.py: the pieces, then the whole again for servers that do not stream."""
    pieces = re.findall(r".{1,7}", STORY)

    async def ask(client: Assistant) -> Answer:
        voice = SynthesizeVoice(name="shimmer", speaker=None)
        chunks = [SynthesizeChunk(piece) for piece in pieces]
        await client.say(SynthesizeStart(voice=voice), *chunks, Synthesize(STORY, voice), SynthesizeStop())
        return await client.until("synthesize-stopped")

    answer = served.with_assistant(ask)
    assert answer.types == ["audio-start", "audio-chunk", "audio-stop", "synthesize-stopped"]
    assert ears.word_error_rate(STORY, answer.audio) < 0.15  # every word, and none of them twice


def test_speech_begins_before_the_text_has_ended(served: Server) -> None:
    async def ask(client: Assistant) -> None:
        await client.say(SynthesizeStart(), SynthesizeChunk("This is the first sentence. And this"))
        assert (await client.until("audio-chunk")).types == ["audio-start", "audio-chunk"]
        await client.say(SynthesizeChunk(" is the second."))  # and then nothing more, for a while
        before = await client.until("audio-chunk")
        await client.say(Ping("still there?"))
        assert (await client.until("pong")).events[-1].data == {"text": "still there?"}
        await client.say(SynthesizeStop())
        assert (before.types + (await client.until("synthesize-stopped")).types)[-2:] == [
            "audio-stop",
            "synthesize-stopped",
        ]

    served.with_assistant(ask)


def test_texts_are_answered_one_after_the_other(served: Server) -> None:
    async def ask(client: Assistant) -> None:
        await client.say(
            Synthesize("One."), SynthesizeStart(), SynthesizeChunk("Two is said in pieces, and is longer.")
        )
        await client.say(SynthesizeStart(), SynthesizeChunk(""), SynthesizeChunk("Three"), SynthesizeStop())
        await client.say(*(Synthesize("Again.") for _ in range(20)))
        sound = ["audio-start", "audio-chunk", "audio-stop"]
        assert (await client.until("audio-stop")).types == sound
        assert (await client.until("synthesize-stopped")).types == [*sound, "synthesize-stopped"]
        assert (await client.until("synthesize-stopped")).types == [*sound, "synthesize-stopped"]
        for _ in range(20):
            assert (await client.until("audio-stop")).types == sound

    served.with_assistant(ask)


def test_a_text_without_words_is_a_moment_of_nothing(served: Server) -> None:
    answer = served.with_assistant(lambda client: client.streamed("… ", "🙂"))
    assert answer.types == ["audio-start", "audio-stop", "synthesize-stopped"]


BAD_TEXTS: list[tuple[dict[str, Any], str]] = [
    ({}, "text: is missing"),
    ({"text": ""}, "text:"),
    ({"text": 5}, "text:"),
    ({"text": "..."}, "text:"),
    ({"text": "x" * 10_001}, "10000"),
    ({"text": "你好"}, "text"),
    ({"text": "\ud800"}, "text:"),
    ({"text": "Hi.", "voice": {"name": "../../etc/passwd"}}, "voice.name: is not a voice here"),
    ({"text": "Hi.", "voice": {"name": 7}}, "voice.name:"),
    ({"text": "Hi.", "voice": "alloy"}, "voice:"),
    ({"text": "Hi.", "voice": {"language": "de"}}, "voice.language: is not spoken here; ask for en"),
    ({"text": "Hi.", "voice": {"name": "alloy", "speaker": "9"}}, "voice.speaker:"),
    ({"text": "<speak>Hi.</speak>", "text_format": "ssml"}, "text_format:"),
]


def test_a_text_that_will_not_do_is_answered_and_the_connection_goes_on(served: Server) -> None:
    async def ask(client: Assistant) -> None:
        for data, words in BAD_TEXTS:
            # The package's client cannot send half a letter.
            header = json.dumps({"type": "synthesize", "data": data}) + "\n"
            client._writer.write(header.encode())  # type: ignore[union-attr]
            answer = await client.until("audio-stop")
            assert answer.types == ["error", "audio-stop"], data
            assert words in answer.error["text"] and answer.error["code"] == "invalid_input", answer.error
        await client.say(SynthesizeStart(SynthesizeVoice(name="nobody")), SynthesizeChunk("Hi."))
        assert "voice.name" in (await client.until("error")).error["text"]
        await client.say(SynthesizeChunk("There."), SynthesizeStop())
        assert (await client.until("synthesize-stopped")).types == ["synthesize-stopped"]
        for stray in (SynthesizeChunk("Hi."), SynthesizeStop()):
            await client.say(stray)
            assert "belongs to no text" in (await client.until("error")).error["text"]
        too_much = await client.streamed("x" * 20_001)
        assert too_much.types == ["error", "synthesize-stopped"] and "20000 characters" in too_much.error["text"]
        assert (await client.whole("Still here.", language="en-GB")).audio.duration_ms > 300

    served.with_assistant(ask)
    log = served.log.read_text()
    assert "Wyoming: invalid_input: voice.name: is not a voice here" in log  # Home Assistant shows nobody the error


def test_half_a_character_is_not_spoken_and_ends_nothing(served: Server) -> None:
    start, stop = b'{"type": "synthesize-start", "data": {}}\n', b'{"type": "synthesize-stop"}\n'
    chunk = b'{"type": "synthesize-chunk", "data": {"text": %s}}\n'

    async def ask(client: Assistant) -> None:
        async def said(*events: bytes, last: str = "synthesize-stopped") -> Answer:
            client._writer.write(b"".join(events))  # type: ignore[union-attr]  # the package's client cannot send it
            return await client.until(last)

        whole = await said(start, chunk % b'"Hello there."', stop)
        assert whole.types == ["audio-start", "audio-chunk", "audio-stop", "synthesize-stopped"]
        halves = (b'"Hello \\ud83d there."', b'"Hello there.\\ude00"', b'"Hello there.\\ud83d"')
        for text in halves:
            answer = await said(start, chunk % text, stop)
            assert answer.types == whole.types
            assert answer.audio.duration_ms == pytest.approx(whole.audio.duration_ms, rel=0.05)
            answer = await said(b'{"type": "synthesize", "data": {"text": %s}}\n' % text, last="audio-stop")
            assert answer.types == ["audio-start", "audio-chunk", "audio-stop"]
            assert answer.audio.duration_ms == pytest.approx(whole.audio.duration_ms, rel=0.05)
        nothing = await said(start, chunk % b'"\\ud83d"', stop)
        assert nothing.types == ["audio-start", "audio-stop", "synthesize-stopped"]

    served.with_assistant(ask)


def test_what_breaks_off_is_not_ended_as_if_it_were_whole(served: Server) -> None:
    answer = served.with_assistant(
        lambda client: client.streamed("Hello, this is said first. ", "你好。 ", "And this?")
    )
    assert answer.types == ["audio-start", "audio-chunk", "error"]  # and then the connection is closed
    assert answer.error["code"] == "invalid_input"


def test_who_leaves_frees_the_engine(served: Server) -> None:
    async def leave() -> None:
        for event in (Synthesize((STORY + " ") * 30), SynthesizeChunk("He waited. And")):
            async with served.assistant() as client:
                await client.say(*([SynthesizeStart()] if isinstance(event, SynthesizeChunk) else []), event)
                assert (await client.until("audio-chunk")).chunks
            await served.freed()

    asyncio.run(leave())


def test_who_leaves_at_any_moment_frees_the_engine(served: Server) -> None:
    chance = random.Random(3)

    async def come_and_go() -> None:
        async with served.assistant() as client:
            await client.say(Synthesize(STORY))
            await asyncio.sleep(chance.uniform(0, 0.04))  # before, while and after the first sound is made

    async def ask() -> None:
        for _ in range(25):
            await asyncio.gather(*(come_and_go() for _ in range(3)))
        await served.freed()

    asyncio.run(ask())


def test_who_does_not_read_slows_nobody(served: Server) -> None:
    with served.connect() as slow:
        for _ in range(3):
            slow.sendall(json.dumps({"type": "synthesize", "data": {"text": (STORY + " ") * 50}}).encode() + b"\n")
        assert slow.recv(100)
        for _ in range(3):
            assert served.http.post("/speak", json={"text": "Others are served."}).status_code == 200
        assert served.with_assistant(lambda client: client.whole("Me too.")).audio.duration_ms > 300
    asyncio.run(served.freed())


def test_half_of_the_places_are_kept_for_others(served: Server) -> None:
    async def ask() -> None:
        clients = [Assistant("127.0.0.1", served.port) for _ in range(9)]
        for client in clients:
            await client.connect()
        for client in clients[:8]:
            await client.say(SynthesizeStart(), SynthesizeChunk("I have begun. And"))
            assert (await client.until("audio-chunk")).chunks
        busy = await clients[8].whole("And I?")
        assert busy.types == ["error", "audio-stop"] and busy.error["code"] == "busy"
        assert served.http.post("/speak", json={"text": "I am let in."}).status_code == 200
        await clients[0].say(SynthesizeChunk(" ended."), SynthesizeStop())
        assert (await clients[0].until("synthesize-stopped")).types[-2:] == ["audio-stop", "synthesize-stopped"]
        assert (await clients[8].whole("And now?")).chunks
        for client in clients:
            await client.disconnect()

    asyncio.run(ask())
    asyncio.run(served.freed())


HOSTILE: list[bytes] = [
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\n",
    b"{}\n",
    b"{]\n",
    b"[1]\n",
    b'{"type": 5}\n',
    b'{"type": "synthesize", "data": 5}\n',
    b'{"type": "synthesize", "data_length": "5"}\n',
    b'{"type": "synthesize", "data_length": true}\n',
    b'{"type": "synthesize", "data_length": -1}\n',
    b'{"type": "synthesize", "data_length": 99999999999999}\n',
    b'{"type": "audio-chunk", "payload_length": 99999999999999}\n',
    b'{"type": "synthesize", "data_length": 2}\n[]',
    b'{"type": "synthesize", "data_length": 4}\n\xff\xff\xff\xff',
    b'{"type": "' + b"x" * (300 << 10),
    b'{"type": "ping", "data": ' + b'{"a":' * 20_000 + b"1" + b"}" * 20_000 + b"}\n",
]


def test_what_is_no_event_is_told_so_and_cut_off(served: Server) -> None:
    for sent in HOSTILE:
        with served.connect() as connection:
            connection.sendall(sent)
            told = b"".join(iter(lambda: connection.recv(4096), b""))
        header, _, data = told.partition(b"\n")
        assert json.loads(header)["type"] == "error", sent[:80]
        assert json.loads(data)["code"] == "unreadable" and json.loads(data)["text"]
    assert served.answers


EVENTS = [
    b'{"type": "describe"}\n',
    b'{"type": "ping", "data": {"text": "\\ud800"}}\n',
    b'{"type": "synthesize-start", "data_length": 28}\n{"voice": {"name": "alloy"}}',
    b'{"type": "synthesize-chunk", "data": {"text": "Hi. And"}}\n',
    b'{"type": "synthesize", "data": {"text": "Hi."}}\n',
    b'{"type": "synthesize-stop"}\n',
    b'{"type": "transcribe", "payload_length": 3}\nabc',
    b'{"type": "audio-chunk", "data": null, "payload_length": null}\n',
]


@given(st.lists(st.sampled_from(EVENTS) | st.binary(max_size=40), max_size=8), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_whatever_is_sent_it_goes_on(served: Server, pieces: list[bytes], chance: random.Random) -> None:
    sent = bytearray(b"".join(pieces))
    for _ in range(chance.choice([0, 0, 1, 3]) if sent else 0):
        sent[chance.randrange(len(sent))] = chance.randrange(256)
    with served.connect() as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 16):
            pass


def test_and_it_still_answers_and_has_kept_nothing(served: Server) -> None:
    process = psutil.Process(served.process.pid)
    chunk = b'{"type": "synthesize-chunk", "data": {"text": "' + b"word " * 1_900 + b'"}}\n'
    before = process.memory_info().rss
    for _ in range(5):  # 50 MB
        with served.connect() as connection:
            connection.sendall(b'{"type": "synthesize-start"}\n' + chunk * 1_000)
            connection.sendall(b'{"type": "audio-chunk", "payload_length": 1000000}\n' + bytes(1_000_000))
            connection.sendall(b'{"type": "ping"}\n')
            told = b""
            while b'"pong"' not in told:
                told += (received := connection.recv(4096))
                assert received, told
            assert b"20000 characters" in told
    asyncio.run(served.freed())
    assert served.answers
    assert process.memory_info().rss - before < 25e6


def test_many_connections_make_room_for_one_more(served: Server) -> None:
    async def ask() -> None:
        async with served.assistant() as busy:
            await busy.say(SynthesizeStart(), SynthesizeChunk("I was here first. And"))
            assert (await busy.until("audio-chunk")).chunks
            idle = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(MAX_CONNECTIONS + 5)]
            async with served.assistant() as late:
                assert (await late.whole("I am late.")).chunks
            assert await asyncio.wait_for(idle[0][0].read(), 20) == b""  # the longest idle one had to go
            await busy.say(SynthesizeStop())
            assert (await busy.until("synthesize-stopped")).types[-1] == "synthesize-stopped"
            for _, writer in idle:
                writer.close()

    asyncio.run(ask())


def test_half_an_event_is_not_waited_for_and_a_quiet_connection_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "EVENT_S", 0.1)

    async def read(sent: bytes, after_s: float) -> Event | None:
        reader = asyncio.StreamReader()
        asyncio.get_running_loop().call_later(after_s, reader.feed_data, sent)
        return await asyncio.wait_for(frames.read_event(reader), 20)

    for half in (
        b"{",
        b'{"type": "describe"}',
        b'{"type": "x", "data_length": 5}\n{',
        b'{"type": "x", "payload_length": 5}\n',
    ):
        with pytest.raises(frames.Unreadable, match="did not come"):
            asyncio.run(read(half, 0))
    event = asyncio.run(read(b'{"type": "describe"}\n', 0.5))
    assert event and event.type == "describe"


def test_it_ends_with_the_server_and_lets_a_text_be_finished(tmp_path: Path) -> None:
    with serving(tmp_path / "log", rate_per_minute="3") as running:

        async def ask() -> None:
            async with running.assistant() as quiet, running.assistant() as client:
                assert (await client.whole("One.")).chunks and (await client.whole("Two.")).chunks
                await client.say(SynthesizeStart(), SynthesizeChunk("I have begun. And"))
                assert (await client.until("audio-chunk")).chunks
                refused = await quiet.whole("That is one too many.")
                assert refused.error["code"] == "rate_limited"
                running.process.terminate()
                assert not (await quiet.until()).events
                await client.say(SynthesizeChunk(" I have ended."), SynthesizeStop())
                assert (await client.until()).types[-2:] == ["audio-stop", "synthesize-stopped"]

        asyncio.run(ask())
        assert running.process.wait(20) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("port", ["taken", "the same"])
def test_a_port_it_cannot_have_is_told_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    monkeypatch.setattr(sys, "argv", ["server"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest has its own, and its own log
    monkeypatch.setattr(logs, "configure", lambda _: None)
    monkeypatch.setattr(server.__main__, "choose", lambda _: pytest.fail("an engine was chosen"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = str(taken.getsockname()[1])
        monkeypatch.setenv("DUOLOGUE_WYOMING_PORT", number)
        monkeypatch.setenv("DUOLOGUE_PORT", "0" if port == "taken" else number)
        if port == "the same":
            taken.close()
        with pytest.raises(SystemExit) as end:
            server.__main__.main()
    told = rf"duologue cannot start: .*DUOLOGUE_WYOMING_PORT.*{number}.*; choose another.*"
    assert re.fullmatch(told, str(end.value))
