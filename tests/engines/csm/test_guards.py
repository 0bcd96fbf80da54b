"""Where a take ends, and how its frames go out."""

from __future__ import annotations

import numpy as np
import pytest

from speech.engines.csm.guards import LOST_AFTER, PAUSE_AT_MOST, Chunks, Ending, Verdict, frame_cap

VOICE = np.full(1920, 0.2, np.float32)
SILENCE = np.zeros(1920, np.float32)


def hear(ending: Ending, *frames: np.ndarray) -> Verdict:
    for samples in frames[:-1]:
        assert ending.hear(samples, ended=False) is Verdict.ON
    return ending.hear(frames[-1], ended=False)


def loud(ending: Ending) -> list[bool]:
    return [bool(np.abs(samples).max() > 0.1) for samples in ending.ready]


def test_the_first_frame_goes_out_at_once_and_a_pause_waits_for_what_follows() -> None:
    ending = Ending(cap=100)
    hear(ending, SILENCE)
    assert loud(ending) == [False]
    hear(ending, SILENCE, SILENCE)
    assert loud(ending) == [False]
    hear(ending, VOICE)
    assert loud(ending) == [False, False, False, True]


def test_trailing_silence_is_trimmed_to_a_breath() -> None:
    ending = Ending(cap=100)
    hear(ending, VOICE, *[SILENCE] * 9)
    assert ending.hear(SILENCE, ended=True) is Verdict.OVER
    assert loud(ending) == [True, False, False]


def test_speech_that_ends_at_once_rings_out_and_fades() -> None:
    ending = Ending(cap=100)
    hear(ending, VOICE)
    assert ending.hear(VOICE, ended=True) is Verdict.OVER
    assert len(ending.ready) == 2
    assert ending.ready[1][0] == pytest.approx(0.2)
    assert ending.ready[1][-1] == 0


def test_a_take_that_never_speaks_is_lost_and_may_begin_again() -> None:
    ending = Ending(cap=100)
    assert hear(ending, *[SILENCE] * LOST_AFTER) is Verdict.LOST
    ending.again()
    assert ending.hear(SILENCE, ended=True) is Verdict.LOST  # it ended before it said anything
    ending.again()
    assert hear(ending, VOICE) is Verdict.ON
    assert loud(ending) == [False, True]


def test_a_take_stops_at_its_cap_and_in_an_endless_pause() -> None:
    ending = Ending(cap=4)
    assert hear(ending, VOICE, VOICE, VOICE, VOICE) is Verdict.OVER
    assert ending.ran_away
    ending = Ending(cap=1000)
    assert hear(ending, VOICE, *[SILENCE] * PAUSE_AT_MOST) is Verdict.OVER
    assert not ending.ran_away
    assert loud(ending) == [True, False, False]


def test_the_cap_grows_with_what_there_is_to_say() -> None:
    assert 25 < frame_cap("Hi.") < frame_cap("Hello there, how are you?") < frame_cap("Hello there, 555 273 1984")
    # An ordinary sentence: 44 letters, about 3 s at an ordinary pace.
    assert 2 * 3 < frame_cap("The quick brown fox jumps over the lazy dog.") * 0.08 < 4 * 3


def test_chunks_grow_from_one_to_four_frames_and_stop_at_the_sample() -> None:
    chunks = Chunks(samples=11 * 1920 + 100)
    sizes = []
    for _ in range(13):
        chunks.put(VOICE)
        got = chunks.take(last=chunks.full)
        if got is not None:
            sizes.append(len(got) / 1920)
    assert sizes[:4] == [1, 2, 4, 4]
    assert sum(sizes) * 1920 == 11 * 1920 + 100
    assert chunks.take(last=True) is None
