"""Sound on its way to a listener: the engine fills it from a thread of its own, the connection empties it.

A listener who is slow or stops reading holds memory, up to a bound, and never the engine. Knows no protocol.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterable
from typing import Any, Generic, Protocol, TypeVar

import anyio
import anyio.to_thread

from speech.caller import Caller
from speech.errors import CallerLeft

T = TypeVar("T")

LISTENER_S = 60.0
"""A listener who takes nothing for so long has gone, whatever the connection says."""


class Backlog:
    """How much is waiting for all listeners together, in bytes; at the bound, those for whom it waits are not spoken to
    any further."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held = 0
        self._changed = threading.Condition()

    @property
    def held_bytes(self) -> int:
        return self._held

    def add(self, nbytes: int, caller: Caller) -> None:
        """Count `nbytes` more, room or not: whoever makes sound has the engine's turn. Raises CallerLeft."""
        with self._changed:
            caller.check()
            self._held += nbytes

    def wait_for_room(self, caller: Caller, holds: Callable[[], bool]) -> None:
        """Wait while there is none and some of what waits is the caller's own, which `holds` says. Raises
        CallerLeft."""
        with caller.when_gone(self._wake), self._changed:
            while holds() and self._held >= self._max_bytes and not caller.gone:
                self._changed.wait()
        caller.check()

    def remove(self, nbytes: int) -> None:
        with self._changed:
            self._held -= nbytes
            self._changed.notify_all()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


class Pump(Generic[T]):
    """Runs an iterator of pieces in a thread and gives them to the event loop in their order.

    `async for` ends when the iterator does, and raises what it raised. Leaving the loop early makes the caller leave,
    which ends the iterator too; `aclose` waits for that.
    """

    def __init__(
        self,
        pieces: Iterable[T],
        caller: Caller,
        backlog: Backlog,
        size: Callable[[T], int],
        threads: anyio.CapacityLimiter,
    ) -> None:
        self._pieces = pieces
        self._caller = caller
        self._backlog = backlog
        self._size = size
        self._threads = threads
        self._ready: deque[T] = deque()
        self._arrived = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._over = False
        self._error: BaseException | None = None
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        context = contextvars.copy_context()
        try:
            await anyio.to_thread.run_sync(lambda: context.run(self._work), limiter=self._threads)
        except BaseException as error:  # told to whoever takes the pieces
            self._error = error
            if isinstance(error, asyncio.CancelledError):
                self._caller.leave()
                raise
        finally:
            self._over = True
            self._arrived.set()

    def _work(self) -> None:
        try:
            for piece in self._pieces:
                self._backlog.add(self._size(piece), self._caller)
                self._ready.append(piece)
                self._loop.call_soon_threadsafe(self._arrived.set)
        finally:
            if isinstance(self._pieces, Generator):
                self._pieces.close()  # here, whatever has become of who waits: it may hold the engine's turn

    async def __aiter__(self) -> AsyncIterator[T]:
        try:
            while True:
                while self._ready:
                    self._caller.check()  # what was made for a listener who has interrupted is not sent
                    piece = self._ready.popleft()
                    self._backlog.remove(self._size(piece))
                    yield piece
                if self._over:
                    break
                self._arrived.clear()
                if not self._ready and not self._over:
                    await self._arrived.wait()
            if self._error:
                raise self._error
        finally:
            await self.aclose()

    def wait_for_room(self) -> None:
        """From the thread, where no turn is held. Raises CallerLeft."""
        self._backlog.wait_for_room(self._caller, lambda: bool(self._ready))

    async def aclose(self) -> None:
        """Stop the work, and forget what nobody will hear."""
        if not self._over:
            self._caller.leave()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([self._task])
        while self._ready:
            self._backlog.remove(self._size(self._ready.popleft()))


class Closable(Protocol):
    def close(self) -> None: ...


C = TypeVar("C", bound=Closable)


async def opened(open: Callable[[], C], caller: Caller, threads: anyio.CapacityLimiter) -> C:
    """What `open` gives, in a thread. If whoever waits for it is cancelled, the caller leaves, and what is opened all
    the same is closed: it would keep the engine's turn for as long as it lies about."""
    opening = asyncio.ensure_future(anyio.to_thread.run_sync(open, limiter=threads))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        caller.leave()
        opening.add_done_callback(lambda done: done.cancelled() or done.exception() or done.result().close())
        raise


async def sent(send: Callable[[Any], Any], message: Any) -> None:
    """Send one message of ASGI. Raises CallerLeft for a listener who has stopped taking them."""
    try:
        async with asyncio.timeout(LISTENER_S):  # wait_for may lose a cancellation
            await send(message)
    except (TimeoutError, OSError):
        raise CallerLeft from None
