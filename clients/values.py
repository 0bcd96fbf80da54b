"""What goes in and comes out of the calls: Segment, Turn, Speech. Knows nothing of HTTP but headers."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

import httpx

ResponseFormat = Literal["wav", "flac", "mp3", "opus", "aac", "pcm"]
AudioSource: TypeAlias = bytes | bytearray | memoryview | str | os.PathLike[str]
"""A recording: its bytes, or the path of its file."""


def audio_bytes(audio: AudioSource) -> bytes:
    """The encoded bytes of a recording. Raises OSError where its file cannot be read."""
    if isinstance(audio, str | os.PathLike):
        return Path(audio).read_bytes()
    return bytes(audio)


def to_base64(audio: AudioSource) -> str:
    return base64.b64encode(audio_bytes(audio)).decode("ascii")


@dataclass(frozen=True)
class Segment:
    """Something said before, with its sound: what a server hears as context.

    audio: WAV, FLAC, OGG, MP3, M4A or WebM, as bytes or the path of a file. speaker: 0 or 1.
    """

    text: str
    audio: AudioSource = field(repr=False)
    speaker: int = 0

    def to_wire(self) -> dict[str, Any]:
        """The segment as the server reads it. Raises OSError where the file cannot be read."""
        return {"text": self.text, "speaker": self.speaker, "audio_b64": to_base64(self.audio)}


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation. speaker: 0 or 1. pause_ms: silence after it; None for the server's default.
    voice: by name, in place of the speaker's own.
    """

    speaker: int
    text: str
    pause_ms: int | None = None
    voice: str | None = None

    def to_wire(self) -> dict[str, Any]:
        """The turn as the server reads it."""
        set_alone = {"pause_ms": self.pause_ms, "voice": self.voice}
        return {
            "speaker": self.speaker,
            "text": self.text,
            **{name: value for name, value in set_alone.items() if value is not None},
        }


class Speech(bytes):
    """The sound a server answered with. It is the encoded bytes themselves (a whole file, in `media_type`), so that
    `open(path, "wb").write(speech)` works; the rest of the answer is beside it.

    media_type: such as audio/wav. headers: of the answer, shared by all of a batch. Every other attribute comes from
    a header, and is None (False for `truncated`) where the server does not send it or a gateway dropped it; `seed`
    and `session_id` then fall back on what the caller asked for.
    """

    media_type: str
    headers: httpx.Headers
    seed: int | None
    session_id: str | None

    def __new__(
        cls,
        audio: bytes,
        *,
        media_type: str = "audio/wav",
        headers: Mapping[str, str] | None = None,
        seed: int | None = None,
        session_id: str | None = None,
    ) -> Self:
        self = super().__new__(cls, audio)
        self.media_type = media_type
        self.headers = httpx.Headers(headers)
        answered = self._count("X-Seed")
        self.seed = seed if answered is None else answered
        self.session_id = self._header("X-Session-Id") or session_id
        return self

    @property
    def audio(self) -> bytes:
        """The encoded bytes alone."""
        return bytes(self)

    @property
    def duration_ms(self) -> int | None:
        """How long the audio lasts."""
        return self._count("X-Audio-Duration-Ms")

    @property
    def voice(self) -> str | None:
        """The engine's own voice that spoke, where it has such; several are separated by commas."""
        return self._header("X-Voice")

    @property
    def truncated(self) -> bool:
        """Whether the audio was cut at the asked-for duration with text left to say."""
        return (self._header("X-Truncated") or "").lower() == "true"

    @property
    def cache(self) -> str | None:
        """`hit` or `miss`."""
        return self._header("X-Cache")

    @property
    def quality_attempts(self) -> int | None:
        """How many takes were made until one passed."""
        return self._count("X-Quality-Attempts")

    @property
    def quality_checks(self) -> str | None:
        """What the take was checked for, in the server's words."""
        return self._header("X-Quality-Checks")

    @property
    def request_id(self) -> str | None:
        """What to quote to the operator."""
        return self._header("X-Request-Id")

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the bytes to `path`, as they are, and returns it. Raises OSError."""
        path = Path(path)
        path.write_bytes(self)
        return path

    def _header(self, name: str) -> str | None:
        value: str | None = self.headers.get(name)
        return value

    def _count(self, name: str) -> int | None:
        value = self._header(name) or ""
        return int(value) if value.isascii() and value.isdigit() else None

    def __repr__(self) -> str:
        seed = "" if self.seed is None else f", seed {self.seed}"
        return f"<Speech {self.media_type}, {len(self)} bytes{seed}>"

    __str__ = __repr__
