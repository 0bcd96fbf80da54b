"""Where a text may be cut without being heard: at the ends of sentences, else of clauses, else of words."""

from __future__ import annotations

import re
from dataclasses import dataclass

import sentencex

_SPEAKER_TAG = re.compile(r"\[S([12])\]", re.IGNORECASE)
_CLAUSE_END = re.compile(r"(?<=[,;:—–])\s+")


def sentences(text: str) -> list[str]:
    """The sentences of an English `text`, in order, without surrounding space; none is empty or without a word."""
    pieces = (piece.strip() for line in text.splitlines() for piece in sentencex.segment("en", line))
    return [piece for piece in pieces if any(char.isalnum() for char in piece)]


def clauses(sentence: str, max_chars: int) -> list[str]:
    """`sentence` in pieces of at most `max_chars` characters: cut at clauses, and only where it must be, at words."""
    words: list[str] = []
    for clause in _CLAUSE_END.split(sentence):
        words += [clause] if len(clause) <= max_chars else clause.split()
    pieces: list[str] = []
    for word in words:
        if pieces and len(pieces[-1]) + 1 + len(word) <= max_chars:
            pieces[-1] += " " + word
        else:
            pieces += [word[i : i + max_chars] for i in range(0, len(word), max_chars)]
    return pieces


@dataclass(frozen=True, slots=True)
class Passage:
    """A text that one speaker says. speaker: 0 for [S1], 1 for [S2], None where no tag came before."""

    text: str
    speaker: int | None = None


def passages(text: str) -> list[Passage]:
    """`text` by its speaker tags, `[S1]` and `[S2]`, which are left out; none is without a word."""
    untagged, *tagged = _SPEAKER_TAG.split(text)
    found = [Passage(untagged.strip())]
    found += [Passage(said.strip(), int(tag) - 1) for tag, said in zip(tagged[::2], tagged[1::2], strict=True)]
    return [passage for passage in found if any(char.isalnum() for char in passage.text)]


def chunks(text: str, max_chars: int, *, pack: bool = True) -> list[Passage]:
    """`text` in pieces of at most `max_chars` characters, cut at speaker tags, else at sentences, and a sentence only
    where it alone is longer. pack: several short sentences may share a piece."""
    found: list[Passage] = []
    for passage in passages(text):
        begun = len(found)
        for sentence in sentences(passage.text):
            for piece in clauses(sentence, max_chars) if len(sentence) > max_chars else [sentence]:
                if pack and len(found) > begun and len(found[-1].text) + 1 + len(piece) <= max_chars:
                    found[-1] = Passage(f"{found[-1].text} {piece}", passage.speaker)
                else:
                    found.append(Passage(piece, passage.speaker))
    return [piece for piece in found if any(char.isalnum() for char in piece.text)]
