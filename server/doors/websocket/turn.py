"""An utterance on its way through a connection: when its sound plays at the listener's, and what of it was heard."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Literal

from speech.engines.base import Segment
from speech.utterance import Progress, Utterance


@dataclass(eq=False)
class Turn:
    """An utterance on its way through the connection. begins_s, ends_s: when its sound plays at the listener's, on
    the monotonic clock, if it is played as it comes."""

    id: str
    utterance: Utterance
    frames: Literal["binary", "base64"]
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled_s: float | None = None
    played_ms: float | None = None
    begins_s: float = 0.0
    kept: Segment | None = None

    @property
    def ends_s(self) -> float:
        return self.begins_s + self.utterance.duration_ms / 1000

    def look(self) -> None:
        if self.utterance.ready:
            self.ready.set()

    def progress(self, now_s: float | None = None) -> Progress:
        """What the listener has heard: what the client says, else by the clock; all of it without either."""
        if self.played_ms is not None:
            return self.utterance.progress(self.played_ms)
        if now_s is None:
            return self.utterance.progress(self.utterance.duration_ms)
        return self.utterance.progress(1000 * (now_s - self.begins_s) if self.begins_s else 0.0)
