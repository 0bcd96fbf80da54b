"""/stream_speak through a real server: sound while it is made, in every format, stopped when nobody listens."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from audio_utils import Audio, decode
from server.app import create_app
from speech.caller import Caller
from speech.engines.base import Engine, EngineInfo, Line, Load
from speech.operations import STREAM_SPEAK
from speech.service import Service
from speech.settings import Settings
from speech.streaming import MAX_EVENTS, events
from tests import ears
from tests.conftest import Served

STORY = (
    "It was a bright cold day in April, and the clocks were striking thirteen. "
    "The hallway smelt of boiled cabbage and old rag mats. Nobody was there to meet him."
)


def told(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = response.text.split("\n\n")
    assert blocks.pop() == ""
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


def sound(told: list[dict[str, Any]]) -> bytes:
    return b"".join(base64.b64decode(event["audio"]) for event in told if event["type"] == "speech.audio.delta")


def stream(served: Served, **wanted: Any) -> bytes:
    return served.speak("/stream_speak", stream_format="audio", response_format="pcm", **wanted).content


def test_every_word_is_heard_and_the_events_say_what_it_is(kokoro: Served) -> None:
    response = kokoro.speak("/stream_speak", text=STORY, max_duration_ms=30_000, response_format="flac")
    first, *_, last = events = told(response)
    audio = decode(sound(events), field="audio")
    assert ears.word_error_rate(STORY, audio) < 0.1
    assert (first["type"], last["type"]) == ("speech.audio.start", "speech.audio.done")
    assert first["voice"] == "am_michael"
    assert first["sample_rate_hz"] == audio.sample_rate_hz
    assert last["duration_ms"] == round(audio.duration_ms)
    assert not last["truncated"]
    assert last["usage"]["total_tokens"] == last["usage"]["input_tokens"] + last["usage"]["output_tokens"]
    assert max(length for _, length in ears.quiet_spans_ms(audio)) < 700


@pytest.mark.parametrize("response_format", ["wav", "mp3", "opus", "flac", "aac", "pcm"])
def test_bytes_and_events_are_the_same_file(hibari: Served, response_format: str) -> None:
    wanted = {"text": STORY, "seed": 3, "max_duration_ms": 30_000, "response_format": response_format}
    raw = hibari.speak("/stream_speak", stream_format="audio", **wanted)
    events = told(hibari.speak("/stream_speak", **wanted))
    assert raw.content == sound(events)
    assert raw.headers["content-type"] == events[0]["media_type"]
    assert raw.headers["x-seed"] == str(events[0]["seed"]) == "3"
    if response_format != "pcm":
        assert decode(raw.content, field="audio").duration_ms == pytest.approx(events[-1]["duration_ms"], abs=150)


def test_a_text_is_its_sentences_one_after_the_other(hibari: Served) -> None:
    one, two = "This is one of the sentences.", "And this is another one."
    both, first, second = (
        np.frombuffer(stream(hibari, text=text, seed=seed), "<i2") / 32767.0
        for text, seed in ((f"{one} {two}", 5), (one, 5), (two, 6))
    )
    np.testing.assert_array_equal(both[: len(first)], first)
    follows = both[len(first) :]  # cut elsewhere than on its own, where its listener has nothing to hear before it
    assert len(follows) == pytest.approx(len(second), abs=240)
    assert ears.word_error_rate(two, Audio(follows, 24_000)) == ears.word_error_rate(two, Audio(second, 24_000))
    np.testing.assert_array_equal(both, np.frombuffer(stream(hibari, text=f"{one} {two}", seed=5), "<i2") / 32767.0)


def test_two_are_heard_at_the_same_time(kokoro: Served) -> None:
    """Neither waits for the other's end, and what they hear is what they would hear alone."""
    text = "The hallway smelt of boiled cabbage and old rag mats. Nobody was there."
    wanted = {"text": text, "stream_format": "audio", "response_format": "pcm"}
    alone = kokoro.speak("/stream_speak", **wanted).content
    order: list[str] = []
    heard: dict[str, bytes] = {}

    def listen(name: str) -> None:
        with kokoro.http.stream("POST", "/stream_speak", json=wanted) as response:
            for data in response.iter_raw():
                order.append(name)
                heard[name] = heard.get(name, b"") + data

    listeners = [threading.Thread(target=listen, args=(name,)) for name in ("one", "other")]
    for listener in listeners:
        listener.start()
    for listener in listeners:
        listener.join()
    assert heard == {"one": alone, "other": alone}
    begins = [order.index(name) for name in heard]
    ends = [len(order) - 1 - order[::-1].index(name) for name in heard]
    assert max(begins) < min(ends)


def test_the_limit_holds_over_all_parts(hibari: Served) -> None:
    events = told(hibari.speak("/stream_speak", text=STORY, max_duration_ms=4000, response_format="pcm"))
    assert events[-1]["truncated"]
    assert len(sound(events)) <= 2 * 24_000 * 4


@pytest.mark.parametrize("speed", [0.25, 0.7, 1.5, 4])
def test_speed_is_the_pace_and_not_the_pitch(hibari: Served, speed: float) -> None:
    at = {
        pace: Audio(
            np.frombuffer(stream(hibari, text=STORY, max_duration_ms=90_000, speed=pace), "<i2") / 32767.0, 24_000
        )
        for pace in (1, speed)
    }
    assert at[1].duration_ms / at[speed].duration_ms == pytest.approx(speed, rel=0.25)
    assert pitch_hz(at[speed]) == pytest.approx(pitch_hz(at[1]), rel=0.2)


def pitch_hz(audio: Audio) -> float:
    """The median fundamental of the voiced frames, by autocorrelation."""
    frames = np.lib.stride_tricks.sliding_window_view(audio.samples, 960)[::480]
    loud = frames[np.abs(frames).max(axis=1) > 0.3 * np.abs(audio.samples).max()]
    lags = np.arange(60, 300)
    strength = np.array([[(f[:-lag] * f[lag:]).sum() for lag in lags] for f in loud])
    return float(np.median(24_000 / lags[strength.argmax(axis=1)]))


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"text": ""}, "text"),
        ({"text": "Hm.", "stream_format": "video"}, "stream_format"),
        ({"text": "Hm.", "session_id": "no spaces"}, "session_id"),
        ({"text": "Hm.", "voice": "../../etc/passwd"}, "voice"),
        ({"text": "Hm.", "speed": 9}, "speed"),
        ({"text": "你好"}, "text"),
        ({"text": "Hm.", "context": [{"text": "Hm.", "audio_b64": "AAAA"}]}, "context[0].audio_b64"),
    ],
)
def test_what_is_wrong_is_told_before_the_first_sound(hibari: Served, wanted: dict[str, Any], field: str) -> None:
    response = hibari.http.post("/stream_speak", json=wanted)
    assert response.status_code == 400
    assert response.json()["field"] == field


def until_idle(served: Served) -> None:
    until_s = time.monotonic() + 60
    while (health := served.http.get("/health").json())["speaking"] or health["queue_length"]:
        assert time.monotonic() < until_s, "the engine is held for nobody"
        time.sleep(0.02)


def test_a_listener_who_leaves_frees_the_engine(kokoro: Served) -> None:
    wanted = {"text": STORY * 5, "max_duration_ms": 90_000, "stream_format": "audio"}
    with kokoro.http.stream("POST", "/stream_speak", json=wanted) as response:
        next(response.iter_raw())
    until_idle(kokoro)


def test_a_listener_who_stops_reading_slows_nobody(hibari: Served) -> None:
    body = json.dumps({"text": STORY * 8, "max_duration_ms": 90_000, "stream_format": "audio"}).encode()
    host, port = hibari.url.removeprefix("http://").split(":")
    head = f"POST /stream_speak HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
    slow = [socket.create_connection((host, int(port))) for _ in range(5)]
    try:
        for one in slow:
            one.sendall(head.encode() + body)
            until_idle(hibari)
        assert hibari.speak(text="Others are served.").status_code == 200
    finally:
        for one in slow:
            one.close()


def test_listeners_who_take_nothing_do_not_hold_the_engine(serve: Callable[..., Served]) -> None:
    """More of their sound is made than is kept for all together."""
    served = serve(engine="hibari", stream_buffer_mb="1")
    body = json.dumps({"text": STORY * 30, "max_duration_ms": 90_000, "speed": 0.5, "stream_format": "audio"}).encode()
    host, port = served.url.removeprefix("http://").split(":")
    head = f"POST /stream_speak HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
    with ExitStack() as slow:
        for _ in range(4):
            one = slow.enter_context(socket.socket())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.connect((host, int(port)))
            one.sendall(head.encode() + body)
        until_s, quiet = time.monotonic() + 60, 0
        while quiet < 10:  # nothing more is made for them
            health = served.http.get("/health").json()
            quiet = quiet + 1 if (health["speaking"], health["queue_length"]) == (0, 4) else 0
            assert time.monotonic() < until_s, health
            time.sleep(0.02)
        assert len(stream(served, text=STORY)) > 2 * 24_000 * 3
    until_idle(served)


class Faltering:
    """An engine by the frame that speaks `frames` of them, 80 ms each, and then fails where it is told to."""

    info = EngineInfo(
        name="faltering", model="faltering", sample_rate_hz=24_000, device="cpu", voices=(), context="none",
        takes=False, sampling=False, grain="frame", parallel=1,
    )  # fmt: skip

    def __init__(self, frames: list[int], fails: bool) -> None:
        self.frames, self.fails, self.closed = frames, fails, False

    def start(self) -> None: ...
    def load(self) -> Load:
        return Load()

    def trim(self) -> None: ...
    def close(self) -> None: ...
    def voice_of(self, line: Line) -> None: ...

    def speak(self, line: Line) -> Generator[Audio]:
        try:
            for count in self.frames:
                yield Audio(np.full(1920 * count, 0.1, np.float32), 24_000)
            if self.fails:
                raise RuntimeError("out of breath")
        finally:
            self.closed = True


def serving(engine: Engine) -> Service:
    service = Service(engine, Settings())
    service.start()
    return service


def test_a_failure_after_the_first_sound_is_the_last_event() -> None:
    engine = Faltering([1, 1, 1], fails=True)
    with TestClient(create_app(serving(engine), Settings())) as http:
        *_, last = told(http.post("/stream_speak", json={"text": "Hello."}))
        assert (last["type"], last["code"]) == ("error", "engine_failed")
        assert "breath" not in last["detail"]
        response = http.post(
            "/stream_speak", json={"text": "Hello.", "stream_format": "audio", "response_format": "pcm"}
        )
        assert len(response.content) == 3 * 1920 * 2


def test_a_failure_before_the_first_sound_is_a_status() -> None:
    with TestClient(create_app(serving(Faltering([], fails=True)), Settings())) as http:
        assert http.post("/stream_speak", json={"text": "Hello."}).status_code == 500


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=1200),
    st.sampled_from(["wav", "mp3", "opus", "flac", "aac", "pcm"]),
)
def test_events_are_few_however_the_sound_comes(frames: list[int], response_format: Any) -> None:
    wanted = {"text": "Hello.", "max_duration_ms": 90_000, "response_format": response_format}
    service = serving(Faltering(frames, fails=False))
    made = list(events(STREAM_SPEAK(service, wanted, Caller()), response_format))
    assert len(made) <= MAX_EVENTS
    assert made[-1]["type"] == "speech.audio.done"
    assert made[-1]["duration_ms"] == min(80 * sum(frames), made[-1]["duration_ms"])


def test_closing_early_closes_the_engine_and_gives_the_place_back() -> None:
    engine = Faltering([1] * 100, fails=False)
    service = serving(engine)
    speaking = STREAM_SPEAK(service, {"text": "Hello.", "max_duration_ms": 90_000}, Caller())
    assert service.gate.speaking == 1
    speaking.close()
    assert engine.closed
    assert (service.gate.speaking, service.gate.waiting) == (0, 0)


def test_who_leaves_before_the_first_sound_holds_nothing() -> None:
    service = serving(Faltering([1], fails=False))
    caller = Caller()
    caller.leave()
    with pytest.raises(Exception, match="caller left"):
        STREAM_SPEAK(service, {"text": "Hello."}, caller)
    assert (service.gate.speaking, service.gate.waiting) == (0, 0)
