"""Sounds that a script asks for in brackets, as Dia's do: which there are, and a text without them. Knows no engine."""

from __future__ import annotations

import re
from collections.abc import Collection

CUES = (
    "applause",
    "beep",
    "burps",
    "chuckle",
    "claps",
    "clears throat",
    "coughs",
    "exhales",
    "gasps",
    "groans",
    "humming",
    "inhales",
    "laughs",
    "mumbles",
    "screams",
    "sighs",
    "singing",
    "sings",
    "sneezes",
    "sniffs",
    "whistles",
)
"""Those that Dia-1.6B knows. Anything else in brackets is the author's own words."""

_CUE = re.compile(rf" ?\(({'|'.join(CUES)})\)(?=(\w)?)", re.IGNORECASE)


def without_cues(text: str, able: Collection[str] = ()) -> tuple[str, tuple[str, ...]]:
    """`text` without the cues that are not among `able`, and which those were, each once, in their order."""
    left_out: dict[str, None] = {}

    def replaced(found: re.Match[str]) -> str:
        cue = found[1].lower()
        if cue in able:
            return found[0]
        left_out[cue] = None
        return " " if found[2] else ""

    return _CUE.sub(replaced, text), tuple(left_out)
