"""docs/chutes.md names commands, options and settings that exist."""

from __future__ import annotations

import re
import shlex

import click
import pytest
import typer
from chutes.cli import app

from speech.settings import PREFIX, Settings
from tests.chute.conftest import ROOT

PAGE = (ROOT / "docs" / "chutes.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.partition("chutes ")[2]
    for block in BLOCKS
    for line in block.splitlines()
    if re.match(r"(DUOLOGUE_\w+=\S+ )?chutes ", line)
]


def test_there_is_something_to_check() -> None:
    assert len(COMMANDS) > 10


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_exists_with_its_options(line: str) -> None:
    """Parsed by the CLI's own parser; nothing is run."""
    command, words = typer.main.get_command(app), shlex.split(line, comments=True)
    context = None
    while isinstance(command, click.Group) or hasattr(command, "commands"):
        assert words[0] in command.commands, f"there is no {words[0]!r}"
        context = click.Context(command, info_name=words[0], parent=context)
        command = command.commands[words.pop(0)]
    command.make_context(command.name, words, parent=context)


def test_the_settings_named_exist_with_the_defaults_told() -> None:
    for name in re.findall(rf"\b{PREFIX}(\w+)\b", PAGE):
        assert name.lower() in Settings.model_fields, name
    for name, default in re.findall(rf"^\| `{PREFIX}(\w+)` \| `(.+)` \|", PAGE, re.MULTILINE):
        assert str(Settings.model_fields[name.lower()].default) == default


def test_the_make_targets_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for block in BLOCKS:
        for target in re.findall(r"^make (\S+)", block, re.MULTILINE):
            assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), target
