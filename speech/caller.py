"""One request's caller, as everyone downstream sees it: somebody who may leave."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from speech.account import Account
from speech.errors import CallerLeft


class Caller:
    """Tells the gate and the engine when nobody is listening any more. Safe from any thread.

    account: what the answer takes and gives, where the caller gets one answer, and as a whole.
    """

    def __init__(self) -> None:
        self.account = Account()
        self._lock = threading.Lock()
        self._gone = False
        self._callbacks: list[Callable[[], None]] = []

    @property
    def gone(self) -> bool:
        return self._gone

    def leave(self) -> None:
        """Mark the caller as gone and run what waits for it, once."""
        with self._lock:
            self._gone, callbacks, self._callbacks = True, self._callbacks, []
        for callback in callbacks:
            callback()

    def check(self) -> None:
        """Raise CallerLeft where the caller has gone."""
        if self._gone:
            raise CallerLeft

    @contextmanager
    def when_gone(self, callback: Callable[[], None]) -> Iterator[None]:
        """Run `callback` (from the thread that notices) if the caller leaves inside this block."""
        with self._lock:
            already_gone = self._gone
            if not already_gone:
                self._callbacks.append(callback)
        if already_gone:
            callback()
        try:
            yield
        finally:
            with self._lock:
                if callback in self._callbacks:
                    self._callbacks.remove(callback)
