"""What is opened for a listener is closed, whenever the listener goes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import anyio
import pytest

from server.streams import Backlog, Pump, opened
from speech.caller import Caller


class Opened:
    def __init__(self) -> None:
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


def test_what_is_opened_while_its_listener_goes_is_closed() -> None:
    thing, caller = Opened(), Caller()

    async def go() -> None:
        loop = asyncio.get_running_loop()

        def open() -> Opened:
            loop.call_soon_threadsafe(listening.cancel)  # is heard before what is given here
            return thing

        listening = asyncio.create_task(opened(open, caller, anyio.CapacityLimiter(1)))
        await asyncio.wait([listening])
        assert listening.cancelled()
        assert await asyncio.to_thread(thing.closed.wait, 10)

    asyncio.run(go())
    assert caller.gone


def test_what_cannot_be_opened_is_told() -> None:
    with pytest.raises(AttributeError, match="missing"):
        asyncio.run(opened(lambda: Opened().missing, Caller(), anyio.CapacityLimiter(1)))  # type: ignore[attr-defined]


def test_what_is_pumped_is_closed_though_nobody_waits_for_it() -> None:
    caller, closed = Caller(), threading.Event()

    def pieces() -> Iterator[bytes]:
        try:
            while True:
                yield b"sound"
        finally:
            closed.set()

    async def go() -> None:
        pump = Pump(pieces(), caller, Backlog(50), len, anyio.CapacityLimiter(1))
        async for _ in pump:
            break
        caller.leave()
        leaving = asyncio.create_task(pump.aclose())
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait([leaving])
        assert await asyncio.to_thread(closed.wait, 10)

    asyncio.run(go())
