"""What every door shares: bodies read, work done in threads, streams sent, callers watched.

A door says what a request means; the desk knows how a connection behaves.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from fastapi import Request, Response
from loguru import logger
from starlette.types import Receive, Scope, Send

from audio_utils import MEDIA_TYPES, Format
from server import bodies
from server.metrics import Metrics
from server.streams import Backlog, Pump, sent
from speech.caller import Caller
from speech.errors import Busy, CallerLeft, NotReady, SpeechError
from speech.reply import Reply
from speech.service import Service
from speech.settings import Settings
from speech.streaming import Speaking, encoded

SPARE_THREADS = 8
"""Threads beyond the places at the gate: whoever finds no place still needs one to be told so."""

T = TypeVar("T")
Open = Callable[[Caller], Speaking]


class Places:
    """Half of the places at the gate, for one door's texts that are spoken while they are written: one whose writer
    pauses keeps its own, and must not keep every other door shut. texts: what they are called in a refusal."""

    def __init__(self, service: Service, settings: Settings, texts: str) -> None:
        parallel = service.engine.info.parallel
        self._most = max(parallel, (parallel + settings.queue) // 2)
        self._texts = texts
        self._taken = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """For one text. Raises Busy."""
        if self._taken >= self._most:
            raise Busy(f"{self._taken} {self._texts} are being spoken; try again later", retry_after_s=5)
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1


class Desk:
    """The service behind a counter."""

    def __init__(self, service: Service, settings: Settings) -> None:
        self.service = service
        self.settings = settings
        self.threads = anyio.CapacityLimiter(2 * (service.engine.info.parallel + settings.queue) + SPARE_THREADS)
        self.backlog = Backlog(settings.stream_buffer_mb << 20)
        self.metrics = Metrics(service, self.backlog)

    async def json(self, request: Request) -> Any:
        """The body as JSON. Raises InvalidInput, BodyTooLarge or CallerLeft."""
        return await bodies.read_json(request)

    async def run(self, request: Request, work: Callable[[Caller], T]) -> T:
        """`work` in a thread, for a caller who is seen to hang up. The body must have been read."""
        caller = Caller()
        watch = asyncio.create_task(watch_for_end(request.receive, caller))
        try:
            return await anyio.to_thread.run_sync(work, caller, limiter=self.threads)
        except asyncio.CancelledError:  # the server's time to finish is over
            caller.leave()
            raise NotReady("the server is shutting down; send the request again", retry_after_s=1) from None
        finally:
            watch.cancel()

    async def reply(self, request: Request, work: Callable[[Caller], Reply]) -> Response:
        """The finished answer of `work`."""
        reply = await self.run(request, work)
        return Response(reply.body, media_type=reply.media_type, headers=reply.headers)

    async def audio(self, request: Request, open: Open, response_format: Format) -> Response:
        """The bytes of an answer as they are made. Whatever is wrong before the first sound is raised."""
        return await self.stream(
            request, open, lambda speaking: encoded(speaking, response_format), MEDIA_TYPES[response_format]
        )

    async def events(
        self, request: Request, open: Open, events: Callable[[Speaking], Iterable[dict[str, Any]]]
    ) -> Response:
        """An answer as server-sent events, each a JSON object."""
        return await self.stream(
            request, open, lambda speaking: map(server_sent, events(speaking)), "text/event-stream; charset=utf-8"
        )

    async def stream(
        self, request: Request, open: Open, pieces: Callable[[Speaking], Iterable[bytes]], media_type: str
    ) -> Response:
        speaking = await self.run(request, open)
        headers = {
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",  # nginx would collect the answer
            "X-Seed": str(speaking.line.seed),
            "X-First-Audio-Ms": f"{speaking.first_audio_ms:.1f}",
        }
        headers |= self.service.voice_headers([speaking.voice] if speaking.voice else [])
        return Streamed(self, speaking, pieces(speaking), media_type, headers)


class Streamed(Response):
    """An answer whose body is still being spoken. A caller who hangs up, or takes nothing any more, stops it.

    After the first byte an error can only be told by not ending the body properly: the connection is cut.
    """

    def __init__(
        self, desk: Desk, speaking: Speaking, pieces: Iterable[bytes], media_type: str, headers: dict[str, str]
    ) -> None:
        super().__init__(None, media_type=media_type, headers=headers)
        del self.headers["content-length"]
        self._desk = desk
        self._speaking = speaking
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = self._speaking.caller
        pump = Pump(self._pieces, caller, self._desk.backlog, len, self._desk.threads)
        self._speaking.before_part = pump.wait_for_room
        watch = asyncio.create_task(watch_for_end(receive, caller))
        try:
            await sent(send, {"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for piece in pump:
                await sent(send, {"type": "http.response.body", "body": piece, "more_body": True})
            await sent(send, {"type": "http.response.body", "body": b""})
        except CallerLeft:
            logger.info("the listener left before the end")
        except SpeechError as error:
            logger.warning("the stream broke off: {}", error.message)
        finally:
            watch.cancel()
            await pump.aclose()
            self._speaking.close()


async def watch_for_end(receive: Receive, caller: Caller) -> None:
    """Mark `caller` as gone when its connection closes. The body has been read: what comes next is the end."""
    while (await receive())["type"] != "http.disconnect":
        pass
    caller.leave()


def server_sent(event: dict[str, Any]) -> bytes:
    """`event` as one server-sent event."""
    return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"
