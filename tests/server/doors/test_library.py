"""The voice-library server's door: chunks are what /analyze says, tags are speakers, and what has no effect is told."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests import ears
from tests.conftest import Served

SCRIPT = "[S1] Did you see the lake? It was covered in fog. (laughs) [S2] I did not. I was asleep until nine, I fear."
CHUNKS = ["Did you see the lake?", "It was covered in fog.", "I did not.", "I was asleep until nine,", "I fear."]
SPEAKERS = [0, 0, 1, 1, 1]
SIZE = 26


@pytest.fixture(scope="module")
def spoken(kokoro: Served) -> httpx.Response:
    return kokoro.speak("/tts", text=SCRIPT, chunk_size=SIZE, output_format="wav")


def test_chunks_end_at_tags_and_sentences_and_within_the_size(kokoro: Served) -> None:
    told = kokoro.speak("/analyze", text=SCRIPT, chunk_size=SIZE).json()
    assert told["chunks"] == CHUNKS
    assert (told["num_chunks"], told["speakers"], told["left_out"]) == (5, SPEAKERS, ["laughs"])
    assert told["original_length"] == len(SCRIPT)


def test_what_is_analysed_is_what_is_spoken(hibari: Served) -> None:
    whole = hibari.speak("/tts", text=SCRIPT, chunk_size=SIZE, seed=7)
    assert whole.headers["x-chunks"] == "5"
    each = [hibari.speak(text=text, seed=7 + number).content[44:] for number, text in enumerate(CHUNKS)]
    assert whole.content[44:] == b"".join(each)


def test_its_words_are_heard_in_two_voices(spoken: httpx.Response) -> None:
    assert spoken.headers["x-left-out"] == "(laughs)"
    assert spoken.headers["x-voice"] == "af_heart, am_michael"
    assert ears.word_error_rate(" ".join(CHUNKS), ears.sound(spoken.content)) <= 0.1


def test_the_estimate_is_near(kokoro: Served, spoken: httpx.Response) -> None:
    told = kokoro.speak("/analyze", text=SCRIPT, chunk_size=SIZE).json()
    assert told["estimated_audio_seconds"] == pytest.approx(ears.sound(spoken.content).duration_ms / 1000, rel=0.3)
    assert told["estimated_generation_time"] > 0


def test_a_text_may_come_in_the_query_as_the_replaced_server_took_it(hibari: Served) -> None:
    wanted = {"text": "One sentence here. And another one there.", "chunk_size": 25}
    assert hibari.http.post("/analyze", params=wanted).json() == hibari.http.post("/analyze", json=wanted).json()
    assert hibari.http.post("/analyze", params=wanted).json()["num_chunks"] == 2


def test_what_the_query_leaves_out_is_taken_from_the_body(hibari: Served) -> None:
    text = "One sentence here. And another one there."
    told = hibari.http.post("/analyze", params={"chunk_size": 25}, json={"text": text})
    assert told.json() == hibari.http.post("/analyze", json={"text": text, "chunk_size": 25}).json()
    both = {"text": text, "chunk_size": 120}
    assert hibari.http.post("/analyze", params={"chunk_size": 25}, json=both).json()["num_chunks"] == 1
    assert hibari.http.post("/analyze", params={"text": "One."}, json=both).json()["chunks"] == ["One."]


@pytest.mark.parametrize("body", ["", "7", '"Hi."', '["Hi."]', "null", "{"])
def test_beside_a_query_a_body_that_is_no_object_is_refused(hibari: Served, body: str) -> None:
    response = hibari.http.post("/analyze", params={"chunk_size": 25}, content=body)
    assert response.status_code == 400
    assert response.json()["field"] in ("body", "text")
    assert "send a JSON object" in response.json()["detail"]


def test_without_chunking_pieces_end_at_tags_only(hibari: Served) -> None:
    told = hibari.speak("/analyze", text=SCRIPT, enable_chunking=False).json()
    assert told["speakers"] == [0, 1]
    assert hibari.speak("/tts", text=SCRIPT, enable_chunking=False).headers["x-chunks"] == "2"


def test_who_speaks(kokoro: Served) -> None:
    def voice(**body: Any) -> str:
        return kokoro.speak("/tts", **({"text": "Yes."} | body)).headers["x-voice"]

    assert voice(voice_mode="single_s2", text="Yes. [S1] No.") == "am_michael, af_heart"
    assert voice(voice_id="alloy") == "af_alloy"
    assert voice(voice_mode="voice_library", voice_id="bf_emma", text="[S1] Yes. [S2] No.") == "bf_emma"


def test_a_seed_gives_the_same_audio(hibari: Served) -> None:
    first, second = (hibari.speak("/tts", text=SCRIPT, seed=3).content for _ in range(2))
    assert first == second != hibari.speak("/tts", text=SCRIPT, seed=4).content


def test_what_the_engine_cannot_heed_is_told(hibari: Served) -> None:
    sent = {"cfg_scale": 4.0, "temperature": 1.0, "top_p": 0.9, "cfg_filter_top_k": 30}
    response = hibari.speak("/tts", text="Hello.", **sent)
    assert response.headers["x-ignored"] == "cfg_scale, temperature, top_p, cfg_filter_top_k"
    assert "x-ignored" not in hibari.speak("/tts", text="Hello.").headers


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("text", {"text": ""}),
        ("text", {"text": "[S1] (laughs) [S2] (sighs)"}),
        ("voice_mode", {"voice_mode": "choir"}),
        ("voice_id", {"voice_mode": "voice_library"}),
        ("voice_id", {"voice_mode": "single_s1", "voice_id": "af_heart"}),
        ("voice_id", {"voice_id": "nobody"}),
        ("voice_id", {"voice_id": "../../etc/passwd"}),
        ("enable_chunking", {"enable_chunking": "yes"}),
        ("chunk_size", {"chunk_size": 19}),
        ("chunk_size", {"chunk_size": 1001}),
        ("seed", {"seed": -1}),
        ("cfg_scale", {"cfg_scale": 0.5}),
        ("temperature", {"temperature": 2.5}),
        ("top_p", {"top_p": 0}),
        ("cfg_filter_top_k", {"cfg_filter_top_k": 0}),
        ("output_format", {"output_format": "midi"}),
    ],
    ids=str,
)
def test_a_bad_field_is_named(hibari: Served, field: str, change: dict[str, Any]) -> None:
    response = hibari.http.post("/tts", json={"text": "Hi.", **change})
    assert response.status_code == 400
    assert response.json()["field"] == field
    assert response.json()["detail"].startswith(f"{field}: ")


def test_analyze_names_its_bad_fields(hibari: Served) -> None:
    for body, field in (({}, "text"), ({"text": "Hi.", "chunk_size": 1}, "chunk_size"), ({"text": "[S1]"}, "text")):
        response = hibari.http.post("/analyze", json=body)
        assert (response.status_code, response.json()["field"]) == (400, field)


def test_voices_are_those_that_can_be_named(kokoro: Served) -> None:
    voices = {voice["voice_id"]: voice["kind"] for voice in kokoro.http.get("/voices").json()}
    assert list(voices.values()).count("builtin") == 28
    assert voices["af_heart"] == "builtin"
    assert voices["alloy"] == "alias"


def test_stats_count_what_was_spoken(hibari: Served) -> None:
    before = hibari.http.get("/stats").json()
    audio_s = ears.sound(hibari.speak(text="A sentence that counts.").content).duration_ms / 1000
    assert hibari.http.post("/tts", json={"text": "Hi.", "voice_id": "nobody"}).status_code == 400
    after = hibari.http.get("/stats").json()
    assert after["requests"]["answered"] == before["requests"]["answered"] + 1
    assert after["requests"]["failed"] == before["requests"]["failed"] + 1
    assert after["audio_seconds"] - before["audio_seconds"] == pytest.approx(audio_s, abs=0.11)
    assert after["model_loaded"] is True
    assert after["uptime_seconds"] >= before["uptime_seconds"]
    assert after["requests"]["waiting"] == 0
