"""Playing a sound with a program that is already on the machine."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Player:
    """A program, its arguments before the file's name, and the formats it plays."""

    name: str
    arguments: tuple[str, ...]
    formats: frozenset[str]


PLAYERS = (
    Player(
        "ffplay",
        ("-nodisp", "-autoexit", "-loglevel", "error"),
        frozenset({"wav", "flac", "mp3", "opus", "aac"}),
    ),
    Player("aplay", ("-q",), frozenset({"wav"})),
    Player("afplay", (), frozenset({"wav", "flac", "mp3", "aac"})),
    Player("paplay", (), frozenset({"wav", "flac", "opus"})),
)


class PlayerFailed(Exception):
    """The sound cannot be played here; the message says why."""


def find_player(response_format: str) -> Player:
    """The first player on the machine that plays the format. Raises PlayerFailed where there is none."""
    for player in PLAYERS:
        if response_format in player.formats and shutil.which(player.name):
            return player
    able = [player.name for player in PLAYERS if response_format in player.formats]
    if not able:
        raise PlayerFailed(f"no player takes {response_format}; use wav")
    raise PlayerFailed(f"nothing here plays {response_format}; install one of {', '.join(able)}")


def play(player: Player, audio: bytes, response_format: str) -> None:
    """Plays `audio` to its end. Raises PlayerFailed where the player does."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"speech.{response_format}"
        file.write_bytes(audio)
        command = [player.name, *player.arguments, str(file)]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
        )
    if done.returncode != 0:
        raise PlayerFailed(f"{player.name} failed: {done.stderr.strip() or f'exit code {done.returncode}'}")
