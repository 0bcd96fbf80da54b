"""Where a text may be cut without being heard: at the ends of sentences, else of clauses, else of words."""

from __future__ import annotations

import re

import sentencex

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
