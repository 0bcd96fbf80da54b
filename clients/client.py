"""The two clients: what is sent and when is decided in `operations`, `wire` and `retries`; these send it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from types import TracebackType
from typing import Any, Self

import httpx

from .conversation import AsyncConversation, Conversation, Memory
from .errors import APIStatusError
from .operations import Operations
from .retries import Outcome, Repeat, Retries, as_retries, attempts
from .streaming import AsyncAttempt, AsyncSpeechStream, Attempt, SpeechStream
from .values import ResponseFormat, Segment, Speech
from .wire import (
    Call,
    checked_base_url,
    default_headers,
    find_api_key,
    read_batch,
    read_health,
    read_speech,
)

# An answer begins when all of its sound is made: the longest (90 s) on a machine that speaks at a third of real time.
DEFAULT_TIMEOUT = httpx.Timeout(300.0, connect=10.0)
Timeout = float | httpx.Timeout | None

LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=60.0)
"""An idle connection is kept for a minute, not httpx's five seconds: in a conversation the next turn comes later than
that, and a new one costs up to three journeys to the server."""


class TTSClient(Operations[Speech, SpeechStream, list[Speech], dict[str, Any]]):
    """A client of a Duologue server. Safe to share between threads; close it, or use it as a context manager.

    base_url: such as http://127.0.0.1:8000 or https://you-csm-1b-tts.chutes.ai.
    api_key: sent as a bearer token; None takes DUOLOGUE_API_KEY from the environment, or for a host of chutes.ai
    CHUTES_API_KEY; "" sends none. timeout: seconds without a byte until TimedOut, or an httpx.Timeout; None waits
    for ever. retries: how many, or a `Retries`. transport: what sends in place of the network, for tests and proxies.
    sleep: what waits between retries, given seconds. Raises ValueError for a base_url or api_key that cannot be.
    """

    def __init__(
        self,
        base_url: str | httpx.URL,
        *,
        api_key: str | None = None,
        timeout: Timeout = DEFAULT_TIMEOUT,
        retries: int | Retries = 3,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        url = checked_base_url(base_url)
        headers = default_headers(find_api_key(api_key, url))
        self._retries = as_retries(retries)
        self._sleep = sleep
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout, limits=LIMITS, transport=transport)

    def conversation(
        self,
        *,
        max_segments: int = 5,
        max_bytes: int = 8_000_000,
        reference: Segment | Iterable[Segment] = (),
        response_format: ResponseFormat = "flac",
    ) -> Conversation:
        """A conversation that carries its own context, so that any replica of the server can go on with it.

        max_segments and max_bytes (of sound) bound what each request carries; the oldest is left out first.
        reference: recordings that set the voices; always carried, and counted in the bounds. response_format: what
        the sound comes in; flac loses nothing and is about half of wav. Raises ValueError where the references
        alone are over the bounds, OSError where a file cannot be read.
        """
        return Conversation(self, Memory(max_segments, max_bytes, reference, response_format))

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _one(self, call: Call) -> Speech:
        return read_speech(call, self._exchange(call))

    def _stream(self, call: Call) -> SpeechStream:
        return SpeechStream(call, partial(self._send, stream=True), self._persist)

    def _many(self, call: Call) -> list[Speech]:
        return read_batch(call, self._exchange(call))

    def _status(self, call: Call) -> dict[str, Any]:
        return read_health(call, self._exchange(call))

    def _exchange(self, call: Call) -> httpx.Response:
        return self._persist(lambda: self._send(call), call.repeat)

    def _send(self, call: Call, *, stream: bool = False) -> httpx.Response:
        """The response to one sending; with `stream` the body of a success is still to be read, and it to be closed."""
        response = self._http.send(call.request(self._http), stream=stream)
        if not response.is_success:
            response.read()
        return response

    def _persist(self, attempt: Attempt, repeat: Repeat) -> httpx.Response:
        """The successful response of the first `attempt` that has one. Raises TTSError."""
        steps = attempts(self._retries, repeat=repeat)
        wait_s = next(steps)
        while True:
            if wait_s > 0:
                self._sleep(wait_s)
            outcome: Outcome
            try:
                outcome = attempt()
            except (httpx.RequestError, APIStatusError) as error:
                outcome = error
            try:
                wait_s = steps.send(outcome)
            except StopIteration as done:
                return done.value


class AsyncTTSClient(
    Operations[
        Coroutine[Any, Any, Speech],
        AsyncSpeechStream,
        Coroutine[Any, Any, list[Speech]],
        Coroutine[Any, Any, dict[str, Any]],
    ]
):
    """TTSClient for asyncio: the same arguments and methods, each awaited but `stream`. Use it as an async
    context manager.
    """

    def __init__(
        self,
        base_url: str | httpx.URL,
        *,
        api_key: str | None = None,
        timeout: Timeout = DEFAULT_TIMEOUT,
        retries: int | Retries = 3,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        url = checked_base_url(base_url)
        headers = default_headers(find_api_key(api_key, url))
        self._retries = as_retries(retries)
        self._sleep = sleep
        self._http = httpx.AsyncClient(
            base_url=url, headers=headers, timeout=timeout, limits=LIMITS, transport=transport
        )

    def conversation(
        self,
        *,
        max_segments: int = 5,
        max_bytes: int = 8_000_000,
        reference: Segment | Iterable[Segment] = (),
        response_format: ResponseFormat = "flac",
    ) -> AsyncConversation:
        """As TTSClient.conversation; only its `say` is awaited."""
        return AsyncConversation(self, Memory(max_segments, max_bytes, reference, response_format))

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _one(self, call: Call) -> Speech:
        return read_speech(call, await self._exchange(call))

    def _stream(self, call: Call) -> AsyncSpeechStream:
        return AsyncSpeechStream(call, partial(self._send, stream=True), self._persist)

    async def _many(self, call: Call) -> list[Speech]:
        return read_batch(call, await self._exchange(call))

    async def _status(self, call: Call) -> dict[str, Any]:
        return read_health(call, await self._exchange(call))

    async def _exchange(self, call: Call) -> httpx.Response:
        return await self._persist(lambda: self._send(call), call.repeat)

    async def _send(self, call: Call, *, stream: bool = False) -> httpx.Response:
        """The response to one sending; with `stream` the body of a success is still to be read, and it to be closed."""
        response = await self._http.send(call.request(self._http), stream=stream)
        if not response.is_success:
            await response.aread()
        return response

    async def _persist(self, attempt: AsyncAttempt, repeat: Repeat) -> httpx.Response:
        """The successful response of the first `attempt` that has one. Raises TTSError."""
        steps = attempts(self._retries, repeat=repeat)
        wait_s = next(steps)
        while True:
            if wait_s > 0:
                await self._sleep(wait_s)
            outcome: Outcome
            try:
                outcome = await attempt()
            except (httpx.RequestError, APIStatusError) as error:
                outcome = error
            try:
                wait_s = steps.send(outcome)
            except StopIteration as done:
                return done.value
