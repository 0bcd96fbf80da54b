"""The 28 English voices that come with Kokoro-82M.

A voice is a table of styles, float32[510, 256]: row n - 1 is used for a sentence of n phoneme tokens. Of a style the
first 128 numbers shape the sound of the voice and the last 128 its pace and melody.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

TABLES = Path(__file__).parent / "data" / "voices.npz"
IDS = (
    "af_alloy",
    "af_aoede",
    "af_bella",
    "af_heart",
    "af_jessica",
    "af_kore",
    "af_nicole",
    "af_nova",
    "af_river",
    "af_sarah",
    "af_sky",
    "am_adam",
    "am_echo",
    "am_eric",
    "am_fenrir",
    "am_liam",
    "am_michael",
    "am_onyx",
    "am_puck",
    "am_santa",
    "bf_alice",
    "bf_emma",
    "bf_isabella",
    "bf_lily",
    "bm_daniel",
    "bm_fable",
    "bm_george",
    "bm_lewis",
)


@dataclass(frozen=True, slots=True)
class Voice:
    """A stock voice. id: Kokoro's own, as in "af_heart": accent (a, b), gender (f, m), name."""

    id: str

    @property
    def name(self) -> str:
        return self.id[3:].capitalize()

    @property
    def language(self) -> Literal["en-US", "en-GB"]:
        return "en-GB" if self.id[0] == "b" else "en-US"

    @property
    def british(self) -> bool:
        return self.language == "en-GB"

    @property
    def gender(self) -> Literal["female", "male"]:
        return "female" if self.id[1] == "f" else "male"


VOICES: dict[str, Voice] = {id: Voice(id) for id in IDS}


def style_table(voice_id: str) -> np.ndarray:
    """float32[510, 256], not to be written to. Raises ValueError for an unknown voice."""
    return style_tables()[IDS.index(voice_id)]


@cache
def style_tables() -> np.ndarray:
    """float32[28, 510, 256], in the order of IDS, not to be written to."""
    with np.load(TABLES) as stored:
        tables = np.stack([stored[id] for id in IDS]).astype(np.float32)
    tables.flags.writeable = False
    return tables
