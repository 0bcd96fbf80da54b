"""The Chute as the SDK itself runs it, spoken to over HTTP."""

from __future__ import annotations

import io
import json
import select
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import soundfile
from pybase64 import b64decode, b64encode

from clients import InvalidRequest, TTSClient
from tests.chute.conftest import ROOT, Running, clean_env, running


@pytest.fixture(scope="module")
def chute(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    env = clean_env() | {"DUOLOGUE_ENGINE": "kokoro", "PYTHONPATH": str(ROOT)}
    with running(ROOT, env, tmp_path_factory.mktemp("chute") / "log") as started:
        yield started


@pytest.fixture(scope="module")
def recording(chute: Running) -> str:
    said = chute.http.post("/speak", json={"text": "This is how I sound.", "speaker": 0})
    return b64encode(said.content).decode()


def seconds(audio: bytes) -> float:
    samples, rate_hz = soundfile.read(io.BytesIO(audio))
    assert abs(samples).max() > 0.05, "it is silent"
    return len(samples) / rate_hz


def test_health(chute: Running) -> None:
    health = chute.http.get("/health").json()
    assert (health["status"], health["engine"], health["speaking"]) == ("ready", "kokoro", 0)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/speak", {"text": "Hello there."}),
        ("/conversation", {"turns": [{"speaker": 0, "text": "Ready?"}, {"speaker": 1, "text": "Yes."}]}),
        ("/contextual_speak", {"text": "Hello there.", "session_id": "one"}),
        ("/quality_speak", {"text": "Hello there."}),
        ("/cached_speak", {"text": "Hello there."}),
        ("/optimized_speak", {"text": "Hello there."}),
        ("/robust_speak", {"text": "Dr. Smith said hello."}),
    ],
)
def test_a_cord_speaks(chute: Running, path: str, body: dict[str, Any]) -> None:
    answer = chute.http.post(path, json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "audio/wav")
    assert 0.5 < seconds(answer.content) < 10


def test_clone_voice_speaks(chute: Running, recording: str) -> None:
    body = {"text": "Hello there.", "reference_audio_b64": recording, "reference_text": "This is how I sound."}
    answer = chute.http.post("/clone_voice", json=body)
    assert answer.status_code == 200
    assert 0.5 < seconds(answer.content) < 10


def test_batch_speak_speaks_in_order(chute: Running) -> None:
    clips = chute.http.post("/batch_speak", json={"texts": ["One.", "One, two, three, four."]}).json()
    short, long = (seconds(b64decode(clip)) for clip in clips)
    assert short < long


def test_a_context_segment_at_fault_is_named(chute: Running, recording: str) -> None:
    context = [{"text": "This is how I sound.", "audio_b64": recording}, {"text": "Noise.", "audio_b64": "AAAA"}]
    error = chute.http.post("/speak", json={"text": "Hello.", "context": context})
    assert (error.status_code, error.json()["field"]) == (400, "context[1].audio_b64")


@pytest.mark.parametrize("body", [b"{", b"", b"[]", b"{}", b"[1]"])
def test_a_body_that_is_no_request_is_a_400(chute: Running, body: bytes) -> None:
    error = chute.http.post("/speak", content=body)
    assert (error.status_code, error.json()["code"]) == (400, "invalid_input")
    assert "Traceback" not in error.text


def test_a_caller_who_leaves_frees_the_engine(chute: Running) -> None:
    body = json.dumps({"text": "One short sentence. " * 100, "max_duration_ms": 90_000}).encode()
    url = chute.http.base_url
    with socket.create_connection((url.host, url.port)) as connection:
        head = f"POST /speak HTTP/1.1\r\nHost: {url.host}\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        assert _speaking_becomes(chute.http, 1) < 10
        time.sleep(0.5)
        assert chute.http.get("/health").json()["speaking"] == 1, "the text is long enough to be left in the middle"
    assert _speaking_becomes(chute.http, 0) < 3, "a sentence is what this engine cannot stop in"


def test_a_stream_is_heard_by_our_client(chute: Running) -> None:
    with TTSClient(chute.http.base_url) as client:
        stream = client.stream("Hello there. Nice to meet you.", seed=1, voice="af_sky")
        heard = stream.collect()
        assert stream.complete and stream.voice == "af_sky" and stream.seed == 1
        assert seconds(heard) == pytest.approx((stream.duration_ms or 0) / 1000, abs=0.001)
        with pytest.raises(InvalidRequest) as refused, client.stream("Hello.", voice="nobody"):
            pass
        assert (refused.value.status, refused.value.field) == (400, "voice")


def test_more_abandoned_streams_than_threads_jam_nothing(chute: Running) -> None:
    """Some left after their first event, some while they waited for a turn."""
    body = json.dumps({"text": "Yes. " + "One short sentence. " * 100, "max_duration_ms": 90_000}).encode()
    url = chute.http.base_url
    head = f"POST /stream_speak HTTP/1.1\r\nHost: {url.host}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    connections = [socket.create_connection((url.host, url.port)) for _ in range(16)]
    for connection in connections:
        connection.sendall(head + body)
    readable, _, _ = select.select(connections, [], [], 60)
    assert readable[0].recv(12) == b"HTTP/1.1 200"
    for connection in connections:
        connection.close()
    _speaking_becomes(chute.http, 0)
    for _ in range(6):
        with chute.http.stream("POST", "/stream_speak", content=body) as answer:
            assert "speech.audio.start" in next(answer.iter_lines())
    assert chute.http.post("/speak", json={"text": "Hello there."}).status_code == 200
    _speaking_becomes(chute.http, 0)


def _speaking_becomes(http: httpx.Client, callers: int) -> float:
    """Seconds until /health counts `callers` speaking."""
    began_s = time.monotonic()
    while http.get("/health").json()["speaking"] != callers:
        assert time.monotonic() - began_s < 30
        time.sleep(0.02)
    return time.monotonic() - began_s
