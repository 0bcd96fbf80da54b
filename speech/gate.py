"""One model, many callers: who may speak now, who waits, and who is told to come back.

A place is a right to wait or to speak; there are `slots + queue` of them. A turn is the right to use the engine;
there are `slots`. Who wants a turn gets it in the order of need: a new caller needs it since it came, and one who
speaks on in parts not before the sound made so far has been heard. Only `threading`: callers come from any thread
and any event loop.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from speech.caller import Caller
from speech.errors import Busy, NotReady


class Gate:
    """A bounded first-in, first-out queue in front of `slots` turns at the engine.

    slots: callers the engine serves at once. queue: callers that may wait. wait_s: how long one may wait, in seconds.
    """

    def __init__(self, *, slots: int, queue: int, wait_s: float) -> None:
        self._slots = slots
        self._queue = queue
        self._wait_s = wait_s
        self._changed = threading.Condition()
        self._places = 0
        self._speaking = 0
        self._waiting: list[tuple[float, int]] = []  # a heap of tickets: when the turn is needed, and who came first
        self._numbers = itertools.count()
        self._work_s = 1.0  # what a caller takes of the engine, on average
        self._closed = False

    @property
    def waiting(self) -> int:
        """Callers that hold a place and no turn yet."""
        return self._places - self._speaking

    @property
    def speaking(self) -> int:
        """Callers that have the engine's turn."""
        return self._speaking

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Give no further places; those that hold one may finish."""
        with self._changed:
            self._closed = True

    @contextmanager
    def place(self, caller: Caller) -> Iterator[Place]:
        """A place for `caller`, at once or not at all: raises Busy where none is free."""
        with self._changed:
            if self._closed:
                raise NotReady("the server is shutting down; send the request again", retry_after_s=1)
            if self._places >= self._slots + self._queue:
                raise Busy(
                    f"all {self._slots + self._queue} places are taken; try again later",
                    retry_after_s=self._expected_wait_s(),
                )
            self._places += 1
        place = Place(self, caller)
        try:
            yield place
        finally:
            with self._changed:
                self._places -= 1
                if place.work_s:
                    self._work_s += 0.2 * (place.work_s - self._work_s)

    def _expected_wait_s(self) -> float:
        return self._work_s * max(1, self.waiting) / self._slots

    def _acquire(self, caller: Caller, needed_s: float, deadline_s: float | None) -> None:
        ticket = (needed_s, next(self._numbers))
        with caller.when_gone(self._wake), self._changed:
            heapq.heappush(self._waiting, ticket)
            try:
                while not caller.gone and not (self._waiting[0] == ticket and self._speaking < self._slots):
                    left_s = None if deadline_s is None else deadline_s - time.monotonic()
                    if left_s is not None and left_s <= 0:
                        raise Busy(
                            f"no turn came within {self._wait_s:g} s; try again later",
                            retry_after_s=self._expected_wait_s(),
                        )
                    self._changed.wait(left_s)
                caller.check()
                self._speaking += 1
            finally:
                self._waiting.remove(ticket)
                heapq.heapify(self._waiting)
                self._changed.notify_all()

    def _release(self) -> None:
        with self._changed:
            self._speaking -= 1
            self._changed.notify_all()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


class Place:
    """A caller's place in the gate's queue. asked_s, turn_s: when it first asked for a turn and got it, on the
    monotonic clock. work_s: how long it has had the engine so far, in seconds."""

    def __init__(self, gate: Gate, caller: Caller) -> None:
        self._gate = gate
        self._came_s = time.monotonic()
        self.caller = caller
        self.asked_s: float | None = None
        self.turn_s: float | None = None
        self.work_s = 0.0

    @contextmanager
    def turn(self, needed_s: float | None = None) -> Iterator[None]:
        """The engine's turn; waits for it. Raises Busy past the deadline, CallerLeft where the caller has gone.

        needed_s: when it is needed, on the monotonic clock; None: since the place was given. Only who has had no turn
        yet is sent away at the deadline: what was begun is finished.
        """
        deadline_s = None if self.work_s else self._came_s + self._gate._wait_s
        self.asked_s = self.asked_s or time.monotonic()
        self._gate._acquire(self.caller, self._came_s if needed_s is None else needed_s, deadline_s)
        started_s = time.monotonic()
        self.turn_s = self.turn_s or started_s
        try:
            yield
        finally:
            self.work_s += time.monotonic() - started_s
            self._gate._release()
