"""A text that arrives in pieces, cut anywhere, as what can be said of it already.

A sentence is given once the next one has begun: before that, "3." may be "3.14". The first piece may be a clause, so
that speech begins sooner.
"""

from __future__ import annotations

import re

import sentencex

from speech.text.split import clauses, sentences

FIRST_CLAUSE_CHARS = 30
"""A first clause shorter than this (about two seconds) would be over before the rest has come."""

LONGEST_CHARS = 300
"""More than this without the end of a sentence is given clause by clause."""

_MAY_END = re.compile(r"[.!?…。！？]['\")\]]*\s|\n")
_ENDED = re.compile(r"[.!?…。！？]['\")\]]*\s*$")
_CLAUSE_END = re.compile(r"[,;:—–]\s+")


class Feed:
    """Pieces in with `add`, pieces that can be spoken out; what is held back comes with `flush`."""

    def __init__(self) -> None:
        self._held = ""
        self._begun = False

    @property
    def held(self) -> str:
        """What was added and not given yet."""
        return self._held

    @property
    def ended(self) -> bool:
        """Whether what is held looks like a whole sentence, though nothing has come after it."""
        return bool(_ENDED.search(self._held)) and _has_word(self._held)

    def add(self, text: str) -> list[str]:
        """What can be said now, in order; each has a word in it."""
        self._held += text
        ready = self._sentences() or self._first_clause() or self._too_long()
        self._begun = self._begun or bool(ready)
        return ready

    def flush(self) -> list[str]:
        """All that is left, in sentences."""
        held, self._held = self._held, ""
        ready = sentences(held)
        self._begun = self._begun or bool(ready)
        return ready

    def _sentences(self) -> list[str]:
        if not _MAY_END.search(self._held):
            return []
        *whole, rest = sentencex.segment("en", self._held)
        if not whole or not self._held.endswith(rest) or not _has_word(rest):
            return []
        said = self._held[: len(self._held) - len(rest)]
        self._held = rest
        return sentences(said)

    def _first_clause(self) -> list[str]:
        if self._begun or len(self._held) < FIRST_CLAUSE_CHARS:
            return []
        for mark in _CLAUSE_END.finditer(self._held):
            if mark.end() >= FIRST_CLAUSE_CHARS and _has_word(self._held[mark.end() :]):
                return self._give(mark.end())
        return []

    def _too_long(self) -> list[str]:
        if len(self._held) <= LONGEST_CHARS:
            return []
        pieces = clauses(self._held, LONGEST_CHARS)
        self._held = _end(self._held, pieces.pop()) if pieces else " "
        return [piece for piece in pieces if _has_word(piece)]

    def _give(self, chars: int) -> list[str]:
        said, self._held = self._held[:chars], self._held[chars:]
        return [said.strip()] if _has_word(said) else []


def _has_word(text: str) -> bool:
    return any(char.isalnum() for char in text)


def _end(text: str, last: str) -> str:
    """`text` from where `last` begins, which is its end but for blanks: of these it may have others, or none."""
    letters = sum(not char.isspace() for char in last)
    at = len(text)
    while letters:
        at -= 1
        letters -= not text[at].isspace()
    return text[at:]
