"""What the operations do when an engine misbehaves; an engine that follows a script plays it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from audio_utils import Audio
from speech.caller import Caller
from speech.engines.base import EngineInfo, Line, Load
from speech.errors import CallerLeft, EngineFailed, OutOfMemory, QualityRejected, to_http
from speech.operations import OPERATIONS
from speech.reply import Reply
from speech.service import Service
from speech.settings import Settings

RATE_HZ = 24_000


def sound(level: float, ms: float = 800) -> Audio:
    noise = np.random.default_rng(0).uniform(-level, level, int(RATE_HZ * ms / 1000)).astype(np.float32)
    return Audio(noise, RATE_HZ)


GOOD, SILENT, LOUD, SHORT = sound(0.5), sound(0.0), sound(1.0), sound(0.5, ms=200)


class Scripted:
    """Honours the engine protocol; says what its script holds, one entry a line, raising what is an exception."""

    def __init__(self, script: list[Audio | Exception], *, takes: bool = True) -> None:
        self.info = EngineInfo(
            name="scripted",
            model="a script",
            sample_rate_hz=RATE_HZ,
            device="cpu",
            voices=(),
            context="conversation",
            takes=takes,
            sampling=True,
            grain="sentence",
            parallel=1,
        )
        self.said: list[Line] = []
        self.trims = 0
        self.runs_away = 0
        """Takes that are stopped at the most that their text can take."""
        self._script: Iterator[Audio | Exception] = iter(script)

    def start(self) -> None:
        pass

    def voice_of(self, line: Line) -> str | None:
        return None

    def speak(self, line: Line) -> Generator[Audio]:
        self.said.append(line)
        chunks = self._chunks(next(self._script))
        return chunks if len(self.said) > self.runs_away else RanAway(chunks)

    def _chunks(self, entry: Audio | Exception) -> Generator[Audio]:
        if isinstance(entry, Exception):
            raise entry
        yield entry

    def load(self) -> Load:
        return Load()

    def trim(self) -> None:
        self.trims += 1

    def close(self) -> None:
        pass


class RanAway(Generator[Audio, None, None]):
    """Chunks of a take that had to be stopped."""

    ran_away = True

    def __init__(self, chunks: Generator[Audio]) -> None:
        self._chunks = chunks

    def send(self, value: None) -> Audio:
        return self._chunks.send(value)

    def throw(self, *error: Any) -> Audio:
        return self._chunks.throw(*error)


Ask = Callable[..., Reply]


def on(engine: Scripted) -> Ask:
    service = Service(engine, Settings())
    service.start()
    return lambda name, **body: OPERATIONS[name](service, {"text": "Hello.", **body}, Caller())


def test_quality_speak_tries_until_a_take_passes_and_tells_how_often() -> None:
    engine = Scripted([SILENT, LOUD, GOOD])
    reply = on(engine)("quality_speak", seed=10)
    assert reply.headers["X-Quality-Attempts"] == "3"
    assert [line.seed for line in engine.said] == [10, 11, 12]
    assert reply.headers["X-Seed"] == "12", "the seed of the take that was handed over"


def test_quality_speak_tries_again_where_the_engine_ran_away() -> None:
    engine = Scripted([GOOD, GOOD])
    engine.runs_away = 1
    assert on(engine)("quality_speak").headers["X-Quality-Attempts"] == "2"
    engine = Scripted([GOOD])
    engine.runs_away = 1
    with pytest.raises(QualityRejected, match="ran away"):
        on(engine)("robust_speak")


def test_quality_speak_gives_up_after_three_and_says_why() -> None:
    engine = Scripted([SILENT, LOUD, SHORT, GOOD])
    with pytest.raises(QualityRejected, match=r"3 times.*too short"):
        on(engine)("quality_speak")
    assert len(engine.said) == 3


def test_quality_speak_tries_once_where_every_take_is_the_same() -> None:
    engine = Scripted([SILENT, GOOD], takes=False)
    with pytest.raises(QualityRejected, match=r"once.*silent"):
        on(engine)("quality_speak")


def test_robust_speak_checks_once() -> None:
    engine = Scripted([LOUD, GOOD])
    with pytest.raises(QualityRejected, match="clipping"):
        on(engine)("robust_speak")
    assert len(engine.said) == 1


def test_robust_speak_says_the_text_as_it_reads_aloud() -> None:
    engine = Scripted([GOOD])
    on(engine)("robust_speak", text="Dr. Lee & 2 cats!!")
    assert engine.said[0].text == "Doctor Lee and two cats!"


@pytest.mark.parametrize("outcome", [GOOD, RuntimeError("broken")])
def test_optimized_speak_gives_memory_back_however_it_went(outcome: Audio | Exception) -> None:
    engine = Scripted([outcome])
    ask = on(engine)
    if isinstance(outcome, Exception):
        with pytest.raises(EngineFailed):
            ask("optimized_speak")
    else:
        ask("optimized_speak")
    assert engine.trims == 1


@pytest.mark.parametrize(
    ("raised", "told", "status"),
    [
        (MemoryError(), OutOfMemory, 503),
        (OSError("/secret/path"), EngineFailed, 500),
        (KeyError("x"), EngineFailed, 500),
    ],
)
def test_a_failure_of_the_engine_is_told_without_a_trace_and_the_next_request_passes(
    raised: Exception, told: type[OutOfMemory | EngineFailed], status: int
) -> None:
    ask = on(Scripted([raised, GOOD]))
    with pytest.raises(told) as failed:
        ask("robust_speak")
    answered, body, _ = to_http(failed.value)
    assert answered == status
    assert "/" not in body["detail"]
    assert ask("speak").body


def test_a_failed_answer_is_not_cached() -> None:
    ask = on(Scripted([RuntimeError("broken"), GOOD]))
    with pytest.raises(EngineFailed):
        ask("cached_speak")
    assert ask("cached_speak").headers["X-Cache"] == "miss"
    assert ask("cached_speak").headers["X-Cache"] == "hit"


def test_a_failed_turn_is_not_remembered() -> None:
    engine = Scripted([GOOD, RuntimeError("broken"), GOOD])
    ask = on(engine)
    ask("contextual_speak", text="First.", session_id="s")
    with pytest.raises(EngineFailed):
        ask("contextual_speak", text="Second.", session_id="s")
    ask("contextual_speak", text="Third.", session_id="s")
    assert [segment.text for segment in engine.said[-1].context] == ["First."]


def test_each_turn_of_a_conversation_hears_those_before_it() -> None:
    engine = Scripted([GOOD, GOOD, GOOD])
    turns = [{"speaker": number % 2, "text": f"Turn {number}."} for number in range(3)]
    service = Service(engine, Settings())
    service.start()
    OPERATIONS["conversation"](service, {"turns": turns}, Caller())
    assert [[segment.text for segment in line.context] for line in engine.said] == [
        [],
        ["Turn 0."],
        ["Turn 0.", "Turn 1."],
    ]
    assert [segment.speaker for segment in engine.said[2].context] == [0, 1]


def test_a_batch_is_asked_for_before_its_first_text_is_heard() -> None:
    """So an engine that batches has all of them at once."""
    heard_when: list[int] = []

    class Counting(Scripted):
        def _chunks(self, entry: Audio | Exception) -> Generator[Audio]:
            heard_when.append(len(self.said))
            yield from super()._chunks(entry)

    service = Service(Counting([GOOD] * 4), Settings())
    service.start()
    OPERATIONS["batch_speak"](service, {"texts": ["One.", "Two.", "Three.", "Four."]}, Caller())
    assert heard_when == [4, 4, 4, 4]


def test_two_who_speak_in_one_session_at_once_hear_each_other() -> None:
    """The second waits for its turn while the first still speaks."""
    speaking, go_on = threading.Event(), threading.Event()

    class Slow(Scripted):
        def _chunks(self, entry: Audio | Exception) -> Generator[Audio]:
            speaking.set()
            assert go_on.wait(10)
            yield from super()._chunks(entry)

    engine = Slow([GOOD] * 3)
    service = Service(engine, Settings())
    service.start()

    def say(text: str) -> None:
        OPERATIONS["contextual_speak"](service, {"text": text, "session_id": "s"}, Caller())

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(say, "First.")
        assert speaking.wait(10)
        second = pool.submit(say, "Second.")
        while service.gate.waiting == 0:
            time.sleep(0.01)
        go_on.set()
        first.result(10), second.result(10)
    say("Third.")
    heard = [[segment.text for segment in line.context] for line in engine.said]
    assert heard == [[], ["First."], ["First.", "Second."]]


def test_a_batch_tells_that_one_of_its_clips_was_cut() -> None:
    texts = {"texts": ["One.", "Two."], "max_duration_per_text_ms": 1000}

    def truncated(*clips: Audio) -> str:
        service = Service(Scripted(list(clips)), Settings())
        service.start()
        return OPERATIONS["batch_speak"](service, texts, Caller()).headers["X-Truncated"]

    assert truncated(GOOD, GOOD) == "false"
    assert truncated(GOOD, sound(0.5, ms=1200)) == "true"


def test_a_long_turn_leaves_a_short_one_time_to_be_said() -> None:
    engine = Scripted([sound(0.5, ms=90_000)] * 3)
    service = Service(engine, Settings())
    service.start()
    turns = [{"speaker": 0, "text": text, "pause_ms": 0} for text in ("Yes.", "word " * 2000, "No.")]
    OPERATIONS["conversation"](service, {"turns": turns, "max_total_duration_ms": 5000}, Caller())
    allowed_ms = [line.max_duration_ms for line in engine.said]
    assert min(allowed_ms) >= 500
    assert sum(allowed_ms) <= 5000


def test_recordings_of_a_caller_who_left_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(Scripted([GOOD]), Settings())
    service.start()
    monkeypatch.setattr(service, "recording", lambda *_: pytest.fail("decoded for nobody"))
    caller = Caller()
    caller.leave()
    with pytest.raises(CallerLeft):
        OPERATIONS["speak"](service, {"text": "Hi.", "context": [{"text": "x", "audio_b64": "AAAA"}]}, caller)


@pytest.mark.parametrize("response_format", ["wav", "opus", "aac"])
def test_what_the_limit_cut_is_not_too_short(response_format: str) -> None:
    reply = on(Scripted([GOOD]))("robust_speak", max_duration_ms=500, response_format=response_format)
    assert reply.headers["X-Truncated"] == "true"
