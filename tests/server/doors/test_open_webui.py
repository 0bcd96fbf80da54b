"""Open WebUI's requests as its 0.12.4 makes them (backend/open_webui/routers/audio): with its headers, and without.

The program itself cannot be installed beside the rest. It asks for models and voices without its key.
"""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests import ears
from tests.conftest import Served
from tests.server.conftest import Guarded

USER = {
    "X-OpenWebUI-User-Name": "Jane%20Doe",
    "X-OpenWebUI-User-Id": "3f2a",
    "X-OpenWebUI-User-Email": "jane@example.com",
    "X-OpenWebUI-User-Role": "user",
}


def discovered(url: str) -> tuple[list[str], dict[str, str]]:
    """Models and voices, read as it reads them."""
    models = httpx.get(f"{url}/audio/models").raise_for_status().json().get("models", [])
    fallback = httpx.get(f"{url}/models").raise_for_status().json()
    assert [model["id"] for model in fallback.get("data", fallback.get("models", []))] == [m["id"] for m in models]
    voices = httpx.get(f"{url}/audio/voices").raise_for_status().json()
    return [model["id"] for model in models], {voice["id"]: voice["name"] for voice in voices.get("voices", [])}


def said(url: str, key: str, **payload: Any) -> httpx.Response:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}", **USER}
    return httpx.post(f"{url}/audio/speech", json=payload, headers=headers, timeout=60)


def test_it_finds_voices_and_speaks_with_one(kokoro: Served) -> None:
    models, voices = discovered(f"{kokoro.url}/v1")
    assert models[:2] == ["kokoro", "tts-1"]
    assert {"alloy", "af_heart"} <= voices.keys()
    text = "Your garden will need water tomorrow."
    answer = said(f"{kokoro.url}/v1", "none", input=text, voice="fable", model="tts-1")
    assert answer.headers["content-type"] == "audio/mpeg", "or it would transcode the answer"
    assert answer.headers["x-voice"] == "bm_fable"
    assert ears.word_error_rate(text, ears.sound(answer.content)) <= 0.2


def test_it_finds_them_without_its_key_and_speaks_with_it(guarded: Guarded, key: str) -> None:
    models, voices = discovered(f"{guarded.url}/v1")
    assert "tts-1" in models and "alloy" in voices
    assert said(f"{guarded.url}/v1", key, input="Hello.", voice="alloy", model="tts-1").status_code == 200


@pytest.mark.parametrize(("payload", "words"), [({"input": "Hi.", "voice": "nobody"}, "voice"), ({}, "input")])
def test_it_can_show_what_was_wrong(hibari: Served, payload: dict[str, str], words: str) -> None:
    answer = said(f"{hibari.url}/v1", "none", **payload)
    assert answer.status_code == 400
    message = answer.json()["error"]
    assert words in message.get("message", message)
