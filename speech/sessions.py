"""What /contextual_speak remembers: the last segments of each session, each caller's own, bounded and forgetful."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from speech.engines.base import Segment

KEPT_SEGMENTS = 5
"""The original chute keeps its last five segments."""


@dataclass(slots=True)
class _Session:
    segments: tuple[Segment, ...]
    used_s: float

    @property
    def nbytes(self) -> int:
        return sum(segment.audio.samples.nbytes for segment in self.segments)


class Sessions:
    """Segments by session id; the least recently used go first. Safe from any thread.

    capacity: sessions kept. max_bytes: their audio together. ttl_s: how long an unused one is kept, in seconds.
    nbytes: the audio that is kept.
    """

    def __init__(
        self, *, capacity: int, max_bytes: int, ttl_s: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._capacity = capacity
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._now = now
        self._lock = threading.Lock()
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def recall(self, session_id: str) -> tuple[Segment, ...]:
        """What was said in this session, oldest first; empty for one that is new, expired or pushed out."""
        with self._lock:
            self._expire()
            session = self._sessions.get(session_id)
            return session.segments if session else ()

    def remember(self, session_id: str, *said: Segment, anew: bool = False) -> None:
        """Add `said` to what this session remembers, or let it be all where it begins `anew`; the last five stay.

        One step, so that two who speak in one session at once both stay in it.
        """
        with self._lock:
            self._expire()
            session = self._drop(session_id)
            before = session.segments if session and not anew else ()
            session = _Session((*before, *said)[-KEPT_SEGMENTS:], self._now())
            self._sessions[session_id] = session
            self.nbytes += session.nbytes
            while len(self._sessions) > self._capacity or self.nbytes > self._max_bytes:
                self._drop(next(iter(self._sessions)))

    def _expire(self) -> None:
        oldest_kept_s = self._now() - self._ttl_s
        while self._sessions:
            session_id, session = next(iter(self._sessions.items()))
            if session.used_s >= oldest_kept_s:
                return
            self._drop(session_id)

    def _drop(self, session_id: str) -> _Session | None:
        session = self._sessions.pop(session_id, None)
        if session:
            self.nbytes -= session.nbytes
        return session
