"""The servers behind the gateway: which one says a line, which is left alone for a while, when it is tried again.

Runs on one event loop and nowhere else. A line goes to the upstream with the least under way. One that fails before
it made a sound is left out, for longer each time, and the line goes to another; one that refuses for want of places
is passed over for this line alone. After its first sound a line stays where it is.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import httpx
from loguru import logger

from clients import AsyncTTSClient, TTSError
from speech.engines.gateway.description import Description, Unsuitable, described

FIRST_OUT_S = 1.0
LONGEST_OUT_S = 60.0
HEALTH_S = 10.0
"""How long an upstream may take to say what it is."""

TIMEOUT = httpx.Timeout(300.0, connect=5.0)
"""The first sound may take a while: the upstream has a queue of its own."""


class Upstream:
    """One server. under_way: lines that it is saying for us. failures: in a row, without a sound between them."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self.client = AsyncTTSClient(url, api_key=key, retries=0, timeout=TIMEOUT)
        self.under_way = 0
        self.last = 0
        self.failures = 0
        self.is_up = False
        self.is_other = False
        self._out_until_s = 0.0
        self._probe: asyncio.Task[None] | None = None

    @property
    def out_s(self) -> float:
        """How long it is still left out, in seconds."""
        return 0.0 if self.is_up else max(0.0, self._out_until_s - time.monotonic())

    def answered(self) -> None:
        """It makes sound."""
        if not self.is_up:
            logger.info("the upstream {} speaks again", self.url)
        self.is_up, self.failures = True, 0

    def failed(self, why: object) -> None:
        """Leave it out for a while. Those who were under way when it failed count as one failure."""
        if self.out_s:
            return
        self.is_up = False
        self.failures += 1
        out_s = min(LONGEST_OUT_S, FIRST_OUT_S * 2 ** min(self.failures - 1, 30))
        self._out_until_s = time.monotonic() + out_s
        logger.warning("the upstream {} is left out for {:g} s: {}", self.url, out_s, why)

    async def describe(self) -> Description:
        """What it says of itself. Raises TTSError or Unsuitable."""
        try:
            return described(await asyncio.wait_for(self.client.health(), HEALTH_S))
        except TimeoutError:
            raise Unsuitable(f"does not answer /health within {HEALTH_S:g} s") from None

    def probe(self, wanted: Description, changed: asyncio.Event) -> None:
        """Where its time is over, ask how it is, and take it back where it is well and still `wanted`."""
        if not self.is_up and not self.out_s and self._probe is None:
            self._probe = asyncio.create_task(self._ask(wanted, changed))

    async def _ask(self, wanted: Description, changed: asyncio.Event) -> None:
        try:
            difference = wanted.difference(await self.describe())
            self.is_other = difference is not None
            if difference:
                raise Unsuitable(f"has become another: {difference}")
            self.is_up = True
            logger.info("the upstream {} is back", self.url)
        except Exception as error:
            self.failed(error)
        finally:
            self._probe = None
            changed.set()


class Upstreams:
    """All of them. slots: lines that each may have under way."""

    def __init__(self, urls: Iterable[str], key_of: dict[str, str], slots: int) -> None:
        self.all = [Upstream(url, key_of[url]) for url in urls]
        self.wanted: Description | None = None
        self._slots = slots
        self._turns = itertools.count(1)
        self._changed = asyncio.Event()

    async def find_out(self) -> dict[str, Description | Exception]:
        """What each says of itself, or why it does not; those that do are used from now on."""
        found = await asyncio.gather(*(each.describe() for each in self.all), return_exceptions=True)
        told: dict[str, Description | Exception] = {}
        for upstream, one in zip(self.all, found, strict=True):
            if isinstance(one, Description):
                upstream.is_up = True
            elif isinstance(one, TTSError | Unsuitable):
                upstream.failed(one)
            else:
                raise one
            told[upstream.url] = one
        return told

    @asynccontextmanager
    async def another(self, tried: set[Upstream]) -> AsyncIterator[Upstream | None]:
        """The upstream to go to next, once it has room; None where all that might answer were `tried`."""
        while not self._has_room(upstream := self._best(tried)):
            self._changed.clear()
            await self._changed.wait()
        if upstream:
            upstream.under_way += 1
            upstream.last = next(self._turns)
        try:
            yield upstream
        finally:
            if upstream:
                upstream.under_way -= 1
                self._changed.set()

    def soonest_s(self) -> float:
        """When the first of those left out is tried again, in seconds from now."""
        return min((each.out_s for each in self.all if not each.is_up), default=0.0)

    @property
    def any_up(self) -> bool:
        return any(each.is_up for each in self.all)

    def probe(self) -> None:
        """Ask those whose time is over how they are."""
        assert self.wanted is not None
        for each in self.all:
            each.probe(self.wanted, self._changed)

    def _best(self, tried: set[Upstream]) -> Upstream | None:
        self.probe()
        up = [each for each in self.all if each.is_up]
        if up:
            return min((each for each in up if each not in tried), key=_load, default=None)
        # Nobody is up: rather a try than a refusal.
        left_out = [each for each in self.all if each not in tried and not each.is_other]
        return min(left_out, key=lambda each: each.out_s, default=None)

    def _has_room(self, upstream: Upstream | None) -> bool:
        return upstream is None or upstream.under_way < self._slots

    async def aclose(self) -> None:
        for each in self.all:
            await each.client.aclose()


def _load(upstream: Upstream) -> tuple[int, int]:
    """The least under way first; of those alike, the one that was not asked for longest."""
    return upstream.under_way, upstream.last
