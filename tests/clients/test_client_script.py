"""How a written conversation is read."""

from __future__ import annotations

import pytest

from clients import Turn
from clients.script import ScriptError, read_turns


@pytest.mark.parametrize(
    ("script", "turns"),
    [
        ("0: Hello\n1: Hi", [Turn(0, "Hello"), Turn(1, "Hi")]),
        ("1: Hello", [Turn(1, "Hello")]),
        ("A: Hello\nB: Hi\nA: Well?", [Turn(0, "Hello"), Turn(1, "Hi"), Turn(0, "Well?")]),
        ("# a comment\n\n  Dr. Smith :Hello: you \r\n", [Turn(0, "Hello: you")]),
        ("Ann: It is 12:30.\nÉva: Oh", [Turn(0, "It is 12:30."), Turn(1, "Oh")]),
        ('[{"speaker": 1, "text": "Hi", "pause_ms": 0}]', [{"speaker": 1, "text": "Hi", "pause_ms": 0}]),
        ('\n {"turns": [{"speaker": 0, "text": "Hi"}]}', [{"speaker": 0, "text": "Hi"}]),
    ],
)
def test_read(script: str, turns: list[object]) -> None:
    assert read_turns(script) == turns


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("", "no turns"),
        ("# nothing", "no turns"),
        ("A: Hello\nand more", "line 2: not `name: words`"),
        ("A:", "line 1"),
        ("A: a\nB: b\nC: c", "here are 3: A, B, C"),
        ("0: a\n1: b\n2: c", "here are 3: 0, 1, 2"),
        ("[1, 2]", "JSON: write"),
        ('{"turn": []}', "JSON: write"),
        ('{"turns": [], "seed": 1}', "JSON: write"),
        ("[\n{]", "line 2: not JSON"),
    ],
)
def test_refused(script: str, words: str) -> None:
    with pytest.raises(ScriptError) as caught:
        read_turns(script)
    assert words in str(caught.value)
