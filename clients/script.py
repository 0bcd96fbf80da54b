"""A conversation written down, read as turns: plain text, one `name: words` a line, or JSON."""

from __future__ import annotations

import json
import re
from typing import Any

from .values import Turn

# `A: Hello`, `0:Hello`, `Dr. Smith: Hello`; the name is short, so that a sentence with a colon is seldom taken for one.
_LINE = re.compile(r"([^\s:][^:]{0,30}?)\s*:\s*(\S.*)")


class ScriptError(ValueError):
    """The script cannot be read; the message names the line."""


def read_turns(script: str) -> list[Turn | dict[str, Any]]:
    """The turns of `script`. JSON is a list of {"speaker", "text", "pause_ms"}, or an object with it as "turns".

    In plain text, empty lines and those that start with # are skipped. The names 0 and 1 are the speakers' numbers;
    of other names the first to speak is 0 and the second 1. Raises ScriptError.
    """
    if script.lstrip()[:1] in ("[", "{"):
        return _from_json(script)
    return list(_from_lines(script))


def _from_lines(script: str) -> list[Turn]:
    named: list[tuple[str, str]] = []
    for number, raw in enumerate(script.splitlines(), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ScriptError(f"line {number}: not `name: words`, such as `A: Hello.`")
        named.append((match[1], match[2]))
    names = list(dict.fromkeys(name for name, _ in named))
    if not names:
        raise ScriptError("no turns: write one `name: words` a line, such as `A: Hello.`")
    if set(names) <= {"0", "1"}:
        return [Turn(int(name), words) for name, words in named]
    if len(names) > 2:
        raise ScriptError(f"two can speak, and here are {len(names)}: {', '.join(names)}")
    return [Turn(names.index(name), words) for name, words in named]


def _from_json(script: str) -> list[Turn | dict[str, Any]]:
    try:
        turns = json.loads(script)
    except json.JSONDecodeError as error:
        raise ScriptError(f"line {error.lineno}: not JSON: {error.msg}") from error
    if isinstance(turns, dict) and set(turns) == {"turns"}:
        turns = turns["turns"]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ScriptError('JSON: write [{"speaker": 0, "text": "Hello."}, …] or {"turns": […]}')
    return turns
