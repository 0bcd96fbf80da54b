"""What every engine promises, asked of each of them: the protocol in speech/engines/base.py."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from audio_utils import Audio
from speech.caller import Caller
from speech.engines.base import Engine, Line, Segment
from speech.errors import CallerLeft, InvalidInput
from tests.contract.engines import ENGINES

TEXT = "The first sentence is here. The second one follows."


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    make: Callable[..., Engine] = ENGINES[request.param]
    made = make(tmp_path_factory)
    made.start()
    yield made
    made.close()


def say(engine: Engine, line: Line) -> np.ndarray:
    return Audio.join(engine.speak(line)).samples


def line(engine: Engine, **changes: object) -> Line:
    return replace(Line(TEXT, max_duration_ms=2000, seed=1), **changes)  # type: ignore[arg-type]


def noise(engine: Engine, seconds: float = 1.0) -> Audio:
    rate_hz = engine.info.sample_rate_hz
    return Audio(np.random.default_rng(0).standard_normal(int(seconds * rate_hz)).astype(np.float32) * 0.1, rate_hz)


def test_info_is_known_before_the_start_and_after(engine: Engine) -> None:
    info = engine.info
    assert info.name
    assert info.model
    assert info.parallel >= 1
    assert 8_000 <= info.sample_rate_hz <= 48_000
    assert all(note.endswith(".") for note in info.notes)


def test_speaks_mono_float32_at_its_rate_within_full_scale(engine: Engine) -> None:
    chunks = list(engine.speak(line(engine)))
    assert chunks
    for chunk in chunks:
        assert chunk.sample_rate_hz == engine.info.sample_rate_hz
        assert chunk.samples.dtype == np.float32
        assert chunk.samples.ndim == 1
        assert chunk.samples.flags.c_contiguous, "as filters and encoders want it"
        assert np.isfinite(chunk.samples).all()
        assert np.abs(chunk.samples).max(initial=0) <= 1


def test_a_seed_gives_the_same_samples(engine: Engine) -> None:
    first, second = (say(engine, line(engine, seed=11)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_another_seed_gives_another_take_where_the_engine_says_so(engine: Engine) -> None:
    takes = [say(engine, line(engine, seed=seed)) for seed in (1, 2)]
    differ = len(takes[0]) != len(takes[1]) or not np.allclose(*takes, atol=0.02)
    if engine.info.takes:
        assert differ
    if engine.info.name == "kokoro":
        assert not differ


def test_sampling_changes_something_where_the_engine_says_so(engine: Engine) -> None:
    usual, greedy = say(engine, line(engine)), say(engine, line(engine, temperature=0.0))
    assert np.array_equal(usual, greedy) != engine.info.sampling


def test_text_without_a_word_is_refused_before_the_first_chunk(engine: Engine) -> None:
    with pytest.raises(InvalidInput) as refused:
        engine.speak(line(engine, text="…", field="texts[3]"))
    assert refused.value.field == "texts[3]"


def test_context_changes_what_is_heard_where_the_engine_says_so(engine: Engine) -> None:
    if engine.info.context == "none":
        return
    before = (Segment("Some noise.", 1, noise(engine)),)
    alone, after = say(engine, line(engine)), say(engine, line(engine, context=before))
    assert not np.array_equal(alone, after)


def test_its_own_voice_comes_back_as_itself(engine: Engine) -> None:
    voice = engine.voice_of(line(engine))
    if voice is None:
        assert not engine.info.voices
        return
    assert voice in engine.info.voices
    if engine.info.context != "none":
        own = Segment("Anything.", 1, noise(engine), voice=voice)
        assert engine.voice_of(line(engine, context=(own,))) == voice


def test_a_dropped_stream_stops_and_the_engine_goes_on(engine: Engine) -> None:
    expected = say(engine, line(engine))
    for _ in range(2 * engine.info.parallel + 1):
        chunks = engine.speak(line(engine, text=TEXT * 5, max_duration_ms=20_000))
        next(chunks)
        chunks.close()
    np.testing.assert_array_equal(say(engine, line(engine)), expected)


def test_a_caller_that_leaves_ends_its_stream(engine: Engine) -> None:
    caller = Caller()
    chunks = engine.speak(line(engine, text=TEXT * 20, max_duration_ms=60_000, caller=caller))
    next(chunks)
    caller.leave()
    with pytest.raises((CallerLeft, StopIteration)):
        for _ in range(1000):
            next(chunks)
    assert len(say(engine, line(engine)))


@pytest.mark.parametrize("eager", [False, True])
def test_as_many_lines_at_once_as_it_says(engine: Engine, eager: bool) -> None:
    lines = [line(engine, seed=seed, text=f"{TEXT} {seed}.", eager=eager) for seed in range(engine.info.parallel)]
    alone = [say(engine, each) for each in lines]
    together: list[np.ndarray | None] = [None] * len(lines)

    def run(index: int) -> None:
        together[index] = say(engine, lines[index])

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(lines))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for one, other in zip(alone, together, strict=True):
        assert other is not None
        np.testing.assert_array_equal(one, other)


def test_trim_changes_nothing_that_is_heard(engine: Engine) -> None:
    before = say(engine, line(engine))
    engine.trim()
    np.testing.assert_array_equal(say(engine, line(engine)), before)


def test_load_tells_how_many_lines_shared_each_frame(engine: Engine) -> None:
    before = engine.load().batches
    say(engine, line(engine))
    after = engine.load().batches
    if engine.info.grain == "sentence":
        assert after == (), "it makes no frames"
        return
    assert len(after) == engine.info.parallel + 1
    assert sum(after) - sum(before) == after[1] - before[1] > 0, "one line was alone in each of its frames"


@pytest.mark.parametrize("text", ["9" * 1000, "a" * 1000, "é" * 300, "Hi. " * 200, "1/2 @ 3% #4 [x](y) <b>"])
def test_odd_text_is_spoken_or_refused(engine: Engine, text: str) -> None:
    try:
        first = next(engine.speak(line(engine, text=text)))
    except InvalidInput:
        return
    assert len(first.samples)


def test_an_eager_line_is_promised_the_same(engine: Engine) -> None:
    asked = line(engine, eager=True)
    first, second = (list(engine.speak(asked)) for _ in range(2))
    for chunk in first:
        assert chunk.sample_rate_hz == engine.info.sample_rate_hz
        assert chunk.samples.dtype == np.float32
        assert chunk.samples.flags.c_contiguous
        assert len(chunk.samples)
        assert np.abs(chunk.samples).max() <= 1
    np.testing.assert_array_equal(Audio.join(first).samples, Audio.join(second).samples)
    dropped = engine.speak(replace(asked, text=TEXT * 5))
    next(dropped)
    dropped.close()
    np.testing.assert_array_equal(say(engine, asked), Audio.join(first).samples)


def test_an_eager_line_keeps_nobody_waiting_who_has_something_to_hear(engine: Engine) -> None:
    at_once, later = (list(engine.speak(line(engine, eager=True, ahead_ms=ahead_ms))) for ahead_ms in (0.0, 20_000.0))
    assert len(later) <= len(at_once)
    if engine.info.name == "kokoro":
        assert len(later) < len(at_once)
    at_once_ms, later_ms = (Audio.join(chunks).duration_ms for chunks in (at_once, later))
    assert later_ms == pytest.approx(at_once_ms, abs=30), "the same words at the same pace"


def test_an_eager_line_without_a_word_is_refused_before_the_first_chunk(engine: Engine) -> None:
    with pytest.raises(InvalidInput):
        engine.speak(line(engine, text="…", eager=True))
