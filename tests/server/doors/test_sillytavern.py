"""SillyTavern's door, asked as SillyTavern 1.12.6 asks (public/scripts/extensions/tts/xtts.js)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from tests import ears
from tests.conftest import ROOT, Served
from tests.server.conftest import Guarded

TEXT = "The train to Paris leaves at noon."
FETCH = {"Content-Type": "application/json", "Cache-Control": "no-cache", "Origin": "http://localhost:8000"}
AS_LOADED: dict[str, Any] = {
    "temperature": 0.75,
    "speed": 1,
    "length_penalty": 1.0,
    "repetition_penalty": 5.0,
    "top_p": 0.85,
    "top_k": 50,
    "enable_text_splitting": True,
    "stream_chunk_size": 100,
}
AS_MOVED: dict[str, Any] = {name: str(value) for name, value in AS_LOADED.items()} | {"enable_text_splitting": True}
"""A slider's value is text, and once one was moved all of them are read again."""


def changed(http: httpx.Client, settings: dict[str, Any]) -> httpx.Response:
    return http.post("/set_tts_settings", json=settings, headers=FETCH)


def generated(http: httpx.Client, **change: Any) -> httpx.Response:
    body = {"text": TEXT, "speaker_wav": "af_heart", "language": "en"} | change
    return http.post("/tts_to_audio/", json=body, headers=FETCH)


def streamed(http: httpx.Client, **change: Any) -> httpx.Response:
    """What the page's audio element fetches, which sends no headers of ours."""
    params = {"text": TEXT, "speaker_wav": "af_heart", "language": "en"} | change
    return http.get("/tts_stream/?" + urlencode(params), headers={"Range": "bytes=0-"})


def duration_ms(response: httpx.Response) -> float:
    assert response.status_code == 200, response.text
    return ears.sound(response.content).duration_ms


def about(duration_ms: float) -> Any:
    """No seed is asked for here, and the noise in a take moves its edges a little."""
    return pytest.approx(duration_ms, rel=0.05)


@pytest.fixture
def http(hibari: Served) -> Iterator[httpx.Client]:
    """A caller whose settings are forgotten afterwards, as far as that goes: everybody here has one address."""
    yield hibari.http
    assert changed(hibari.http, {}).status_code == 200


def test_the_voices_of_the_extension_s_list(kokoro: Served) -> None:
    speakers = kokoro.http.get("/speakers").json()
    assert len(speakers) == 28
    assert all(set(speaker) == {"name", "voice_id", "preview_url"} for speaker in speakers)
    assert kokoro.http.get("/speakers_list").json() == [speaker["name"] for speaker in speakers]
    assert kokoro.http.get("/languages").json() == {"languages": {"English": "en"}}


def test_what_is_generated_is_heard_in_the_voice_asked_for(kokoro: Served) -> None:
    response = generated(kokoro.http, speaker_wav="bf_emma", text="Good morning.")
    assert response.headers["content-type"].startswith("audio/"), "the extension takes nothing else"
    assert response.headers["x-voice"] == "bf_emma"
    assert ears.heard(ears.sound(response.content)).lower().startswith("good morning")
    assert int.from_bytes(response.content[40:44], "little") == len(response.content) - 44


def test_what_is_streamed_is_heard_in_the_voice_asked_for(kokoro: Served) -> None:
    response = streamed(kokoro.http, speaker_wav="bf_emma.wav", text=f"*She nods & says:* {TEXT}")
    assert response.headers["content-type"] == "audio/wav"
    assert response.headers["x-voice"] == "bf_emma"
    assert response.content[40:44] == b"\xff" * 4, "its length is not known when it begins"
    assert ears.word_error_rate(f"She nods and says: {TEXT}", ears.sound(response.content)) <= 0.15


def test_a_preview_plays_and_is_spoken_once(hibari: Served) -> None:
    (speaker,) = hibari.http.get("/speakers").json()
    first = httpx.get(speaker["preview_url"], headers={"Range": "bytes=0-"}, timeout=60)
    assert first.headers["content-type"] == "audio/wav"
    assert "how I sound" in ears.heard(ears.sound(first.content))
    spoken = hibari.http.get("/stats").json()["audio_seconds"]
    assert httpx.get(speaker["preview_url"]).content == first.content
    assert hibari.http.get("/stats").json()["audio_seconds"] == spoken


def test_there_is_no_preview_of_nobody(hibari: Served) -> None:
    for path in ("/sample/nobody.wav", "/sample/..%2f..%2fetc%2fpasswd", "/sample/"):
        assert hibari.http.get(path).status_code == 404


def test_both_spellings_of_a_path(http: httpx.Client) -> None:
    whole = http.post("/tts_to_audio", json={"text": TEXT})
    assert duration_ms(whole) == about(duration_ms(http.get("/tts_stream", params={"text": TEXT})))


@pytest.mark.parametrize("settings", [AS_LOADED, AS_MOVED], ids=["as loaded", "once a slider was moved"])
def test_speed_is_kept_and_heard_here_only(http: httpx.Client, settings: dict[str, Any]) -> None:
    usual = duration_ms(generated(http))
    elsewhere = duration_ms(http.post("/tts", json={"text": TEXT}))
    answer = changed(http, settings | {"speed": type(settings["speed"])(2)}).json()
    assert answer["settings"]["speed"] == 2
    assert set(answer["ignored"]) == set(AS_LOADED) - {"speed", "enable_text_splitting"}
    assert duration_ms(generated(http)) == about(usual / 2)
    assert duration_ms(streamed(http)) == about(usual / 2)
    assert duration_ms(http.post("/tts", json={"text": TEXT})) == about(elsewhere)


def test_the_settings_of_one_key_are_not_another_s(guarded: Guarded) -> None:
    mine, theirs = guarded.http(guarded.add("mine")), guarded.http(guarded.add("theirs"))
    usual = duration_ms(generated(theirs))
    assert changed(mine, AS_LOADED | {"speed": 2}).status_code == 200
    assert duration_ms(generated(mine)) == about(usual / 2)
    assert duration_ms(generated(theirs)) == about(usual)


def test_where_keys_are_asked_the_list_and_its_previews_still_load(guarded: Guarded) -> None:
    nobody = guarded.http()
    (speaker,) = nobody.get("/speakers").json()
    assert duration_ms(nobody.get(speaker["preview_url"])) > 500
    assert generated(nobody).status_code == streamed(nobody).status_code == 401


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("text", {"text": ""}),
        ("text", {"text": "* * *"}),
        ("speaker_wav", {"speaker_wav": "nobody"}),
        ("speaker_wav", {"speaker_wav": "../../etc/passwd.wav"}),
        ("speaker_wav", {"speaker_wav": "C:\\voices\\me.wav"}),
        ("speaker_wav", {"speaker_wav": "x" * 65}),
        ("language", {"language": "fr"}),
        ("language", {"language": "zh-cn"}),
    ],
    ids=str,
)
def test_a_bad_field_is_named(hibari: Served, field: str, change: dict[str, Any]) -> None:
    for ask in (generated, streamed):
        response = ask(hibari.http, **change)
        assert response.status_code == 400
        assert response.json()["field"] == field
        assert "etc" not in response.json()["detail"]


def test_a_voice_may_have_a_name_that_ends_as_a_file_s(kokoro: Served) -> None:
    recording = (ROOT / "tests" / "data" / "recordings" / "psx__cards_m.wav").read_bytes()
    form = {"data": {"name": "Jane.wav", "consent": "yes"}, "files": {"audio_sample": ("jane.wav", recording)}}
    voice = kokoro.http.post("/v1/audio/voices", **form).raise_for_status().json()
    try:
        assert "Jane.wav" in kokoro.http.get("/speakers_list").json()
        for name in ("Jane.wav", "jane.wav", "Jane.wav.wav", voice["id"], f"{voice['id']}.wav"):
            for ask in (generated, streamed):
                response = ask(kokoro.http, speaker_wav=name, text="Hello.")
                assert response.status_code == 200, response.text
                assert response.headers["x-voice"].startswith("match:")
    finally:
        kokoro.http.delete(f"/v1/audio/voices/{voice['id']}").raise_for_status()


def test_a_stream_without_text(hibari: Served) -> None:
    response = hibari.http.get("/tts_stream/")
    assert (response.status_code, response.json()["field"]) == (400, "text")


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": "hot"},
        {"temperature": 2.1},
        {"speed": 0},
        {"speed": "4.5"},
        {"length_penalty": 11},
        {"repetition_penalty": 0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"enable_text_splitting": "perhaps"},
        {"stream_chunk_size": 0},
    ],
    ids=str,
)
def test_a_bad_setting_is_named_and_not_kept(http: httpx.Client, change: dict[str, Any]) -> None:
    usual = duration_ms(generated(http, text="No."))
    response = changed(http, AS_LOADED | {"speed": 2} | change)
    assert response.status_code == 400
    assert response.json()["field"] == next(iter(change))
    assert duration_ms(generated(http, text="No.")) == about(usual)
