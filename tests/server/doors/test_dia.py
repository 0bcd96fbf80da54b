"""The Dia application's door: what it says, how long, in whose voice, and what it makes of a prompt of samples."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
import soundfile

from audio_utils import Audio
from tests import ears
from tests.conftest import ROOT, Served

WOMAN = ears.sound((ROOT / "tests" / "data" / "recordings" / "psx__austen_f.wav").read_bytes())
SCRIPT = "[S1] The train to Paris leaves at noon. (laughs) [S2] Then we should hurry."


def prompt(samples: Any, rate_hz: int = 16_000) -> dict[str, Any]:
    return {"audio_prompt": {"sample_rate": rate_hz, "audio_data": samples}}


def heard(served: Served, **body: Any) -> Audio:
    response = served.speak("/api/generate", **({"text_input": SCRIPT, "seed": 1} | body))
    assert response.headers["content-type"] == "audio/wav"
    return ears.sound(response.content)


def test_the_script_is_heard_without_its_tags_in_two_voices(kokoro: Served) -> None:
    response = kokoro.speak("/api/generate", text_input=SCRIPT)
    assert response.headers["x-voice"] == "af_heart, am_michael"
    assert response.headers["x-left-out"] == "(laughs)"
    audio = ears.sound(response.content)
    assert ears.word_error_rate("The train to Paris leaves at noon. Then we should hurry.", audio) <= 0.1
    size = int.from_bytes(response.content[40:44], "little")
    assert size == len(response.content) - 44, "a WAV that tells its true length"


def test_speed_factor_is_the_pace(hibari: Served) -> None:
    usual_ms = heard(hibari, speed_factor=1).duration_ms
    for factor in (0.5, 0.94, 1.5, 3):
        assert heard(hibari, speed_factor=factor).duration_ms == pytest.approx(usual_ms / factor, rel=0.02)
    assert heard(hibari).duration_ms == heard(hibari, speed_factor=0.94).duration_ms


def test_max_new_tokens_limit_the_length(hibari: Served) -> None:
    for tokens in (86, 172):
        response = hibari.speak("/api/generate", text_input=SCRIPT, max_new_tokens=tokens)
        assert response.headers["x-truncated"] == "true"
        assert ears.sound(response.content).duration_ms == pytest.approx(tokens / 86.13 * 1000, abs=2)


def test_a_prompt_is_heard_whatever_its_numbers_are(kokoro: Served) -> None:
    mono = WOMAN.resampled(16_000).samples[: 3 * 16_000]
    integers = np.rint(mono * 32768).clip(-32768, 32767).astype(int)
    forms = {
        "floats": (integers / 32768).tolist(),
        "integers": integers.tolist(),
        "channels": (np.stack([integers, integers]) / 32768).tolist(),
        "frames": (np.stack([integers, integers], axis=1) / 32768).tolist(),
    }
    voices = {
        form: kokoro.speak("/api/generate", text_input="Yes.", **prompt(samples)).headers["x-voice"]
        for form, samples in forms.items()
    }
    file = io.BytesIO()
    soundfile.write(file, integers.astype(np.int16), 16_000, format="WAV")
    recording = {"reference_audio_b64": base64.b64encode(file.getvalue()).decode(), "reference_text": "Some words."}
    cloned = kokoro.speak("/clone_voice", text="Yes.", **recording).headers["x-voice"]
    assert cloned.startswith("match:")
    assert set(voices.values()) == {cloned}, "every form is the recording that /clone_voice takes as a file"


LOUD = [0.3, -0.3] * 8000


@pytest.mark.parametrize(
    ("field", "problem", "change"),
    [
        ("text_input", "", {"text_input": ""}),
        ("text_input", "", {"text_input": " \n"}),
        ("text_input", "nothing to say", {"text_input": "[S1] (laughs)"}),
        ("text_input", "", {"text_input": None}),
        ("max_new_tokens", "", {"max_new_tokens": 43}),
        ("max_new_tokens", "", {"max_new_tokens": 10**6}),
        ("cfg_scale", "", {"cfg_scale": 11}),
        ("temperature", "", {"temperature": -1}),
        ("top_p", "", {"top_p": 1.1}),
        ("cfg_filter_top_k", "", {"cfg_filter_top_k": 1.5}),
        ("speed_factor", "", {"speed_factor": 0.2}),
        ("audio_prompt", "", {"audio_prompt": "prompt.wav"}),
        ("audio_prompt.sample_rate", "", prompt(LOUD, 3999)),
        ("audio_prompt.sample_rate", "", {"audio_prompt": {"audio_data": LOUD}}),
        ("audio_prompt.audio_data", "", {"audio_prompt": {"sample_rate": 16_000}}),
        ("audio_prompt.audio_data", "empty", prompt([])),
        ("audio_prompt.audio_data", "empty", prompt([[], []])),
        ("audio_prompt.audio_data", "silent", prompt([0.0] * 16_000)),
        ("audio_prompt.audio_data", "silent", prompt([0] * 16_000)),
        ("audio_prompt.audio_data", "only 0.10 s", prompt(LOUD[:1600])),
        ("audio_prompt.audio_data", "longer than 60 s", prompt(LOUD * 16, 4000)),
        ("audio_prompt.audio_data", "not numbers", prompt([*LOUD, float("nan")])),
        ("audio_prompt.audio_data", "full scale", prompt([*LOUD, 1200.5])),
        ("audio_prompt.audio_data", "16 bits", prompt([0, 40_000] * 8000)),
        ("audio_prompt.audio_data", "scale", prompt([10**400] * 2)),
        ("audio_prompt.audio_data", "list of numbers", prompt(["a"] * 16_000)),
        ("audio_prompt.audio_data", "list of numbers", prompt([True] * 16_000)),
        ("audio_prompt.audio_data", "list of numbers", prompt([[LOUD]])),
        ("audio_prompt.audio_data", "different lengths", prompt([LOUD, LOUD[1:]])),
        ("audio_prompt.audio_data", "9 channels", prompt([LOUD] * 9)),
        ("audio_prompt.audio_data", "more samples", prompt([0.5] * 1_000_001)),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_field_is_named(kokoro: Served, field: str, problem: str, change: dict[str, Any]) -> None:
    body = json.dumps({"text_input": "Hi.", **change})
    response = kokoro.http.post("/api/generate", content=body)
    assert response.status_code == 400, response.text[:200]
    assert response.json()["field"] == field
    assert problem in response.json()["detail"]


def test_an_engine_without_ears_refuses_a_prompt(hibari: Served) -> None:
    response = hibari.http.post("/api/generate", json={"text_input": "Hi.", **prompt(LOUD)})
    assert (response.status_code, response.json()["field"]) == (400, "audio_prompt.audio_data")


def test_health(hibari: Served) -> None:
    assert hibari.http.get("/api/health").json()["status"] == "ok"
