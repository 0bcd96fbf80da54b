"""What a recording does to the voice, through HTTP, on the embedded engine: true, audible, and approximate."""

from __future__ import annotations

import base64

import pytest

from audio_utils import Audio
from clients import TTSClient
from tests import ears
from tests.conftest import ROOT, Served

RECORDINGS = ROOT / "tests" / "data" / "recordings"
WOMAN, MAN = RECORDINGS / "psx__austen_f.wav", RECORDINGS / "psx__cards_m.wav"
TEXT = "The garden behind the house was quiet, and the evening light was fading slowly."


def b64(path: object) -> str:
    return base64.b64encode(RECORDINGS.joinpath(str(path)).read_bytes()).decode()


@pytest.fixture(scope="module")
def stock(kokoro: Served) -> dict[int, Audio]:
    return {speaker: ears.sound(kokoro.speak(text=TEXT, speaker=speaker).content) for speaker in (0, 1)}


@pytest.mark.parametrize("recording", [WOMAN, MAN], ids=lambda path: path.stem)
def test_a_clone_is_nearer_to_the_recording_than_the_usual_voices(
    kokoro: Served, stock: dict[int, Audio], recording: object
) -> None:
    response = kokoro.speak("/clone_voice", text=TEXT, reference_audio_b64=b64(recording), reference_text="Some words.")
    assert response.headers["x-voice-match"] == "approximate"
    reference = ears.sound(RECORDINGS.joinpath(str(recording)).read_bytes())
    clone = ears.sound(response.content)
    assert ears.similarity(clone, reference) > max(ears.similarity(stock[each], reference) for each in (0, 1))
    assert ears.word_error_rate(TEXT, clone) <= 0.10


@pytest.mark.parametrize("stream_format", ["sse", "audio"])
def test_a_stream_tells_whether_its_voice_was_matched(kokoro: Served, stream_format: str) -> None:
    def told(**body: object) -> str:
        response = kokoro.speak("/stream_speak", text="Hello.", speaker=0, stream_format=stream_format, **body)
        return response.headers["x-voice-match"]

    assert told() == told(voice="bf_emma") == "exact"
    assert told(context=[{"text": "Some words.", "speaker": 0, "audio_b64": b64(WOMAN)}]) == "approximate"


@pytest.mark.parametrize("path", ["/speak", "/stream_speak", "/contextual_speak", "/quality_speak", "/cached_speak"])
def test_every_header_of_an_answer_is_in_the_reference(hibari: Served, path: str) -> None:
    page = (ROOT / "docs" / "operations.md").read_text("utf-8").lower()
    sent = [name for name in hibari.speak(path, text="Hello.").headers if name.startswith("x-")]
    known = {"x-accel-buffering"}  # for nginx, and not for callers
    assert [name for name in sent if name not in known and f"`{name}`" not in page] == []


def test_context_decides_the_voice_of_its_own_speaker_only(kokoro: Served, stock: dict[int, Audio]) -> None:
    context = [{"text": "Some words.", "speaker": 1, "audio_b64": b64(WOMAN)}]
    other = kokoro.speak(text=TEXT, speaker=0, context=context)
    same = kokoro.speak(text=TEXT, speaker=1, context=context)
    assert other.headers["x-voice"] == "af_heart"
    assert ears.sound(other.content).samples.tolist() == stock[0].samples.tolist()
    woman = ears.sound(WOMAN.read_bytes())
    assert ears.similarity(ears.sound(same.content), woman) > ears.similarity(stock[1], woman)


def test_a_conversation_takes_its_voices_from_context(kokoro: Served) -> None:
    context = [
        {"text": "Some words.", "speaker": 0, "audio_b64": b64(MAN)},
        {"text": "Some words.", "speaker": 1, "audio_b64": b64(WOMAN)},
    ]
    turns = [{"speaker": 0, "text": "Good evening to you."}, {"speaker": 1, "text": "Good evening. Do come in."}]
    response = kokoro.speak("/conversation", turns=turns, context=context)
    assert response.headers["x-voice"].count("match:") == 2
    assert response.headers["x-voice-match"] == "approximate"


def test_a_session_keeps_a_matched_voice_after_its_reference_has_left(kokoro: Served) -> None:
    context = [{"text": "Some words.", "speaker": 0, "audio_b64": b64(WOMAN)}]
    first = kokoro.speak("/contextual_speak", text="Here we go.", speaker=0, context=context)
    session_id = first.headers["x-session-id"]
    for count in range(6):
        later = kokoro.speak("/contextual_speak", text=f"Line {count}.", speaker=0, session_id=session_id)
        assert later.headers["x-voice"] == first.headers["x-voice"]


@pytest.mark.parametrize(("response_format", "speaker"), [("flac", 0), ("mp3", 1)])
def test_its_own_voice_comes_back_as_itself(kokoro: Served, response_format: str, speaker: int) -> None:
    with TTSClient(kokoro.url) as client:
        conversation = client.conversation()
        for text in ("The first turn says a little.", "The second goes on from there.", "And the third is the last."):
            said = conversation.say(text, speaker=speaker, response_format=response_format)
            assert said.voice == ("af_heart", "am_michael")[speaker]


def test_a_different_person_each_time(kokoro: Served) -> None:
    voices = {
        kokoro.speak(
            "/clone_voice", text="Hello.", reference_audio_b64=b64(recording), reference_text="Some words."
        ).headers["x-voice"]
        for recording in (WOMAN, MAN)
    }
    assert len(voices) == 2
