"""What every engine is, and the few words the service speaks to it with.

Knows nothing of requests, formats or queues. An engine is used by as many threads at once as its
`info.parallel` says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from audio_utils import Audio
from speech.caller import Caller


@dataclass(frozen=True, slots=True)
class Segment:
    """Something said earlier in the conversation.

    text: what was said. speaker: who said it, 0 or 1. audio: how it sounded, at the engine's own rate.
    voice: the engine's own voice that said it, where the engine did; None for a recording.
    """

    text: str
    speaker: int
    audio: Audio
    voice: str | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One thing to be said, and how.

    text: up to `EngineInfo.max_text_chars` characters. field: the input it came from, named where it will not do.
    speaker: 0 or 1. context: what was said before, oldest first. max_duration_ms: the audio is cut there at the
    latest. seed: the same seed gives the same audio, whoever else is being served. temperature: 0 takes the likeliest
    code each time. top_k: codes drawn from at each step. voice: one of the engine's own voices; None leaves it to
    speaker and context. speed: 2 is twice as fast; other than 1 only where `EngineInfo.speed` allows it. eager: hand
    over the first sound as soon as can be, even within a sentence. ahead_ms: how much the listener of an eager line
    still has to hear when it begins. caller: stop as soon as it has gone.
    """

    text: str
    field: str = "text"
    speaker: int = 1
    context: tuple[Segment, ...] = ()
    max_duration_ms: int = 10_000
    seed: int = 0
    temperature: float = 0.9
    top_k: int = 50
    voice: str | None = None
    speed: float = 1.0
    eager: bool = False
    ahead_ms: float = 0.0
    caller: Caller = dataclasses.field(default_factory=Caller)


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine is and what it can do; what it cannot do, it says here.

    context: what it does with earlier segments. "conversation": hears their text and sound; "voice": takes the
    speaker's voice from them, approximately; "none": nothing, so a request with context is refused.
    takes: whether another seed gives another take of the same line. sampling: whether temperature and top_k change
    anything. grain: what it can hand over before the rest is made. parallel: lines it speaks at the same time.
    speed: the least and the greatest pace that it can take by itself. cues: those of speech/text/cues.py that it makes
    a sound of. languages: what it speaks, by ISO 639-1 code. line_chars: a text longer than this is better said in
    several lines. notes: plain sentences on what to expect, shown to callers in /health.
    """

    name: str
    model: str
    sample_rate_hz: int
    device: str
    voices: tuple[str, ...]
    context: Literal["conversation", "voice", "none"]
    takes: bool
    sampling: bool
    grain: Literal["frame", "sentence"]
    parallel: int
    max_text_chars: int = 10_000
    speed: tuple[float, float] = (1.0, 1.0)
    cues: tuple[str, ...] = ()
    languages: tuple[str, ...] = ("en",)
    line_chars: int = 400
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Load:
    """What an engine has done and what it holds.

    batches: how many frames were made of no line, of one, of two at once, and so on, since the start; empty for an
    engine that makes none. memory: of a device of its own, in bytes, by kind. unable: why it can say nothing at
    present, empty where it can.
    """

    batches: tuple[int, ...] = ()
    memory: Mapping[str, int] = dataclasses.field(default_factory=dict)
    unable: str = ""


class Engine(Protocol):
    """An engine. `info` can be read before `start`."""

    info: EngineInfo

    def start(self) -> None:
        """Load weights and speak once to warm up. Raises StartupError with what the operator should do."""

    def voice_of(self, line: Line) -> str | None:
        """The engine's own voice that will say `line`, or None where the voice is not one of its own."""

    def speak(self, line: Line) -> Generator[Audio]:
        """Say `line`, chunk by chunk, float32 at `info.sample_rate_hz`.

        The line is checked, and on an engine that batches it joins the others, before this returns; the first
        chunk may be asked for later. Closing the iterator stops the work and frees its place. An engine that stops
        at the limit by itself tells so in the iterator's `truncated`; one that goes on is cut by the service. One that
        can lose its way tells in `ran_away` that it spoke for longer than the text can take, and was stopped.
        Raises InvalidInput, EngineFailed, OutOfMemory or CallerLeft.
        """

    def load(self) -> Load:
        """What it has done and what it holds; cheap, from any thread."""

    def trim(self) -> None:
        """Give memory that is only kept for speed back to the device."""

    def close(self) -> None:
        """Release everything; nothing is spoken afterwards."""
