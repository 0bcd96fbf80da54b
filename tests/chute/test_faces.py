"""The Chute and the self-hosted server give the same answer to the same request."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from chutes.chute import Chute
from chutes.entrypoint.run import DevMiddleware
from fastapi.testclient import TestClient
from httpx import Response
from pybase64 import b64encode

from server.app import create_app
from speech.caller import Caller
from speech.gate import Gate
from speech.operations import OPERATIONS, STREAM_SPEAK
from speech.quality import checks
from speech.service import Service
from speech.settings import Settings
from tests.chute.conftest import LoadChute


class Faces:
    """The two faces of one service."""

    def __init__(self, chute: Chute) -> None:
        self._chute = chute
        self.service: Service = chute.state.service
        self.server = TestClient(create_app(self.service, Settings()), raise_server_exceptions=False)
        self.chute = TestClient(chute, raise_server_exceptions=False)

    def speak_with(self, service: Service) -> None:
        self._chute.state.service = service
        self.service = service
        self.server = TestClient(create_app(service, Settings()), raise_server_exceptions=False)

    def ask(self, path: str, body: Any) -> Response:
        """The answer to `body` (bytes go as they are), which both faces must give alike."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        server, chute = (face.post(path, content=content) for face in (self.server, self.chute))
        assert chute.status_code == server.status_code, (chute.text[:500], server.text[:500])
        assert told(chute) == told(server)
        if server.headers["content-type"] == "application/json":
            assert chute.json() == server.json()
        else:
            assert chute.content == server.content
        return chute


def told(response: Response) -> dict[str, str]:
    """The headers that a caller reads, without those that differ from one request to the next."""
    varying = {"x-request-id", "x-cache", "content-length"}
    return {name: value for name, value in response.headers.items() if name not in varying}


@pytest.fixture(scope="module")
def dev_chute(load_chute: LoadChute) -> Chute:
    return load_chute(True, DevMiddleware)


@pytest.fixture
def faces(dev_chute: Chute) -> Iterator[Faces]:
    hibari = dev_chute.state.service
    yield Faces(dev_chute)
    dev_chute.state.service = hibari


HELLO = {"text": "Hello there.", "seed": 3}
PATHS = [STREAM_SPEAK.path, *(operation.path for operation in OPERATIONS.values())]


def test_the_chute_has_the_servers_paths_and_methods(dev_chute: Chute) -> None:
    cords = {(cord.public_api_path, cord._public_api_method) for cord in dev_chute.cords}
    assert cords == {(path, "POST") for path in PATHS} | {("/health", "GET")}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/speak", HELLO),
        ("/speak", HELLO | {"speaker": 0, "response_format": "flac", "max_duration_ms": 500}),
        ("/conversation", {"turns": [{"speaker": 0, "text": "Ready?"}, {"speaker": 1, "text": "Yes."}], "seed": 1}),
        ("/batch_speak", {"texts": ["One.", "Two.", "Three."], "seed": 2, "response_format": "pcm"}),
        ("/contextual_speak", HELLO | {"session_id": "somebody"}),
        ("/quality_speak", HELLO),
        ("/cached_speak", HELLO),
        ("/optimized_speak", HELLO),
        ("/robust_speak", HELLO | {"text": "Dr. Smith has 2 cats!!!"}),
    ],
)
def test_an_answer_is_the_same(faces: Faces, path: str, body: dict[str, Any]) -> None:
    faces.service.sessions.remember("somebody", anew=True)
    assert faces.ask(path, body).status_code == 200


def test_a_stream_is_the_same(faces: Faces) -> None:
    body = {"text": "Hello there. And once more.", "seed": 3, "response_format": "opus"}
    told = []
    for face in (faces.server, faces.chute):
        answer = face.post("/stream_speak", json=body)
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        told.append([json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n\n") if line])
        assert told[-1][-1].pop("first_audio_ms") > 0
    assert told[0] == told[1]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "body",
    [b"{", b"\xff", b"[" * 100_000, b"[1]", b'"Hello."', b"7", b"true", b"null", b"{}", {"txt": "Hello."}],
    ids=lambda body: repr(body)[:20],
)
def test_a_body_that_is_no_request_is_a_400_in_the_same_words(faces: Faces, path: str, body: Any) -> None:
    error = faces.ask(path, body)
    assert error.status_code == 400
    assert error.json().keys() == {"detail", "code", "field"}


@pytest.mark.parametrize("body", [b"", b"[]", b'""', b"0", b"false"])
def test_an_empty_body_is_a_400_on_both_faces(faces: Faces, body: bytes) -> None:
    """The SDK hands a cord nothing at all where JSON is empty, so the words may differ: a field is missing."""
    for face in (faces.server, faces.chute):
        error = face.post("/speak", content=body)
        assert (error.status_code, error.json()["code"]) == (400, "invalid_input")
        assert error.json()["field"] in ("body", "text")


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/speak", {"text": ""}, "text"),
        ("/speak", {"text": 7}, "text"),
        ("/speak", HELLO | {"speaker": 2}, "speaker"),
        ("/speak", HELLO | {"speaker": True}, "speaker"),
        ("/speak", HELLO | {"max_duration_ms": 1}, "max_duration_ms"),
        ("/speak", HELLO | {"temperature": 9}, "temperature"),
        ("/speak", HELLO | {"response_format": "mp4"}, "response_format"),
        ("/speak", HELLO | {"stream": True}, "stream"),
        ("/speak", HELLO | {"context": [{"text": "Hi."}]}, "context[0].audio_b64"),
        ("/speak", HELLO | {"context": [{"text": "Hi.", "audio_b64": "AAAA"}]}, "context[0].audio_b64"),
        ("/conversation", {"turns": []}, "turns"),
        ("/conversation", {"turns": [{"speaker": 0, "text": "Hi.", "pause_ms": 2001}]}, "turns[0].pause_ms"),
        ("/clone_voice", {"text": "Hi.", "reference_text": "Hi."}, "reference_audio_b64"),
        ("/batch_speak", {"texts": ["Hi."] * 11}, "texts"),
        ("/contextual_speak", HELLO | {"session_id": "a b"}, "session_id"),
        ("/stream_speak", HELLO | {"session_id": "a b"}, "session_id"),
        ("/stream_speak", HELLO | {"voice": "nobody"}, "voice"),
        ("/stream_speak", HELLO | {"stream": True}, "stream"),
        ("/robust_speak", {"text": "1234567 " * 120}, "text"),
    ],
)
def test_a_mistake_is_told_in_the_same_words(faces: Faces, path: str, body: dict[str, Any], field: str) -> None:
    error = faces.ask(path, body)
    assert (error.status_code, error.json()["field"]) == (400, field)


def test_a_voice_from_a_recording_is_the_same(faces: Faces, kokoro_service: Service) -> None:
    recording = b64encode(faces.ask("/speak", HELLO | {"text": "This is how I sound."}).content).decode()
    faces.speak_with(kokoro_service)
    reference = {"reference_audio_b64": recording, "reference_text": "This is how I sound."}
    assert faces.ask("/clone_voice", {"text": "Hello.", "seed": 1} | reference).status_code == 200
    context = [{"text": "This is how I sound.", "audio_b64": recording}, {"text": "Noise.", "audio_b64": "AAAA"}]
    assert faces.ask("/speak", {"text": "Hello.", "context": context}).json()["field"] == "context[1].audio_b64"


def test_more_callers_than_places_are_told_when_to_come_back(faces: Faces, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(slots=1, queue=0, wait_s=1)
    monkeypatch.setattr(faces.service, "gate", gate)
    with gate.place(Caller()):
        for path in ("/speak", "/stream_speak"):
            busy = faces.ask(path, HELLO)
            assert (busy.status_code, busy.headers["retry-after"]) == (429, "1")


def test_a_rejected_take_says_why(faces: Faces, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "failures", lambda *_, **__: ["it is silent"])
    rejected = faces.ask("/quality_speak", HELLO)
    assert rejected.status_code == 500
    assert rejected.json()["detail"].endswith("it is silent")


def test_anything_unforeseen_is_a_500_without_a_trace(faces: Faces, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(caller: Caller) -> None:
        raise ValueError("in /home/somebody/secret.py")

    monkeypatch.setattr(faces.service, "place", broken)
    for path in ("/speak", "/stream_speak"):
        error = faces.ask(path, HELLO)
        assert (error.status_code, error.json()["code"]) == (500, "internal")
        assert "secret" not in error.text and "Traceback" not in error.text


def test_health_is_the_same(faces: Faces) -> None:
    server, chute = (face.get("/health").json() for face in (faces.server, faces.chute))
    assert server.pop("uptime_s") <= chute.pop("uptime_s")
    assert chute == server
