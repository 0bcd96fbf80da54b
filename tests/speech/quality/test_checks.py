"""What makes a take fail."""

from __future__ import annotations

import numpy as np
import pytest

from audio_utils import Audio
from speech.quality.checks import failures


def sound(peak: float, ms: float = 600) -> Audio:
    samples = np.zeros(int(24 * ms), np.float32)
    samples[len(samples) // 2] = peak
    return Audio(samples, 24_000)


def test_a_good_take_passes() -> None:
    assert failures(sound(0.5)) == []
    assert failures(sound(0.99)) == []
    assert failures(sound(0.5, ms=500)) == []


@pytest.mark.parametrize(
    ("audio", "word"),
    [(sound(0.0), "silent"), (sound(0.0005), "silent"), (sound(0.995), "clipping"), (sound(0.5, ms=499), "too short")],
)
def test_each_fault_is_named(audio: Audio, word: str) -> None:
    assert [found.split(" (")[0] for found in failures(audio)] == [word]


def test_not_a_number_is_silence() -> None:
    assert failures(sound(float("nan"))) != []


def test_no_samples_at_all() -> None:
    assert len(failures(Audio(np.zeros(0, np.float32), 24_000))) == 2
