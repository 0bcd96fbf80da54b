"""A sentence handed over while the rest of it is still being made, without a seam.

A model that first outlines the whole sentence and then draws its sound draws it stretch by stretch: the first short,
each next one as long as can be made while the listener hears what came before. Neighbours overlap by a frame, in which
both sound the same, and meet where the voice is low. Knows no model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

EDGE_MS = (50, 100)
"""Drawn before and after a sentence's sound, so that its soft ends are complete: a voice begins at once and fades. The
rest of the silence around it is not drawn."""

LEAST_MS = 400
"""No stretch at a sentence's end is shorter: one that begins and ends in nothing has no level to go by."""

EARLIEST = 0.75
"""A stretch may be as much shorter than it might be, to end where the voice is low."""

SOUNDING = 0.3
"""A frame sounds from this far up between the silence at the edges and the loudest."""

KNEE = 0.8
"""Where `bounded` begins."""

SILENT_DB = -50
"""Below the loudest, like audio_utils.trim_silence: a soft fricative is 30 to 45 dB below the vowels."""


@dataclass(slots=True)
class Pace:
    """How much to make next. By arithmetic and not by the clock: the same text is cut the same way every time.

    rtf: the most that a second of sound costs, in seconds, on a machine where speaking must not falter. first_ms: the
    first stretch. most_ms: the longest. overhead_ms: drawn with each stretch and not heard, by kokoro. ahead_ms: made
    and not yet heard.
    """

    rtf: float
    ahead_ms: float = 0
    first_ms: float = 500
    most_ms: float = 4000
    overhead_ms: float = 125

    def next_ms(self) -> float:
        return min(self.most_ms, max(self.first_ms, self.ahead_ms / self.rtf - self.overhead_ms))

    def made(self, ms: float) -> None:
        self.took(self.rtf * (ms + self.overhead_ms))
        self.ahead_ms += ms

    def took(self, ms: float) -> None:
        """So long the listener heard on, and no sound was made."""
        self.ahead_ms = max(0, self.ahead_ms - ms)


def stretches(loudness: np.ndarray, frame_ms: float, pace: Pace) -> list[tuple[int, int]]:
    """Where each stretch of a sentence begins and ends, in frames; the silence around it is in none.

    loudness: of each frame, on any scale that rises with the level.
    """
    start, end = _sounding(loudness, frame_ms)
    smooth = np.convolve(np.pad(loudness, 1, mode="edge"), [0.25, 0.5, 0.25], "valid")
    found = []
    while start < end:
        size = int(pace.next_ms() / frame_ms)
        stop = end
        if end - start > size + LEAST_MS / frame_ms:
            earliest = start + int(EARLIEST * size)
            stop = earliest + int(np.argmin(smooth[earliest : start + size + 1]))
        found.append((start, stop))
        pace.made((stop - start) * frame_ms)
        start = stop
    return found


def drawn(
    parts: list[tuple[int, int]], sound: Callable[[int, int], np.ndarray], keep_samples: int
) -> Iterator[np.ndarray]:
    """The sound of `parts`, each cross-faded into the next over a frame, with `keep_samples` of silence at both ends.

    sound: gives the frames from one up to another, as float32[n].
    """
    tail = np.zeros(0, np.float32)
    loudest = 0.0
    for number, (start, stop) in enumerate(parts):
        last = number == len(parts) - 1
        samples = sound(start, stop if last else stop + 1)
        loudest = max(loudest, float(np.abs(samples).max(initial=0)))
        fade = np.linspace(0, 1, len(tail), dtype=np.float32)
        samples = np.concatenate([tail * (1 - fade) + samples[: len(tail)] * fade, samples[len(tail) :]])
        if not last:
            frame = len(samples) // (stop + 1 - start)
            samples, tail = samples[:-frame], samples[-frame:]
        heard = np.flatnonzero(np.abs(samples) > loudest * 10 ** (SILENT_DB / 20))
        if last and len(heard):
            backwards = _edged(samples[::-1], len(samples) - 1 - int(heard[-1]), keep_samples)
            samples = np.ascontiguousarray(backwards[::-1])
        if not number and len(heard):
            samples = _edged(samples, int(heard[0]), keep_samples)
        yield bounded(samples)


def _edged(samples: np.ndarray, silent: int, keep: int) -> np.ndarray:
    """`samples`, whose sound begins after `silent` of them, with `keep` of silence before it."""
    if silent >= keep:
        return samples[silent - keep :]
    fade = np.ones(len(samples), np.float32)
    fade[:silent] = np.linspace(0, 1, silent, dtype=np.float32)
    return np.concatenate([np.zeros(keep - silent, np.float32), samples * fade])


def bounded(samples: np.ndarray) -> np.ndarray:
    """`samples` within full scale, bent above `KNEE` and untouched below: neighbours need not agree on a gain."""
    over = np.abs(samples) - KNEE
    if not (over > 0).any():
        return samples
    bent = KNEE + (1 - KNEE) * np.tanh(np.maximum(over, 0) / (1 - KNEE))
    return np.where(over > 0, np.sign(samples) * bent, samples).astype(np.float32)


def _sounding(loudness: np.ndarray, frame_ms: float) -> tuple[int, int]:
    """From the first frame that sounds to the last, with the edges."""
    before, after = (round(edge_ms / frame_ms) for edge_ms in EDGE_MS)
    least = loudness.min() + SOUNDING * np.ptp(loudness)
    sounding = np.flatnonzero(loudness >= least)
    return max(0, int(sounding[0]) - before), min(len(loudness), int(sounding[-1]) + 1 + after)
