"""Bodies on their way in: how large one may be, how large all may be together, how long one may take.

`Bodies` stands before every door, so that a door may read as it likes; `read` and `read_json` are how most do. Knows
nothing of what a body means.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.datastructures import FormData, Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from speech.errors import BodyTooLarge, BodyTooSlow, Busy, CallerLeft, InvalidInput

UNCOUNTED_BYTES = 64 << 10
"""Of each body. A request of text alone finds room however many recordings are on their way."""

MAX_JSON_MARKS = 1_000_000
"""Commas and opening brackets in a body. The texts of the longest request hold fewer characters than that, and base64
has none; 60 MB of nothing else would be parsed for seconds, with everybody waiting, into gigabytes."""


MAX_FORM_PARTS = 20
"""Files in a form, and other fields; no form that is taken here has half as many."""


class Bodies:
    """Bounds the bodies of all requests. What is too much is raised where a door reads it.

    A body counts until its answer begins: by then it has become sound, or an error, and what an engine still needs of
    it is bounded by the engine's places.
    """

    def __init__(self, app: ASGIApp, *, each_bytes: int, all_bytes: int, within_s: float) -> None:
        self._app = app
        self.each_bytes = each_bytes
        self.all_bytes = max(each_bytes, all_bytes)  # the largest body there may be finds room when it is alone
        self.within_s = within_s
        self.held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        body = _Body(self, scope, receive)

        async def send_and_let_go(message: Message) -> None:
            body.let_go()
            await send(message)

        try:
            await self._app(scope, body.receive, send_and_let_go)
        finally:
            body.let_go()


class _Body:
    """One body while it arrives."""

    def __init__(self, bounds: Bodies, scope: Scope, receive: Receive) -> None:
        self._bounds = bounds
        self._announced_bytes = int(Headers(scope=scope).get("content-length") or 0)
        self._receive = receive
        self._bytes = 0
        self._counted = 0
        self._deadline_s: float | None = None
        self._whole = False

    async def receive(self) -> Message:
        """The next part. Raises BodyTooLarge, BodyTooSlow or Busy."""
        if self._whole:
            return await self._receive()
        if self._announced_bytes > self._bounds.each_bytes:
            raise self._too_large()
        if self._deadline_s is None:
            self._deadline_s = asyncio.get_running_loop().time() + self._bounds.within_s
        try:
            async with asyncio.timeout_at(self._deadline_s):
                message = await self._receive()
        except TimeoutError:
            raise BodyTooSlow(
                f"body: was not whole after {self._bounds.within_s:g} s; send it at once, or less of it"
            ) from None
        self._whole = not message.get("more_body", False)
        self._count(len(message.get("body", b"")))
        return message

    def _count(self, nbytes: int) -> None:
        self._bytes += nbytes
        if self._bytes > self._bounds.each_bytes:
            raise self._too_large()
        more = max(0, self._bytes - UNCOUNTED_BYTES) - self._counted
        if more and self._bounds.held_bytes + more > self._bounds.all_bytes:
            raise Busy("many large requests are on their way at once; send yours again soon", retry_after_s=2)
        self._bounds.held_bytes += more
        self._counted += more

    def _too_large(self) -> BodyTooLarge:
        megabytes = self._bounds.each_bytes >> 20
        return BodyTooLarge(f"body: is larger than {megabytes} MB; send less, or shorter recordings")

    def let_go(self) -> None:
        self._bounds.held_bytes -= self._counted
        self._counted = 0


async def read(request: Request) -> bytes:
    """The whole body, once. Raises what `Bodies` raises, and CallerLeft."""
    body = bytearray()
    try:
        async for part in request.stream():  # request.body() would keep the bytes as long as the request
            body += part
    except ClientDisconnect:
        raise CallerLeft from None
    return bytes(body)


async def read_json(request: Request) -> Any:
    """The body as JSON. Raises InvalidInput where it is none."""
    return parsed(await read(request))


def parsed(body: bytes) -> Any:
    """`body` as JSON. Raises InvalidInput where it is none."""
    if has_too_many_values(body):
        raise InvalidInput("body", "holds more values than any request does", "send the fields of one request")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidInput("body", "is not JSON", 'send a JSON object such as {"text": "Hello."}') from None


def has_too_many_values(body: bytes) -> bool:
    return len(body) > MAX_JSON_MARKS and sum(map(body.count, (b",", b"[", b"{"))) > MAX_JSON_MARKS


@asynccontextmanager
async def read_form(request: Request) -> AsyncIterator[FormData]:
    """The body as a form with files, which are gone at the end. Raises InvalidInput where it is none."""
    cure = "send multipart/form-data, as curl -F and every HTTP client make it"
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise InvalidInput("body", "is not a form", cure)
    try:
        form = await request.form(max_files=MAX_FORM_PARTS, max_fields=MAX_FORM_PARTS)
    except ClientDisconnect:
        raise CallerLeft from None
    except HTTPException as error:
        raise InvalidInput("body", f"is a form that cannot be read ({error.detail})", cure) from None
    try:
        yield form
    finally:
        await form.close()
