"""The checks of one take. They look at the sound and at how it ended, not at what was asked for."""

from __future__ import annotations

import numpy as np

from audio_utils import Audio

SILENT_PEAK = 0.001
"""-60 dBFS: below it nothing is heard at any usual volume."""
MAX_PEAK = 0.99
MIN_DURATION_MS = 500

CHECKS = ("not silent", f"peak not above {MAX_PEAK}", f"at least {MIN_DURATION_MS} ms", "came to an end")
"""What `failures` looks at, in words."""


def failures(audio: Audio, min_ms: float = MIN_DURATION_MS, *, ran_away: bool = False) -> list[str]:
    """What is wrong with this take, in words; empty where nothing is. ran_away: the engine had to be stopped."""
    found = []
    peak = np.max(np.abs(audio.samples), initial=np.float32(0))
    if not np.isfinite(peak) or peak < SILENT_PEAK:
        found.append(f"silent (peak {peak:.4f}, at least {SILENT_PEAK} wanted)")
    if peak > np.float32(MAX_PEAK):
        found.append(f"clipping (peak {peak:.3f}, at most {MAX_PEAK} wanted)")
    if audio.duration_ms < min_ms:
        found.append(f"too short ({audio.duration_ms:.0f} ms, at least {min_ms:.0f} ms wanted)")
    if ran_away:
        found.append("ran away (went on for longer than its text can take)")
    return found
