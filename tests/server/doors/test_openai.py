"""OpenAI's door as it is on the wire: formats, events, voices, errors. Its clients have tests of their own."""

from __future__ import annotations

import base64
import json
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from audio_utils import Audio, decode
from server.app import create_app
from speech.engines.base import Line
from speech.errors import EngineFailed
from speech.service import Service
from speech.settings import Settings
from speech.voices.catalogue import ALIASES
from tests import ears
from tests.conftest import ROOT, Served
from tests.speech.test_operations import GOOD, Scripted

TEXT = "The train to Paris leaves at noon. Do not be late!"
TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
WOMAN = ROOT / "tests" / "data" / "recordings" / "psx__austen_f.wav"


def speech(served: Served, **body: Any) -> Any:
    return served.speak("/v1/audio/speech", **({"model": "tts-1", "voice": "alloy", "input": TEXT, "seed": 1} | body))


def samples(pcm: bytes) -> np.ndarray:
    return np.frombuffer(pcm, "<i2")


def events(response: Any) -> list[dict[str, Any]]:
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = response.text.split("\n\n")
    assert blocks.pop() == ""
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


def sound(said: list[dict[str, Any]]) -> bytes:
    return b"".join(base64.b64decode(event["audio"]) for event in said if event["type"] == "speech.audio.delta")


@pytest.fixture(scope="module")
def pcm(hibari: Served) -> bytes:
    return speech(hibari, response_format="pcm").content


@pytest.mark.parametrize("response_format", TYPES)
def test_every_format(hibari: Served, pcm: bytes, response_format: str) -> None:
    response = speech(hibari, response_format=response_format)
    assert response.headers["content-type"] == TYPES[response_format]
    assert response.headers["x-seed"] == "1"
    audio = (
        Audio(samples(response.content) / np.float32(32767), 24_000)
        if response_format == "pcm"
        else decode(response.content, field="answer")
    )
    assert audio.duration_ms == pytest.approx(len(pcm) / 48, abs=120)
    if response_format in ("wav", "flac"):
        np.testing.assert_allclose(audio.samples * 32768, samples(pcm), atol=2)


def test_mp3_is_what_is_sent_unasked(hibari: Served) -> None:
    assert speech(hibari).headers["content-type"] == "audio/mpeg"


def test_the_same_request_gives_the_same_samples(hibari: Served, pcm: bytes) -> None:
    assert speech(hibari, response_format="pcm").content == pcm
    assert speech(hibari, response_format="pcm", seed=2).content != pcm


@pytest.mark.parametrize("response_format", ["pcm", "mp3", "wav"])
def test_events_hold_the_same_bytes(hibari: Served, response_format: str) -> None:
    answer = speech(hibari, response_format=response_format, stream_format="sse")
    said = events(answer)
    assert {event["type"] for event in said[:-1]} == {"speech.audio.delta"}
    assert sound(said) == speech(hibari, response_format=response_format).content
    assert max(len(event["audio"]) for event in said[:-1]) <= 32_000
    assert said[-1]["type"] == "speech.audio.done"
    usage = said[-1]["usage"]
    assert usage["input_tokens"] > 0 and usage["output_tokens"] > 0
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


@pytest.mark.parametrize("speed", [0.25, 0.7, 1.5, 4])
def test_speed_changes_how_long_it_takes(hibari: Served, pcm: bytes, speed: float) -> None:
    heard = speech(hibari, response_format="pcm", speed=speed).content
    assert len(heard) / len(pcm) == pytest.approx(
        1 / speed, rel=0.15, abs=0.1
    )  # silence at the edges of a sentence stays


@pytest.mark.parametrize(
    "body",
    [
        {"voice": ""},
        {"voice": None, "speed": None, "instructions": None, "stream_format": None},
        {"model": "whatever-1"},
        {"instructions": "Speak like a pirate.", "language": "en", "stream": True},
    ],
    ids=str,
)
def test_what_clients_send_beside_the_point_changes_nothing(hibari: Served, pcm: bytes, body: dict[str, Any]) -> None:
    assert speech(hibari, response_format="pcm", **body).content == pcm


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("input", {"input": None}),
        ("input", {"input": ""}),
        ("input", {"input": "?!"}),
        ("input", {"input": "a" * 10_001}),
        ("voice", {"voice": "nobody"}),
        ("voice", {"voice": {"name": "alloy"}}),
        ("voice", {"voice": "../../etc/passwd"}),
        ("speed", {"speed": 0.2}),
        ("speed", {"speed": "fast"}),
        ("response_format", {"response_format": "midi"}),
        ("stream_format", {"stream_format": "websocket"}),
        ("seed", {"seed": -1}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_field_is_named_in_openai_s_shape(hibari: Served, field: str, change: dict[str, Any]) -> None:
    response = hibari.http.post("/v1/audio/speech", json={"model": "tts-1", "voice": "alloy", "input": "Hi."} | change)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["type"], error["code"]) == (field, "invalid_request_error", "invalid_input")
    assert error["message"].startswith(f"{field}: ") and "; " in error["message"]


@pytest.mark.parametrize("body", [b"", b"[]", b"7", b"{", b"\xff"])
def test_a_body_that_is_no_object(hibari: Served, body: bytes) -> None:
    response = hibari.http.post("/v1/audio/speech", content=body)
    assert response.status_code == 400
    assert "send a JSON object" in response.json()["error"]["message"]


def test_what_is_not_here_is_told_in_the_same_shape(hibari: Served) -> None:
    for path in ("/v1/audio/transcriptions", "/v1/models/gpt-5"):
        response = hibari.http.get(path)
        assert response.status_code == 404
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_the_longest_input_is_spoken_in_parts(hibari: Served) -> None:
    text = ("Some words that go on and on for quite a while. " * 300)[:10_000]
    body = {"input": text, "response_format": "pcm"}
    with hibari.http.stream("POST", "/v1/audio/speech", json=body) as response:
        assert response.status_code == 200
        heard = 0
        for piece in response.iter_bytes():
            heard += len(piece)
            if heard > 48_000 * 10:  # beyond one part, and beyond one engine's longest line; then the listener leaves
                break
        else:
            pytest.fail("the answer ended early")


class TestVoices:
    def test_openai_s_names_are_there_and_stand_for_different_people(self, kokoro: Served) -> None:
        listed = {voice["id"]: voice["kind"] for voice in kokoro.http.get("/v1/audio/voices").json()["voices"]}
        assert {name for name, kind in listed.items() if kind == "alias"} == set(ALIASES)
        assert len(ALIASES) == 13
        assert listed["af_nova"] == "builtin"
        heard = [speech(kokoro, input="Hello.", voice=voice) for voice in ("nova", {"id": "ONYX"}, "bm_lewis")]
        assert [response.headers["x-voice"] for response in heard] == ["af_nova", "am_onyx", "bm_lewis"]

    def test_a_voice_is_added_spoken_with_and_removed(self, kokoro: Served) -> None:
        form = {"name": "Jane's own", "consent": "cons_1234", "transcript": "Some words."}
        files = {"audio_sample": ("jane.wav", WOMAN.read_bytes(), "audio/wav")}
        added = kokoro.http.post("/v1/audio/voices", data=form, files=files).json()
        assert (added["object"], added["type"], added["name"]) == ("audio.voice", "audio_sample", "Jane's own")
        assert added["created_at"] > 1_700_000_000
        listed = kokoro.http.get("/v1/audio/voices").json()["voices"]
        assert {"id": added["id"], "name": "Jane's own", "kind": "custom"} in listed
        by_id = speech(kokoro, input="Hello.", voice={"id": added["id"]})
        by_name = speech(kokoro, input="Hello.", voice="jane's own")
        assert by_id.content == by_name.content
        assert by_id.headers["x-voice"] == by_name.headers["x-voice"]
        assert by_id.headers["x-voice"].startswith("match:")
        again = kokoro.http.post("/v1/audio/voices", data=form, files=files)
        assert (again.status_code, again.json()["error"]["param"]) == (400, "name")
        removed = kokoro.http.delete(f"/v1/audio/voices/{added['id']}").json()
        assert removed == {"id": added["id"], "object": "audio.voice.deleted", "deleted": True}
        assert kokoro.http.delete(f"/v1/audio/voices/{added['id']}").status_code == 404
        gone = kokoro.http.post("/v1/audio/speech", json={"input": "Hi.", "voice": added["id"]})
        assert (gone.status_code, gone.json()["error"]["param"]) == (400, "voice")

    @pytest.mark.parametrize(
        ("field", "form"),
        [
            ("name", {"consent": "yes"}),
            ("name", {"name": "", "consent": "yes"}),
            ("name", {"name": "../../etc/passwd", "consent": "yes"}),
            ("name", {"name": "a\nb", "consent": "yes"}),
            ("name", {"name": "alloy", "consent": "yes"}),
            ("name", {"name": "AF_Heart", "consent": "yes"}),
            ("consent", {"name": "jane"}),
            ("consent", {"name": "jane", "consent": ""}),
            ("type", {"name": "jane", "type": "prompt", "prompt": "An old sailor."}),
        ],
        ids=str,
    )
    def test_what_will_not_do_is_named(self, kokoro: Served, field: str, form: dict[str, str]) -> None:
        files = {"audio_sample": ("../../jane.wav", WOMAN.read_bytes(), "audio/wav")}
        response = kokoro.http.post("/v1/audio/voices", data=form, files=files)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == field

    @pytest.mark.parametrize("sample", [None, b"", b"no sound at all" * 99])
    def test_a_sample_that_is_none_is_named(self, kokoro: Served, sample: bytes | None) -> None:
        files = {"audio_sample": ("a.wav", sample)} if sample is not None else {"other": ("a.wav", b"")}
        response = kokoro.http.post("/v1/audio/voices", data={"name": "jane", "consent": "yes"}, files=files)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "audio_sample"

    @pytest.mark.parametrize(
        ("content", "content_type"),
        [
            (b'{"name": "jane"}', "application/json"),
            (b"name=jane", "application/x-www-form-urlencoded"),
            (b"name=jane", "multipart/form-data"),
            (b"--b\r\nnonsense", "multipart/form-data; boundary=b"),
            (
                b"--b\r\n" + b'Content-Disposition: form-data; name="x"\r\n\r\n1\r\n--b\r\n' * 50,
                "multipart/form-data; boundary=b",
            ),
        ],
        ids=lambda value: str(value)[:30],
    )
    def test_a_body_that_is_no_form(self, kokoro: Served, content: bytes, content_type: str) -> None:
        response = kokoro.http.post("/v1/audio/voices", content=content, headers={"content-type": content_type})
        assert response.status_code == 400
        assert response.json()["error"]["message"]

    @pytest.mark.parametrize("path", ["..%2F..%2Fetc%2Fpasswd", "%2e%2e", "alloy", "a" * 5000, "%00"])
    def test_only_added_voices_are_removed(self, kokoro: Served, path: str) -> None:
        response = kokoro.http.delete(f"/v1/audio/voices/{path}")
        assert response.status_code in (404, 405)
        assert response.json()["error"]["message"]

    def test_an_engine_that_hears_nothing_says_so(self, hibari: Served) -> None:
        files = {"audio_sample": ("jane.wav", WOMAN.read_bytes(), "audio/wav")}
        response = hibari.http.post("/v1/audio/voices", data={"name": "jane", "consent": "yes"}, files=files)
        assert response.status_code == 400
        assert "hibari" in response.json()["error"]["message"]


class Tone(Scripted):
    """Says 440 Hz for a second at its own rate, in pieces; then fails if it is to."""

    def __init__(self, rate_hz: int, *, fails: bool = False) -> None:
        super().__init__([])
        self.info = replace(self.info, sample_rate_hz=rate_hz)
        self.fails = fails

    def speak(self, line: Line) -> Generator[Audio]:
        rate_hz = self.info.sample_rate_hz
        tone = np.sin(2 * np.pi * 440 * np.arange(rate_hz) / rate_hz).astype(np.float32) / 2
        for piece in np.array_split(tone, 9):
            yield Audio(piece, rate_hz)
        if self.fails:
            raise EngineFailed("the engine broke")


def client(engine: Scripted) -> TestClient:
    service = Service(engine, Settings())
    service.start()
    return TestClient(create_app(service, Settings()))


def test_pcm_is_24_khz_whatever_the_engine_s_rate() -> None:
    body = {"input": "Hello.", "response_format": "pcm"}
    heard = samples(client(Tone(44_100)).post("/v1/audio/speech", json=body).content)
    usual = samples(client(Tone(24_000)).post("/v1/audio/speech", json=body).content)
    assert len(heard) == len(usual) == 24_000
    inner = slice(200, -200)
    np.testing.assert_allclose(heard[inner], usual[inner], atol=40)
    wav = client(Tone(44_100)).post("/v1/audio/speech", json=body | {"response_format": "wav"}).content
    assert ears.sound(wav).sample_rate_hz == 44_100


def test_an_error_after_the_first_sound_is_an_event_and_no_proper_end() -> None:
    body = {"input": "Hello.", "response_format": "pcm", "stream_format": "sse"}
    said = events(client(Tone(24_000, fails=True)).post("/v1/audio/speech", json=body))
    assert len(sound(said)) == 48_000
    assert said[-1]["type"] == "error"
    assert said[-1]["error"]["code"] == "engine_failed"
    assert not any(event["type"] == "speech.audio.done" for event in said)


def test_an_error_before_it_has_its_own_status() -> None:
    response = client(Scripted([EngineFailed("the engine broke"), GOOD])).post(
        "/v1/audio/speech", json={"input": "Hi."}
    )
    assert response.status_code == 500
    assert response.json()["error"] == {
        "message": "the engine broke",
        "type": "server_error",
        "param": None,
        "code": "engine_failed",
    }
