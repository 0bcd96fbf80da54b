"""From a recording of somebody to the Kokoro style that comes nearest: an approximate match, not a clone.

The recording becomes a speaker embedding (speaker_embedding.py). One linear map takes that to a style; it was fitted
on synthesised styles (bench/fit_voice_match.py). The same fit left the mean embedding of each stock voice, which
serves two ends: a recording made by a stock voice is recognised as that voice, and a person whom a stock voice comes
nearer to than the fitted style would gets the stock voice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from audio_utils import Audio
from speech.engines.kokoro.speaker_embedding import embed
from speech.engines.kokoro.voices import IDS, style_tables

FITTED = Path(__file__).parent / "data" / "voice_match.npz"

DEFAULT = "af_heart"
"""Whom silence is matched to."""

OWN_VOICE = 0.85
"""A recording this near to a stock voice was made by it: Kokoro's clips score 0.88 and more, people 0.81 at most."""

STRETCH = 1.3
"""A regression draws its answers towards the mean; this much further out they come nearest to people."""

OPTIMISM = 0.07
"""A fitted style comes this much less near than `to_embedding` foretells (31 people; then right within 0.03)."""


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """The voice for a recording.

    style: float32[510, 256], a table like a stock voice's. nearest_voice: the id of the stock voice most like the
    recording. is_stock: `style` is that voice's own. similarity: 0 to 1, the cosine expected between the speaker
    embeddings of the recording and of what `style` says; the same person twice has about 0.9, two people 0.6.
    """

    style: np.ndarray
    nearest_voice: str
    is_stock: bool
    similarity: float


class VoiceMatch:
    """Matches recordings to styles. Deterministic; any number of threads may share one. Loads at the first match."""

    def match(self, audio: Audio) -> Match:
        """The voice for `audio`, 0.5 s or longer; only 20 s from its middle are heard. Silence gives the default."""
        return match_embedding(embed(audio))


def match_embedding(embedding: np.ndarray) -> Match:
    """The match for a speaker embedding, float32[256] of unit length."""
    fit = _fit()
    if not embedding.any():
        return Match(style_tables()[IDS.index(DEFAULT)], DEFAULT, True, 0.0)
    to_stock = fit["stock_embeddings"] @ embedding
    nearest = int(to_stock.argmax())
    offset = STRETCH * (embedding - fit["embedding_mean"]) @ fit["to_style"]
    heard = fit["embedding_mean"] + offset @ fit["to_embedding"]
    to_fitted = float(heard @ embedding / np.linalg.norm(heard)) - OPTIMISM
    if to_stock[nearest] >= OWN_VOICE or to_stock[nearest] >= to_fitted:
        return Match(style_tables()[nearest], IDS[nearest], True, float(to_stock[nearest]))
    return Match(fit["style_mean"] + offset + drift(), IDS[nearest], False, to_fitted)


@cache
def _fit() -> dict[str, np.ndarray]:
    """The fitted arrays in float32.

    stock_embeddings [28, 256] of unit length; style_mean, embedding_mean [256]; to_style, to_embedding [256, 256].
    """
    with np.load(FITTED) as stored:
        return {name: stored[name].astype(np.float32) for name in stored}


@cache
def drift() -> np.ndarray:
    """float32[510, 256]: how a style changes with the length of the sentence, the mean of the stock voices."""
    tables = style_tables()
    return (tables - tables.mean(1, keepdims=True)).mean(0)
