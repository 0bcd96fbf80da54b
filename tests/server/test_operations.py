"""Every operation, through HTTP, on the embedded engines: what it says, how long, in whose voice."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from audio_utils import DecodeLimits, decode
from tests import ears
from tests.conftest import Served

SENTENCES = [
    "Doctor Smith paid 25 dollars for 3 tickets on May 3rd, 2024.",
    "Is Mrs. O'Brien coming to London at 9:15 tomorrow morning?",
    "Mr. Lee & his sister live at 12 Main Street, near the old bridge.",
    "The meeting with Sarah and Professor Jones lasted 2 hours and 40 minutes.",
]
SPEAKING = ["speak", "contextual_speak", "quality_speak", "cached_speak", "optimized_speak", "robust_speak"]
FORMATS = {
    "wav": "audio/wav",
    "flac": "audio/flac",
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "pcm": "application/octet-stream",
}


@pytest.fixture(params=["kokoro", "hibari"])
def served(request: pytest.FixtureRequest) -> Served:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize(("text", "speaker"), [(text, number % 2) for number, text in enumerate(SENTENCES)])
def test_says_what_was_asked(served: Served, text: str, speaker: int) -> None:
    audio = ears.sound(served.speak(text=text, speaker=speaker, seed=1).content)
    assert ears.word_error_rate(text, audio) <= 0.10


@pytest.mark.parametrize("name", SPEAKING)
def test_each_speaking_operation_speaks(served: Served, name: str) -> None:
    response = served.speak(f"/{name}", text="The train to Paris leaves at noon.", seed=1)
    assert response.headers["content-type"] == "audio/wav"
    assert response.headers["content-disposition"].startswith("attachment")
    audio = ears.sound(response.content)
    assert ears.word_error_rate("The train to Paris leaves at noon.", audio) <= 0.15
    assert float(response.headers["x-audio-duration-ms"]) == pytest.approx(audio.duration_ms, abs=1)


@pytest.mark.parametrize("name", SPEAKING)
def test_a_seed_gives_the_same_bytes(hibari: Served, name: str) -> None:
    own_session = [{"session_id": each} for each in "ab"] if name == "contextual_speak" else [{}, {}]
    first, second = (hibari.speak(f"/{name}", text="Once more, the same.", seed=7, **each) for each in own_session)
    assert first.content == second.content
    assert first.headers["x-seed"] == "7"


def test_a_drawn_seed_can_be_asked_for_again(hibari: Served) -> None:
    drawn = hibari.speak(text="A take worth keeping.")
    again = hibari.speak(text="A take worth keeping.", seed=int(drawn.headers["x-seed"]))
    other = hibari.speak(text="A take worth keeping.", seed=int(drawn.headers["x-seed"]) + 1)
    assert drawn.content == again.content != other.content


@pytest.mark.parametrize("response_format", FORMATS)
def test_formats(hibari: Served, response_format: str) -> None:
    text = "The same words in every format."
    wav = ears.sound(hibari.speak(text=text, seed=1).content)
    response = hibari.speak(text=text, seed=1, response_format=response_format)
    assert response.headers["content-type"] == FORMATS[response_format]
    assert f'filename="speech.{response_format}"' in response.headers["content-disposition"]
    if response_format == "pcm":
        samples = np.frombuffer(response.content, "<i2").astype(np.float32) / 32767
        np.testing.assert_allclose(samples, wav.samples, atol=2 / 32767)
    else:
        audio = decode(response.content, field="answer")
        assert audio.duration_ms == pytest.approx(wav.duration_ms, abs=100)
        assert ears.word_error_rate(text, audio) <= 0.10


def test_speakers_are_two_people(kokoro: Served) -> None:
    one, two = "The weather is lovely here in the mountains today.", "I would rather read a book by the fire tonight."
    said = {
        (speaker, text): ears.sound(kokoro.speak(text=text, speaker=speaker).content)
        for speaker in (0, 1)
        for text in (one, two)
    }
    within = min(ears.similarity(said[speaker, one], said[speaker, two]) for speaker in (0, 1))
    between = max(ears.similarity(said[0, a], said[1, b]) for a in (one, two) for b in (one, two))
    assert between < within


@pytest.mark.parametrize("max_duration_ms", [500, 1500, 3000])
@pytest.mark.parametrize("response_format", ["wav", "mp3", "opus", "aac"])
def test_never_longer_than_asked(hibari: Served, max_duration_ms: int, response_format: str) -> None:
    text = (
        "This is a rather long sentence that certainly takes more than three whole seconds to say out loud. And more."
    )
    response = hibari.speak(text=text, max_duration_ms=max_duration_ms, response_format=response_format)
    assert response.headers["x-truncated"] == "true"
    duration_ms = decode(response.content, field="answer", limits=DecodeLimits(min_ms=1)).duration_ms
    assert 0.8 * max_duration_ms < duration_ms <= max_duration_ms


def test_short_enough_is_not_truncated(served: Served) -> None:
    assert served.speak(text="Short.", max_duration_ms=5000).headers["x-truncated"] == "false"


TURNS = (
    (0, "Good morning, how did you sleep last night?", 700),
    (1, "Very well, thank you. And you?", 0),
    (0, "Not a minute.", 1250),
    (1, "I am sorry to hear that.", 2000),
)


@pytest.fixture(scope="module")
def spoken(kokoro: Served) -> ears.Audio:
    """TURNS, as one recording."""
    turns = [{"speaker": speaker, "text": text, "pause_ms": pause} for speaker, text, pause in TURNS]
    return ears.sound(kokoro.speak("/conversation", turns=turns).content)


class TestConversation:
    def test_every_turn_is_heard_in_order(self, spoken: ears.Audio) -> None:
        assert ears.word_error_rate(" ".join(text for _, text, _ in TURNS), spoken) <= 0.10

    def test_pauses_are_as_asked(self, spoken: ears.Audio) -> None:
        long_pauses = [length for _, length in ears.quiet_spans_ms(spoken) if length > 500]
        assert long_pauses == pytest.approx([700, 1250], abs=20)

    def test_no_pause_after_the_last_turn(self, spoken: ears.Audio) -> None:
        start, length = ears.quiet_spans_ms(spoken)[-1]
        assert start + length < spoken.duration_ms - 10 or length < 100

    def test_a_long_turn_is_not_starved(self, kokoro: Served) -> None:
        long = "This turn has a lot to say about the history of the harbour, the ships, and the people who built them."
        turns = [{"speaker": 0, "text": "Go on.", "pause_ms": 100}] * 3 + [{"speaker": 1, "text": long}]
        response = kokoro.speak("/conversation", turns=turns, max_total_duration_ms=14_000)
        audio = ears.sound(response.content)
        assert audio.duration_ms <= 14_000
        assert response.headers["x-truncated"] == "false"
        assert "built them" in ears.heard(audio)

    @pytest.mark.parametrize("total_ms", [5000, 8000])
    def test_never_longer_than_the_total(self, hibari: Served, total_ms: int) -> None:
        turns = [
            {"speaker": i % 2, "text": "Some words that take a good while to say. " * 3, "pause_ms": 300}
            for i in range(6)
        ]
        response = hibari.speak("/conversation", turns=turns, max_total_duration_ms=total_ms)
        assert response.headers["x-truncated"] == "true"
        assert 0.7 * total_ms < ears.sound(response.content).duration_ms <= total_ms

    def test_pauses_that_leave_no_time_are_refused(self, hibari: Served) -> None:
        turns = [{"speaker": 0, "text": "Hi.", "pause_ms": 2000}] * 10
        response = hibari.http.post("/conversation", json={"turns": turns, "max_total_duration_ms": 5000})
        assert response.status_code == 400
        assert response.json()["field"] == "turns"
        assert "max_total_duration_ms" in response.json()["detail"]


class TestBatch:
    TEXTS = ("One apple on the table.", "Two birds in the tree.", "Three boats on the lake.")

    def test_order_is_kept(self, served: Served) -> None:
        clips = served.speak("/batch_speak", texts=self.TEXTS, seed=1).json()
        assert len(clips) == 3
        for text, clip in zip(self.TEXTS, clips, strict=True):
            assert ears.word_error_rate(text, ears.sound(base64.b64decode(clip))) <= 0.2

    def test_each_text_is_as_if_alone(self, served: Served) -> None:
        clips = served.speak("/batch_speak", texts=self.TEXTS, seed=5).json()
        alone = [served.speak(text=text, seed=5).content for text in self.TEXTS]
        assert [base64.b64decode(clip) for clip in clips] == alone

    def test_each_text_within_its_limit(self, hibari: Served) -> None:
        clips = hibari.speak("/batch_speak", texts=["word " * 60, "Short."], max_duration_per_text_ms=1000).json()
        assert all(ears.sound(base64.b64decode(clip)).duration_ms <= 1000 for clip in clips)


class TestSessions:
    def test_a_fresh_session_is_told_and_kept(self, kokoro: Served) -> None:
        first = kokoro.speak("/contextual_speak", text="Hello there.", speaker=0)
        session_id = first.headers["x-session-id"]
        second = kokoro.speak("/contextual_speak", text="Here I am again.", speaker=0, session_id=session_id)
        assert second.headers["x-session-id"] == session_id
        assert kokoro.speak("/contextual_speak", text="Hello.").headers["x-session-id"] != session_id

    def test_quality_checks_are_told(self, served: Served) -> None:
        response = served.speak("/quality_speak", text="Is this good enough for you?")
        assert response.headers["x-quality-attempts"] == "1"
        assert "not silent" in response.headers["x-quality-checks"]


class TestCache:
    def test_a_repeat_is_the_same_bytes_without_the_engine(self, served: Served) -> None:
        first = served.speak("/cached_speak", text="Said once, heard twice.")
        second = served.speak("/cached_speak", text="Said once, heard twice.")
        assert (first.headers["x-cache"], second.headers["x-cache"]) == ("miss", "hit")
        assert first.content == second.content
        assert first.headers["x-seed"] == second.headers["x-seed"]

    @pytest.mark.parametrize(
        "change",
        [
            {"text": "Said once, heard twice!"},
            {"speaker": 0},
            {"max_duration_ms": 900},
            {"seed": 3},
            {"temperature": 0.5},
            {"top_k": 5},
            {"response_format": "flac"},
        ],
        ids=str,
    )
    def test_another_request_never_gets_it(self, hibari: Served, change: dict[str, object]) -> None:
        body = {"text": "Said once, heard twice.", "max_duration_ms": 20_000}
        hibari.speak("/cached_speak", **body)
        other = hibari.speak("/cached_speak", **(body | change))
        assert other.headers["x-cache"] == "miss"
        seed = int(other.headers["x-seed"])
        assert other.content == hibari.speak(**(body | change | {"seed": seed})).content


def test_robust_speak_reads_numbers_and_signs_aloud(served: Served) -> None:
    audio = ears.sound(served.speak("/robust_speak", text="Mr. Fox & Mrs. Hen own 21 eggs!!!", seed=1).content)
    assert ears.word_error_rate("Mister Fox and Missus Hen own twenty-one eggs", audio) <= 0.15


def test_a_short_answer_at_a_fast_pace_passes_its_checks(hibari: Served) -> None:
    assert ears.sound(hibari.speak("/robust_speak", text="Hi.", speed=4).content).duration_ms < 400


def test_robust_speak_refuses_what_is_long_once_written_out(hibari: Served) -> None:
    response = hibari.http.post("/robust_speak", json={"text": "77777 " * 100})
    assert response.status_code == 400
    assert response.json()["field"] == "text"
    assert "1000" in response.json()["detail"]


def test_health(served: Served) -> None:
    health = served.http.get("/health").json()
    assert health["status"] == "ready"
    assert health["engine"] in ("kokoro", "hibari")
    assert {"device", "queue_length", "uptime_s", "notes"} <= health.keys()
