"""Playing a sound with a program that is already on the machine: a whole file, or one that is fed as it comes."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from .wav import HEAD_BYTES, data_at


@dataclass(frozen=True)
class Player:
    """A program. arguments: before a file's name. formats: those of a file.

    samples: the arguments for 16-bit mono samples on stdin, with {rate} in Hz; none where it does not read stdin.
    encoded: those for other formats on stdin.
    """

    name: str
    arguments: tuple[str, ...]
    formats: frozenset[str]
    samples: tuple[str, ...] = ()
    encoded: tuple[str, ...] = ()

    def live(self, response_format: str, sample_rate_hz: int) -> list[str]:
        """The command that plays stdin, or nothing where it cannot. A WAV comes without its header."""
        if response_format in ("wav", "pcm"):
            arguments = tuple(argument.format(rate=sample_rate_hz) for argument in self.samples)
        else:
            arguments = self.encoded if response_format in self.formats else ()
        return [self.name, *arguments] if arguments else []


_QUIET = ("-nodisp", "-autoexit", "-loglevel", "error")

# Left to themselves, players hold back half a second to two seconds before they begin.
PLAYERS = (
    Player(
        "ffplay",
        _QUIET,
        frozenset({"wav", "flac", "mp3", "opus", "aac"}),
        samples=(*_QUIET, "-probesize", "32", "-f", "s16le", "-sample_rate", "{rate}", "-i", "-"),
        encoded=(*_QUIET, "-i", "-"),
    ),
    Player(
        "aplay",
        ("-q",),
        frozenset({"wav"}),
        samples=(
            *("-q", "-t", "raw", "-f", "S16_LE", "-c", "1", "-r", "{rate}"),
            *("--buffer-time=200000", "--start-delay=50000", "-"),
        ),
    ),
    Player("afplay", (), frozenset({"wav", "flac", "mp3", "aac"})),
    Player(
        "paplay",
        (),
        frozenset({"wav", "flac", "opus"}),
        samples=("--raw", "--format=s16le", "--channels=1", "--rate={rate}", "--latency-msec=100"),
    ),
)


class PlayerFailed(Exception):
    """The sound cannot be played here; the message says why."""


def find_player(response_format: str, *, live: bool = False) -> Player:
    """The first player on the machine that plays the format; `live`, as it comes. Raises PlayerFailed."""
    able = [
        player
        for player in PLAYERS
        if (player.live(response_format, 24_000) if live else response_format in player.formats)
    ]
    for player in able:
        if shutil.which(player.name):
            return player
    if not able:
        raise PlayerFailed(f"no player takes {response_format}; use wav")
    names = ", ".join(player.name for player in able)
    raise PlayerFailed(f"nothing here plays {response_format}{' as it comes' * live}; install one of {names}")


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


class LivePlayer:
    """A player that is fed while it plays. What it has no room for yet is kept, so that nobody waits for it.

    Leaving the `with` waits until all is played; on an error it is stopped at once. Raises PlayerFailed.
    """

    def __init__(self, player: Player, response_format: str, sample_rate_hz: int) -> None:
        self._name = player.name
        self._head: bytearray | None = bytearray() if response_format == "wav" else None
        self._folder = tempfile.TemporaryDirectory()
        self._errors = Path(self._folder.name) / "stderr"  # a pipe that nobody reads would hold a talkative player up
        try:
            with self._errors.open("wb") as errors:
                self._process = subprocess.Popen(
                    player.live(response_format, sample_rate_hz),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                )
        except OSError as error:
            self._folder.cleanup()
            raise PlayerFailed(f"{player.name} does not start: {error.strerror}") from error
        self._broke = False
        self._waiting: SimpleQueue[bytes | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._pump, daemon=True)
        self._thread.start()

    def feed(self, sound: bytes) -> bool:
        """Plays `sound` after what it was given before; False where the player is gone."""
        self._waiting.put(self._samples(sound))
        return self._process.poll() is None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with self._folder:
            try:
                if error is None:
                    self._finish()
            finally:
                self._process.kill()
                self._process.wait()
                self._waiting.put(None)

    def _finish(self) -> None:
        self._waiting.put(None)
        self._thread.join()
        code = self._process.wait()
        if code == 0 and not self._broke:
            return
        said = self._errors.read_text(errors="replace").strip()
        raise PlayerFailed(f"{self._name} failed: {said or f'it ended before the sound did, with exit code {code}'}")

    def _pump(self) -> None:
        assert self._process.stdin is not None
        try:
            with self._process.stdin as stdin:
                while (sound := self._waiting.get()) is not None:
                    stdin.write(sound)
                    stdin.flush()
        except OSError:
            self._broke = True

    def _samples(self, sound: bytes) -> bytes:
        """`sound` without the header, as long as that may not have come whole."""
        if self._head is None:
            return sound
        self._head += sound
        at = data_at(self._head)
        if at is None and len(self._head) < HEAD_BYTES:
            return b""
        samples = bytes(self._head[at or 0 :])
        self._head = None
        return samples
