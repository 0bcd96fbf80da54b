"""Where a sound goes: to a file, to stdout, to a player; whole, or as it comes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import BinaryIO

from .player import LivePlayer, Player, play
from .streaming import SpeechStream
from .values import Speech
from .wav import HEAD_BYTES, true_sizes

DEFAULT_SAMPLE_RATE_HZ = 24_000


@dataclass(frozen=True)
class Sink:
    """file: `-` for stdout, None for nowhere but the player."""

    file: str | None
    response_format: str
    player: Player | None

    def take(self, speech: Speech) -> None:
        """Writes and plays `speech`, and says on stderr what it is. Raises OSError, PlayerFailed."""
        if self.file == "-":
            sys.stdout.buffer.write(speech)
            sys.stdout.buffer.flush()
        elif self.file:
            speech.save(self.file)
        self._say_what(len(speech), speech)
        if self.player:
            play(self.player, speech, self.response_format)

    def take_live(self, stream: SpeechStream) -> None:
        """As `take`, with each piece as it comes. A player that ends ends it all, unless there is a file to write.

        A file that was begun is kept, whatever happens: with a word on stderr where it is not all of the sound.
        Raises TTSError, OSError, PlayerFailed.
        """
        with stream, self._live_player(stream) as player:
            assert stream.first_audio_s is not None
            print(f"first sound after {1000 * stream.first_audio_s:.0f} ms", file=sys.stderr)
            with _writing(self.file) as write:
                try:
                    for sound in stream:
                        write(sound)
                        if player and not player.feed(sound) and not self.file:
                            break
                finally:
                    if self.file and not stream.complete:
                        print(f"{self.file}: cut off after {stream.received_bytes:,} bytes", file=sys.stderr)
            if stream.complete:
                self._say_what(stream.received_bytes, stream)

    def _live_player(self, stream: SpeechStream) -> LivePlayer | nullcontext[None]:
        if self.player is None:
            return nullcontext()
        return LivePlayer(self.player, self.response_format, stream.sample_rate_hz or DEFAULT_SAMPLE_RATE_HZ)

    def _say_what(self, length_bytes: int, sound: Speech | SpeechStream) -> None:
        notes = [f"{length_bytes:,} bytes", sound.media_type]
        if sound.seed is not None:
            notes.append(f"seed {sound.seed}")
        if sound.truncated:
            notes.append("cut at the longest duration allowed")
        print(f"{self.file or 'played'}: {', '.join(notes)}", file=sys.stderr)


@contextmanager
def _writing(file: str | None) -> Iterator[Callable[[bytes], None]]:
    """What writes each piece at once. A WAV has its true sizes in the end, if the file can seek. Raises OSError."""
    if file is None:
        yield lambda sound: None
    elif file == "-":  # and what else is in there is not ours to know
        yield lambda sound: _write(sys.stdout.buffer, sound)
    else:
        with open(file, "wb") as out:
            head, total_bytes = bytearray(), 0

            def write(sound: bytes) -> None:
                nonlocal total_bytes
                _write(out, sound)
                total_bytes += len(sound)
                head.extend(sound[: HEAD_BYTES - len(head)])

            try:
                yield write
            finally:
                for at, size in true_sizes(head, total_bytes) if out.seekable() else ():
                    out.seek(at)
                    out.write(size)


def _write(out: BinaryIO, sound: bytes) -> None:
    out.write(sound)
    out.flush()
