"""What the platform sees of each cord: answers wrapped and encrypted, at the cords' internal paths."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from chutes.chute import Chute
from fastapi.testclient import TestClient
from pybase64 import b64decode, b64encode
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response

from speech.operations import OPERATIONS, STREAM_SPEAK
from speech.service import Service
from tests.chute.conftest import LoadChute


class Wrapping(BaseHTTPMiddleware):
    """What the SDK's GraValMiddleware does to a request and its answer, without the keys."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        request.state.serialized = False
        request.state.decrypted = json.loads(await request.body())
        request.state._encrypt = wrap
        return await call_next(request)


def wrap(plain: str | bytes) -> str:
    return b64encode(gzip.compress(plain.encode() if isinstance(plain, str) else plain)).decode()


def unwrap(wrapped: str) -> bytes:
    return gzip.decompress(b64decode(wrapped, validate=True))


@pytest.fixture(scope="module")
def chute(load_chute: LoadChute) -> Chute:
    return load_chute(False, Wrapping)


@pytest.fixture(scope="module")
def instance(chute: Chute) -> TestClient:
    return TestClient(chute)


SPOKEN = {
    "/speak": {"text": "Hello."},
    "/conversation": {"turns": [{"speaker": 0, "text": "Ready?"}]},
    "/contextual_speak": {"text": "Hello."},
    "/quality_speak": {"text": "Hello."},
    "/cached_speak": {"text": "Hello."},
    "/optimized_speak": {"text": "Hello."},
    "/robust_speak": {"text": "Hello."},
}


@pytest.mark.parametrize(("path", "body"), SPOKEN.items())
def test_a_cord_answers_wrapped_audio(instance: TestClient, path: str, body: dict[str, Any]) -> None:
    _is_wrapped_audio(instance.post(path, json=body).json())


def test_clone_voice_answers_wrapped_audio(chute: Chute, instance: TestClient, kokoro_service: Service) -> None:
    spoken = unwrap(instance.post("/speak", json={"text": "This is how I sound."}).json()["body"])
    reference = {"reference_audio_b64": b64encode(spoken).decode(), "reference_text": "This is how I sound."}
    hibari, chute.state.service = chute.state.service, kokoro_service
    try:
        _is_wrapped_audio(instance.post("/clone_voice", json={"text": "Hello."} | reference).json())
    finally:
        chute.state.service = hibari


def _is_wrapped_audio(answer: dict[str, Any]) -> None:
    assert (answer["type"], answer["status_code"], answer["media_type"]) == ("Response", 200, "audio/wav")
    assert answer["headers"]["content-disposition"] == 'attachment; filename="speech.wav"'
    assert unwrap(answer["body"]).startswith(b"RIFF")


def test_batch_speak_answers_a_wrapped_list(instance: TestClient) -> None:
    answer = instance.post("/batch_speak", json={"texts": ["One.", "Two."]}).json()
    assert answer["media_type"] == "application/json"
    clips = json.loads(unwrap(answer["body"]))
    assert [b64decode(clip, validate=True)[:4] for clip in clips] == [b"RIFF", b"RIFF"]


def test_health_is_asked_by_post_inside_the_platform(instance: TestClient) -> None:
    answer = instance.post("/health", json={}).json()
    assert json.loads(unwrap(answer["json"]))["status"] == "ready"


def test_no_cord_was_forgotten(chute: Chute) -> None:
    here = {*SPOKEN, "/clone_voice", "/batch_speak", "/stream_speak", "/health"}
    operations = [*OPERATIONS.values(), STREAM_SPEAK]
    assert {cord.path for cord in chute.cords} == here == {"/health"} | {each.path for each in operations}


@pytest.mark.parametrize("body", [{}, [], None, "", [1], "Hello.", {"text": ""}, {"txt": "Hello."}])
def test_a_mistake_is_a_400_with_the_cure_and_not_wrapped(instance: TestClient, body: Any) -> None:
    """The platform passes the text of a 400 on to the caller as it is."""
    answer = instance.post("/speak", content=json.dumps(body))
    assert answer.status_code == 400
    assert answer.json()["code"] == "invalid_input"
