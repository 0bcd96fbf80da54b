"""Where a take ends: by itself, at its cap, in silence, or again from the start.

Knows samples and frames, no model. A frame is 80 ms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

FRAME_MS = 80

# The longest a text may take, roughly two and a half times what it takes at an ordinary pace (15 letters a second):
# what goes on longer is not reading the text any more.
BASE_MS, LETTER_MS, DIGIT_MS, OTHER_SCRIPT_MS = 2000, 150, 600, 400

SILENCE_PEAK = 10 ** (-54 / 20)
"""A frame that stays below -54 dB of full scale is silent."""

KEPT_SILENCE = 2
"""Silent frames that stay at the end: 160 ms."""

LOST_AFTER = 25
"""A take that has been silent for its first 2 s has lost its way."""

PAUSE_AT_MOST = 40
"""No pause within speech lasts 3.2 s: a take that is silent for so long after it spoke is over."""


def frame_cap(text: str) -> int:
    """The most frames `text` may take to say."""
    ms = BASE_MS
    for char in text:
        ms += DIGIT_MS if char.isdigit() else LETTER_MS if char.isascii() else OTHER_SCRIPT_MS
    return math.ceil(ms / FRAME_MS)


class Verdict(Enum):
    """What becomes of a take after a frame. LOST: nothing but silence so far; another take may do better."""

    ON = "on"
    OVER = "over"
    LOST = "lost"


@dataclass(slots=True)
class Ending:
    """Watches one take, holds silence back until sound follows it, and says when it is over.

    cap: frames it may take. What it lets through goes to `ready`, float32[n] each. ran_away: whether the cap ended it.
    """

    cap: int
    ready: list[np.ndarray] = field(default_factory=list)
    ran_away: bool = False
    _held: list[np.ndarray] = field(default_factory=list)
    _frames: int = 0
    _spoke: bool = False
    _let_through: int = 0

    def hear(self, samples: np.ndarray, *, ended: bool) -> Verdict:
        """One frame, float32[n]. ended: the model said so; `samples` is then the decoder's ringing out."""
        self._frames += 1
        if ended:
            return self._finish(tail=samples)
        if np.max(np.abs(samples)) >= SILENCE_PEAK:
            self._spoke = True
            self._release(len(self._held))
            self._let(samples)
        elif self._let_through == 0:
            # The first frame goes out at once, whatever it is: a listener's player starts on it.
            self._let(samples)
        else:
            self._held.append(samples)
        if not self._spoke and self._frames >= min(LOST_AFTER, self.cap):
            return Verdict.LOST
        self.ran_away = self._frames >= self.cap
        if self.ran_away or len(self._held) >= PAUSE_AT_MOST:
            return self._finish(tail=None)
        return Verdict.ON

    def again(self) -> None:
        """A new take begins in this one's place; what was held back of it is dropped."""
        self._held.clear()
        self._frames = 0

    def give_up(self) -> None:
        """No further take: what little there is goes out."""
        self._release(min(len(self._held), KEPT_SILENCE))
        self._held.clear()

    def _finish(self, *, tail: np.ndarray | None) -> Verdict:
        if not self._spoke:
            return Verdict.LOST
        if self._held:
            self._release(KEPT_SILENCE)
            self._held.clear()
        elif tail is not None:
            self._let(tail * np.linspace(1, 0, len(tail), dtype=np.float32))
        return Verdict.OVER

    def _release(self, count: int) -> None:
        for samples in self._held[:count]:
            self._let(samples)
        del self._held[:count]

    def _let(self, samples: np.ndarray) -> None:
        self.ready.append(samples)
        self._let_through += 1


class Chunks:
    """Frames into chunks of 1, then 2, then 4: the first as soon as there is anything, later ones less often."""

    SIZES = (1, 2, 4)

    def __init__(self, *, samples: int) -> None:
        """samples: cut there at the latest."""
        self._left = samples
        self._waiting: list[np.ndarray] = []
        self._given = 0

    @property
    def full(self) -> bool:
        """Whether all that may go out has gone in."""
        return self._left <= 0

    def put(self, samples: np.ndarray) -> None:
        # The codec may exceed full scale by a little; the product's sound never does.
        taken = np.clip(samples[: max(0, self._left)], -1.0, 1.0)
        self._left -= len(taken)
        if len(taken):
            self._waiting.append(taken)

    def take(self, *, last: bool) -> np.ndarray | None:
        """The next chunk, float32[n], or None where it is not full yet; `last` takes what there is."""
        size = self.SIZES[min(self._given, len(self.SIZES) - 1)]
        if not self._waiting or (len(self._waiting) < size and not last):
            return None
        chunk = np.concatenate(self._waiting)
        self._waiting = []
        self._given += 1
        return chunk
