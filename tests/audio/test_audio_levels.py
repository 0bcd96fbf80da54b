"""Silence is trimmed without eating speech, and a cut does not click."""

from __future__ import annotations

import numpy as np
import pytest

from audio_utils import Audio, fade_out, peak, trim_silence
from tests.audio import sounds

RATE_HZ = 24_000


def noise(ms: float, level: float) -> np.ndarray:
    """White noise that peaks at `level`."""
    samples = np.random.default_rng(3).normal(size=round(ms * RATE_HZ / 1000))
    return (samples / np.abs(samples).max() * level).astype(np.float32)


def test_peak() -> None:
    assert peak(Audio(np.array([0.1, -0.7, 0.5], np.float32), RATE_HZ)) == pytest.approx(0.7)
    assert peak(Audio(np.zeros(0, np.float32), RATE_HZ)) == 0


def test_silence_goes_and_a_soft_fricative_stays() -> None:
    """A vowel at 0.6 after an "f" 40 dB below it, between breaths of quiet noise 66 dB below it."""
    quiet, fricative, vowel = noise(400, 0.0003), noise(80, 0.006), sounds.voice(0.5)
    audio = Audio(np.concatenate([quiet, fricative, vowel, quiet]), RATE_HZ)
    trimmed = trim_silence(audio, keep_ms=0)
    start = audio.samples.tolist().index(trimmed.samples[0])
    assert start == pytest.approx(len(quiet), abs=0.005 * RATE_HZ)
    assert len(trimmed.samples) == pytest.approx(len(fricative) + len(vowel), abs=0.02 * RATE_HZ)


def test_keep_ms_is_kept_on_both_sides_and_no_more_than_there_is() -> None:
    samples = np.zeros(RATE_HZ, np.float32)
    samples[[12_000, 13_000]] = 0.5
    trimmed = trim_silence(Audio(samples, RATE_HZ), keep_ms=10)
    np.testing.assert_array_equal(trimmed.samples, samples[12_000 - 240 : 13_001 + 240])
    np.testing.assert_array_equal(trim_silence(Audio(samples, RATE_HZ), keep_ms=9999).samples, samples)


def test_the_threshold_is_relative_to_the_peak() -> None:
    samples = np.zeros(1000, np.float32)
    samples[[100, 500, 900]] = [0.009, 0.5, 0.004]  # -35 and -42 dB of the peak
    assert len(trim_silence(Audio(samples, RATE_HZ), keep_ms=0, threshold_db=-40).samples) == 401
    assert len(trim_silence(Audio(samples / 100, RATE_HZ), keep_ms=0, threshold_db=-40).samples) == 401
    assert len(trim_silence(Audio(samples, RATE_HZ), keep_ms=0, threshold_db=-50).samples) == 801


@pytest.mark.parametrize("n", [0, 1000])
def test_silence_throughout_is_left_as_it_is(n: int) -> None:
    assert len(trim_silence(Audio(np.zeros(n, np.float32), RATE_HZ)).samples) == n


def test_fade_out_falls_to_zero_and_touches_nothing_before() -> None:
    audio = Audio(np.full(2400, 0.5, np.float32), RATE_HZ)
    faded = fade_out(audio, 20).samples
    assert faded.dtype == np.float32
    np.testing.assert_array_equal(faded[:1920], 0.5)
    assert faded[-1] == pytest.approx(0, abs=1e-7)
    assert np.all(np.diff(faded[1920:]) <= 0)
    assert audio.samples[-1] == 0.5, "the sound given is not changed"
    assert fade_out(audio, 9999).samples[0] == 0.5
    assert len(fade_out(Audio(np.zeros(0, np.float32), RATE_HZ), 20).samples) == 0


def test_a_cut_is_never_longer_than_asked_and_does_not_click() -> None:
    audio = Audio(sounds.voice(1.0), RATE_HZ)
    cut = audio.cut(333.33)
    assert 333.2 < cut.duration_ms <= 333.33
    assert cut.samples[-1] == pytest.approx(0, abs=1e-7)
    np.testing.assert_array_equal(cut.samples[:-240], audio.samples[: len(cut.samples) - 240])


def test_what_is_short_enough_is_not_cut() -> None:
    audio = Audio(sounds.voice(1.0), RATE_HZ)
    assert audio.cut(1000) is audio
    assert audio.cut(5000) is audio


def test_silence_and_join() -> None:
    joined = Audio.join(
        [Audio(np.ones(10, np.float32), 8000), Audio.silence(2.5, 8000), Audio(np.ones(5, np.float32), 8000)]
    )
    np.testing.assert_array_equal(joined.samples, [1] * 10 + [0] * 20 + [1] * 5)
    assert joined.sample_rate_hz == 8000
    assert joined.samples.dtype == np.float32


@pytest.mark.parametrize("rates_hz", [[], [8000, 16_000]])
def test_only_one_rate_is_joined(rates_hz: list[int]) -> None:
    with pytest.raises(ValueError, match="exactly one rate"):
        Audio.join(Audio.silence(10, rate_hz) for rate_hz in rates_hz)


@pytest.mark.parametrize(("from_hz", "to_hz"), [(48_000, 24_000), (16_000, 24_000), (44_100, 24_000)])
def test_resampling_keeps_length_pitch_and_level(from_hz: int, to_hz: int) -> None:
    tone = Audio(np.sin(2 * np.pi * 440 * np.arange(from_hz) / from_hz).astype(np.float32), from_hz)
    heard = tone.resampled(to_hz)
    assert heard.sample_rate_hz == to_hz
    assert heard.samples.dtype == np.float32
    assert heard.duration_ms == pytest.approx(1000, abs=0.1)
    inside = slice(to_hz // 10, -to_hz // 10)  # away from the ends, where the sound begins and stops at once
    np.testing.assert_allclose(
        heard.samples[inside], np.sin(2 * np.pi * 440 * np.arange(to_hz) / to_hz)[inside], atol=1e-3
    )


def test_resampling_takes_out_what_the_new_rate_cannot_hold() -> None:
    whistle = Audio(np.sin(2 * np.pi * 15_000 * np.arange(48_000) / 48_000).astype(np.float32), 48_000)
    assert sounds.level(whistle.resampled(24_000)) < 0.01


def test_resampling_to_the_same_rate_is_nothing() -> None:
    audio = Audio(sounds.voice(0.5), RATE_HZ)
    assert audio.resampled(RATE_HZ) is audio
