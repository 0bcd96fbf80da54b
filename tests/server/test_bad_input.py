"""What a caller gets wrong: a 400 that names the field and says what would be right; never a trace, never a path."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
import soundfile
from starlette.exceptions import HTTPException

from server.errors import error_response
from speech.operations import OPERATIONS
from tests.conftest import ROOT, Served


def wav_b64(seconds: float, level: float = 0.3, rate_hz: int = 16_000) -> str:
    noise = np.random.default_rng(0).standard_normal(int(seconds * rate_hz)) * level / 3
    file = io.BytesIO()
    soundfile.write(file, noise, rate_hz, format="WAV")
    return base64.b64encode(file.getvalue()).decode()


GOOD_AUDIO = wav_b64(2)
REQUIRED: dict[str, dict[str, Any]] = {
    "conversation": {"turns": [{"speaker": 0, "text": "Hi."}]},
    "clone_voice": {"text": "Hi.", "reference_audio_b64": GOOD_AUDIO, "reference_text": "Some words."},
    "batch_speak": {"texts": ["Hi."]},
}
SAMPLING = [
    ("seed", {"seed": -1}),
    ("seed", {"seed": 1.5}),
    ("seed", {"seed": "1"}),
    ("seed", {"seed": 2**64}),
    ("temperature", {"temperature": -0.1}),
    ("temperature", {"temperature": 2.1}),
    ("temperature", {"temperature": "hot"}),
    ("top_k", {"top_k": 0}),
    ("top_k", {"top_k": 5000}),
    ("response_format", {"response_format": "midi"}),
    ("response_format", {"response_format": None}),
    ("volume", {"volume": 11}),
]
SAID = {"text": "Before.", "audio_b64": GOOD_AUDIO}
SPEAK = [
    ("text", {"text": ""}),
    ("text", {"text": 7}),
    ("text", {"text": None}),
    ("text", {"text": "x" * 10_001}),
    ("text", {"text": "?!"}),
    ("speaker", {"speaker": 2}),
    ("speaker", {"speaker": -1}),
    ("speaker", {"speaker": "1"}),
    ("speaker", {"speaker": True}),
    ("max_duration_ms", {"max_duration_ms": 499}),
    ("max_duration_ms", {"max_duration_ms": 90_001}),
    ("max_duration_ms", {"max_duration_ms": "long"}),
]
CONTEXT = [
    ("context", {"context": "before"}),
    ("context", {"context": [SAID] * 17}),
    ("context[0]", {"context": ["before"]}),
    ("context[0].text", {"context": [{"audio_b64": GOOD_AUDIO}]}),
    ("context[0].audio_b64", {"context": [{"text": "Before."}]}),
    ("context[1].audio_b64", {"context": [SAID, SAID | {"audio_b64": "not base64!"}]}),
    ("context[1].audio_b64", {"context": [SAID, SAID | {"audio_b64": base64.b64encode(b"not audio" * 99).decode()}]}),
    ("context[0].audio_b64", {"context": [SAID | {"audio_b64": ""}]}),
    ("context[0].audio_b64", {"context": [SAID | {"audio_b64": wav_b64(0.2)}]}),
    ("context[0].audio_b64", {"context": [SAID | {"audio_b64": wav_b64(2, level=0)}]}),
    ("context[0].speaker", {"context": [SAID | {"speaker": 3}]}),
    ("context[0].mood", {"context": [SAID | {"mood": "glad"}]}),
]
TURN = {"speaker": 0, "text": "Hi."}
CASES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "speak": SPEAK + CONTEXT,
    "quality_speak": SPEAK + CONTEXT,
    "optimized_speak": SPEAK + CONTEXT,
    "robust_speak": SPEAK + CONTEXT,
    "contextual_speak": [
        *SPEAK,
        *CONTEXT,
        ("session_id", {"session_id": ""}),
        ("session_id", {"session_id": "a/../b"}),
    ],
    "cached_speak": [*SPEAK, ("context", {"context": []})],
    "conversation": [
        *CONTEXT,
        ("turns", {"turns": []}),
        ("turns", {"turns": [TURN] * 51}),
        ("turns", {"turns": {}}),
        ("turns[1].text", {"turns": [TURN, {"speaker": 0}]}),
        ("turns[0].speaker", {"turns": [{"text": "Hi."}]}),
        ("turns[0].pause_ms", {"turns": [TURN | {"pause_ms": 2001}]}),
        ("turns[0].pause_ms", {"turns": [TURN | {"pause_ms": -1}]}),
        ("turns[1].text", {"turns": [TURN, TURN | {"text": "..."}]}),
        ("turns[0].tone", {"turns": [TURN | {"tone": "dry"}]}),
        ("max_total_duration_ms", {"max_total_duration_ms": 4999}),
        ("max_total_duration_ms", {"max_total_duration_ms": 60_001}),
    ],
    "clone_voice": [
        ("text", {"text": ""}),
        ("reference_audio_b64", {"reference_audio_b64": "???"}),
        ("reference_audio_b64", {"reference_audio_b64": wav_b64(0.1)}),
        ("reference_audio_b64", {"reference_audio_b64": None}),
        ("reference_text", {"reference_text": ""}),
        ("max_duration_ms", {"max_duration_ms": 999}),
        ("max_duration_ms", {"max_duration_ms": 30_001}),
    ],
    "batch_speak": [
        ("texts", {"texts": []}),
        ("texts", {"texts": ["Hi."] * 11}),
        ("texts", {"texts": "Hi."}),
        ("texts[1]", {"texts": ["Hi.", ""]}),
        ("texts[1]", {"texts": ["Hi.", "..."]}),
        ("speaker", {"speaker": 2}),
        ("max_duration_per_text_ms", {"max_duration_per_text_ms": 999}),
        ("max_duration_per_text_ms", {"max_duration_per_text_ms": 20_001}),
    ],
}


def body_of(name: str, change: dict[str, Any]) -> dict[str, Any]:
    return {**REQUIRED.get(name, {"text": "Hi."}), **change}


@pytest.mark.parametrize(
    ("name", "field", "change"),
    [(name, field, change) for name, cases in CASES.items() for field, change in cases + SAMPLING],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_field_is_named(kokoro: Served, name: str, field: str, change: dict[str, Any]) -> None:
    response = kokoro.http.post(f"/{name}", json=body_of(name, change))
    assert response.status_code == 400, response.text[:200]
    error = response.json()
    assert error["field"] == field
    assert error["detail"].startswith(f"{field}: ")
    assert "; " in error["detail"], "an error says what would be right"
    assert "Traceback" not in error["detail"]
    assert ".py" not in error["detail"]


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(
    "body", ["{}", "[]", '["Hi."]', '"Hi."', "null", "7", "", "{", "{'text': 1}", "\x00", "[" * 9999]
)
def test_a_body_that_is_no_object(hibari: Served, name: str, body: str) -> None:
    response = hibari.http.post(f"/{name}", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["field"]
    assert "send" in response.json()["detail"]


def test_bytes_that_are_no_text(hibari: Served) -> None:
    response = hibari.http.post("/speak", content=b'{"text": "\xff\xfe"}')
    assert response.status_code == 400
    assert response.json()["field"] == "body"


def test_a_lone_surrogate_is_spoken_or_refused(hibari: Served) -> None:
    for name in ("speak", "cached_speak", "robust_speak"):
        response = hibari.http.post(f"/{name}", content=b'{"text": "Hello \\ud800 there."}')
        assert response.status_code in (200, 400)


def test_of_a_long_name_the_error_names_the_beginning(hibari: Served) -> None:
    response = hibari.http.post("/speak", json={"text": "Hi.", "x" * 1_000_000: 1})
    assert response.status_code == 400
    assert response.json()["field"] == "x" * 80 + "…"
    assert len(response.content) < 1000


def test_a_body_too_large_is_refused_before_it_is_read(hibari: Served) -> None:
    response = hibari.http.post("/speak", content=b" " * (65 << 20))
    assert response.status_code == 413
    assert "64 MB" in response.json()["detail"]


@pytest.mark.parametrize("name", ["speak", "clone_voice", "conversation"])
def test_an_engine_that_cannot_use_a_recording_says_so(hibari: Served, name: str) -> None:
    change = {} if name == "clone_voice" else {"context": [SAID]}
    response = hibari.http.post(f"/{name}", json=body_of(name, change))
    assert response.status_code == 400
    assert "hibari" in response.json()["detail"]


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "..%2f..%2fetc", "/etc/passwd", "C:\\\\x", "a\x00b", "af_heart/../x", "~", "\u202e", " "],
)
def test_a_voice_is_a_name_and_never_a_path(kokoro: Served, name: str) -> None:
    response = kokoro.http.post("/speak", json={"text": "Hi.", "voice": name})
    assert (response.status_code, response.json()["field"]) == (400, "voice")


def test_head_answers_as_get_without_a_body(hibari: Served) -> None:
    head, get = hibari.http.head("/health"), hibari.http.get("/health")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert abs(int(head.headers["content-length"]) - int(get.headers["content-length"])) < 5, "the uptime grows"
    assert hibari.http.head("/speak").status_code == 405


@pytest.mark.parametrize("status", [403, 404, 405, 431])
def test_errors_that_are_not_of_speech_are_in_the_reference(status: int) -> None:
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    code = json.loads(error_response("/speak", HTTPException(status)).body)["code"]
    assert f"| {status} | `{code}` |" in page


def test_an_unknown_path_and_a_wrong_method(hibari: Served) -> None:
    assert hibari.http.get("/nothing").status_code == 404
    wrong = hibari.http.get("/speak")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert wrong.json()["detail"] == "this path takes another method: POST"
    words = "there is nothing at this path; /docs lists what there is"
    assert hibari.http.get("/nothing").json() == {"detail": words, "code": "not_found", "field": None}
    error = hibari.http.get("/v1/nothing").json()["error"]
    assert error == {"message": words, "type": "invalid_request_error", "param": None, "code": "not_found"}
    assert "no such model" in hibari.http.get("/v1/models/none").json()["error"]["message"]
