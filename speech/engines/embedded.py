"""What the embedded voices share: English text to phonemes, and a model's raw sentence to a chunk that joins well.

Knows no model. Phonemes are in the alphabet of Kokoro (misaki), which hibari's models share.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from importlib import resources
from itertools import chain

import numpy as np
from hibari.g2p import G2P

from audio_utils import Audio, trim_silence
from speech.engines.base import Line
from speech.errors import InvalidInput
from speech.text.split import clauses, sentences

SAMPLE_RATE_HZ = 24_000
SPEAKERS = ("af_heart", "am_michael")
"""Who speaks as speaker 0 and 1: two clearly different people."""

MAX_PHONEMES = 400
"""A model input takes 508; longer sentences are cut at clauses before that."""

SENTENCE_EDGE_MS = 120
"""Silence kept at both ends of a sentence, of the 0.3 to 0.5 s that the models leave: 240 ms between sentences."""

EDGE_SAMPLES = SENTENCE_EDGE_MS * SAMPLE_RATE_HZ // 1000

MAX_SENTENCE_CHARS = 400
"""A longer sentence is cut before it is read: the reading takes the square of its length."""

_LONG_NUMBER = re.compile(r"\d(?:,?\d){15,}")
"""Longer than any number with a name in daily use (quadrillions): read digit by digit."""

PEAK_CEILING = 0.95
"""A sentence that would come louder is scaled down: these models exceed full scale now and then."""


@lru_cache(maxsize=2)
def phonemizer(british: bool) -> G2P:
    """Text to phonemes in American or British English; loaded on first use (0.3 s)."""
    return G2P(british=british)


@lru_cache(maxsize=1)
def _vocabulary() -> dict[str, int]:
    return json.loads((resources.files("hibari") / "assets" / "vocab.json").read_text(encoding="utf-8"))


def phonemes(line: Line, *, british: bool) -> Iterator[str]:
    """The line's text as phonemes, a string of at most `MAX_PHONEMES` a sentence, each read when it is asked for.
    Raises InvalidInput, at once, where there is none."""
    found = _phonemes(line, british)
    first = next(found, None)
    if first is None:
        raise InvalidInput(line.field, "has no word that this engine can speak", "write English words or numbers")
    return chain([first], found)


def _phonemes(line: Line, british: bool) -> Iterator[str]:
    speak = phonemizer(british)
    text = unicodedata.normalize("NFC", line.text)  # else an accent that is a character of its own is read on its own
    text = "".join(map(_plain_digit, text))
    for sentence in sentences(_LONG_NUMBER.sub(lambda digits: " ".join(digits[0].replace(",", "")), text)):
        for piece in clauses(sentence, MAX_SENTENCE_CHARS) if len(sentence) > MAX_SENTENCE_CHARS else [sentence]:
            line.caller.check()
            spoken = speak(piece)
            for each in clauses(spoken, MAX_PHONEMES) if len(spoken) > MAX_PHONEMES else [spoken]:
                if any(char.isalpha() for char in each):
                    yield each


def _plain_digit(char: str) -> str:
    """`char`; of a raised, lowered or circled digit the digit itself, which the reader takes for a number and fails."""
    return f" {unicodedata.digit(char)} " if char.isdigit() and not char.isdecimal() else char


def token_ids(phoneme_string: str) -> list[int]:
    """Model inputs of `phoneme_string`, with the padding id 0 at both ends."""
    vocabulary = _vocabulary()
    return [0, *(vocabulary[char] for char in phoneme_string if char in vocabulary), 0]


def chunk(samples: np.ndarray) -> Audio:
    """A model's sentence, float32[n] at 24 kHz, with short edges and a bounded peak."""
    peak = float(np.max(np.abs(samples), initial=0.0))
    if peak > PEAK_CEILING:
        samples = samples * np.float32(PEAK_CEILING / peak)
    return trim_silence(Audio(samples, SAMPLE_RATE_HZ), keep_ms=SENTENCE_EDGE_MS)


def finished(chunks: Iterator[Audio]) -> None:
    """Run through `chunks`: a warm-up."""
    for _ in chunks:
        pass
