"""A sound that is heard while it is made: POST /stream_speak read as it comes, once for threads and once for asyncio.

What the events mean is in `telling`; when a request is sent again, in `retries`. Both streams are given a way to send
a request and a way to go on trying.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from itertools import islice
from types import TracebackType
from typing import Self

import httpx

from .retries import Repeat
from .telling import Told
from .values import Speech
from .wire import Call

PIECES_AFTER_THE_END = 16
"""How much is read for the end of the answer once its last event came, so that the connection can serve again."""

Attempt = Callable[[], httpx.Response]
AsyncAttempt = Callable[[], Awaitable[httpx.Response]]


class SpeechStream(Told):
    """Made by TTSClient.stream: iterate for the bytes of response_format, as they arrive.

    Use it in a `with`: entering waits for the first sound, and leaving closes the connection; the server then stops
    if it was not done. Iterating ends where the sound does, and raises TTSError where it broke off. For one thread.

    Until it is open the attributes are what was asked for. From the beginning of the stream: media_type,
    response_format, sample_rate_hz, seed, voice, session_id, headers; None where the server did not say.
    first_audio_s: from the sending of the request that was answered to the first bytes, as it was here.
    received_bytes: of sound, so far. From its end, and None before: duration_ms, first_audio_ms (as it was on the
    server), usage; and truncated and ran_away (it lost its way and was stopped), False before. complete: whether all
    of it came.
    """

    def __init__(
        self,
        call: Call,
        send: Callable[[Call], httpx.Response],
        persist: Callable[[Attempt, Repeat], httpx.Response],
    ) -> None:
        super().__init__(call)
        self._send = send
        self._persist = persist
        self._response: httpx.Response | None = None
        self._pieces: Iterator[bytes] = iter(())

    def collect(self) -> Speech:
        """All of the sound, with a WAV's true sizes in its header. ValueError where some of it was taken already."""
        self._untouched()
        with self:
            return self._speech(b"".join(self))

    def close(self) -> None:
        """Closes the connection, unless the stream came to its end and it can serve again."""
        self._ended()
        if self._response is not None:
            self._response.close()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        self.open()
        if self._first is not None:
            sound, self._first = self._first, None
            return sound
        if self._over:
            raise StopIteration
        try:
            following = self._next_sound()
        except BaseException as error:
            failure = self._failed(error)
            self.close()
            if failure is error:
                raise
            raise failure from error
        if following is None:
            self._over = True
            raise StopIteration
        return following

    def open(self) -> None:
        """Sends the request, once, and waits for the first sound; `with` does it, and so does iterating."""
        if self._begun:
            return
        self._begun = True
        try:
            self._persist(self._attempt, self._call.repeat)
        except BaseException as error:
            self._failed(error)
            raise

    def _attempt(self) -> httpx.Response:
        """One sending; a success is open, and its first sound has come. Raises httpx.RequestError, TTSError."""
        self._begin()
        response = self._send(self._call)
        if response.is_success:
            self._response, self._pieces = response, response.iter_bytes()
            try:
                self._answered(response)
                self._first = self._some(self._next_sound())
            except BaseException:
                response.close()
                raise
        return response

    def _next_sound(self) -> bytes | None:
        """None at the end."""
        while (sound := self._at_hand()) is None and not self.complete:
            self._listen(next(self._pieces, None))
        if sound is None and self._response is not None:
            with suppress(httpx.RequestError, httpx.StreamError):
                for _ in islice(self._pieces, PIECES_AFTER_THE_END):
                    pass
            self._response.close()
        return sound


class AsyncSpeechStream(Told):
    """Made by AsyncTTSClient.stream. As SpeechStream, with `async with`, `async for` and awaits."""

    def __init__(
        self,
        call: Call,
        send: Callable[[Call], Awaitable[httpx.Response]],
        persist: Callable[[AsyncAttempt, Repeat], Awaitable[httpx.Response]],
    ) -> None:
        super().__init__(call)
        self._send = send
        self._persist = persist
        self._response: httpx.Response | None = None
        self._pieces: AsyncIterator[bytes]

    async def collect(self) -> Speech:
        """As SpeechStream.collect."""
        self._untouched()
        async with self:
            return self._speech(b"".join([sound async for sound in self]))

    async def aclose(self) -> None:
        """As SpeechStream.close. A task that is waiting for the next sound is told so by ConnectionFailed."""
        self._ended()
        if self._response is not None:
            await self._response.aclose()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        await self.open()
        if self._first is not None:
            sound, self._first = self._first, None
            return sound
        if self._over:
            raise StopAsyncIteration
        try:
            following = await self._next_sound()
        except BaseException as error:
            failure = self._failed(error)
            await self.aclose()
            if failure is error:
                raise
            raise failure from error
        if following is None:
            self._over = True
            raise StopAsyncIteration
        return following

    async def open(self) -> None:
        """As SpeechStream.open."""
        if self._begun:
            return
        self._begun = True
        try:
            await self._persist(self._attempt, self._call.repeat)
        except BaseException as error:
            self._failed(error)
            raise

    async def _attempt(self) -> httpx.Response:
        """As SpeechStream._attempt."""
        self._begin()
        response = await self._send(self._call)
        if response.is_success:
            self._response, self._pieces = response, response.aiter_bytes()
            try:
                self._answered(response)
                self._first = self._some(await self._next_sound())
            except BaseException:
                await response.aclose()
                raise
        return response

    async def _next_sound(self) -> bytes | None:
        """None at the end."""
        while (sound := self._at_hand()) is None and not self.complete:
            self._listen(await anext(self._pieces, None))
        if sound is None and self._response is not None:
            with suppress(httpx.RequestError, httpx.StreamError):
                for _ in range(PIECES_AFTER_THE_END):
                    if await anext(self._pieces, None) is None:
                        break
            await self._response.aclose()
        return sound
