"""At which levels each voice is drawn, so that stretches drawn apart are one sound: see kokoro/model.py.

A voice's levels are those of one sentence that holds most sounds of English. Those of the stock voices are stored
(`python -m bench.fit_levels` makes the file); another's are taken when it is first needed, which costs that sentence.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from speech.caller import Caller
from speech.engines import embedded
from speech.engines.base import Line
from speech.engines.kokoro.model import Levels, Model
from speech.engines.kokoro.voices import IDS

STORED = Path(__file__).parent / "data" / "levels.npz"

SENTENCE = "The quick brown fox jumps over the lazy dog, and then she sells sea shells by the sea shore."

STEADY_ROW = 100
"""The row of a voice's table that decides its sound, whatever the length of the sentence: levels hold for one alone."""

SOUND_OF_STYLE = 128
"""The first numbers of a style; the others decide pace and melody, which go with the length."""


def steady_style(table: np.ndarray, row: int) -> np.ndarray:
    """float32[1, 256]: the pace and melody of `row`, in the voice's steady sound."""
    return np.concatenate([table[STEADY_ROW, :SOUND_OF_STYLE], table[row, SOUND_OF_STYLE:]])[np.newaxis]


def taken(model: Model, table: np.ndarray, british: bool, caller: Caller) -> Levels:
    """The levels of the voice whose styles are `table`."""
    (phoneme_string,) = embedded.phonemes(Line(SENTENCE, caller=caller), british=british)
    tokens = embedded.token_ids(phoneme_string)
    return model.levels(model.outline(tokens, steady_style(table, len(tokens) - 3), caller))


@cache
def stored() -> dict[str, Levels]:
    """The levels of the stock voices."""
    with np.load(STORED) as file:
        roots, ends = file["levels"].astype(np.float32), np.cumsum(file["sizes"])[:-1]
    flat = np.sign(roots) * roots**2
    return {id: [each.reshape(1, -1, 1) for each in np.split(of, ends)] for id, of in zip(IDS, flat, strict=True)}


def packed(levels: list[Levels]) -> dict[str, np.ndarray]:
    """What `stored` reads, for the stock voices in their order. As square roots: a variance may exceed a float16."""
    flat = np.stack([np.concatenate([each.reshape(-1) for each in voice]) for voice in levels])
    sizes = np.array([each.size for each in levels[0]])
    return {"levels": (np.sign(flat) * np.sqrt(np.abs(flat))).astype(np.float16), "sizes": sizes}
