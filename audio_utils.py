"""Sound: what it is inside the product, how it comes in, and how it goes out.

Inside, sound is always an `Audio`: mono float32 with its rate. Knows nothing of speech, voices or requests.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Audio:
    """Mono sound. samples: float32[n], nominally within ±1. sample_rate_hz: samples a second."""

    samples: np.ndarray
    sample_rate_hz: int

    @property
    def duration_ms(self) -> float:
        return 1000 * len(self.samples) / self.sample_rate_hz
