"""The HTTP application: a thin face over the operations.

A request's body is read here (bounded), its operation runs in a thread, and a caller that hangs up is noticed.
Knows nothing of what an operation does.
"""

from __future__ import annotations

import asyncio
import functools
import json
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

import anyio
import anyio.to_thread
from fastapi import FastAPI, Request, Response
from loguru import logger
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server import openapi
from server.errors import error_response
from speech.caller import Caller
from speech.errors import BodyTooLarge, CallerLeft, InvalidInput, NotReady, SpeechError
from speech.operations import OPERATIONS, Operation
from speech.release import VERSION
from speech.service import Service
from speech.settings import Settings

SPARE_THREADS = 8
"""Threads beyond the places at the gate: whoever finds no place still needs one to be told so."""

MAX_JSON_MARKS = 1_000_000
"""Commas and opening brackets in a body. The texts of the longest request hold fewer characters than that, and base64
has none; 60 MB of nothing else would be parsed for seconds, with everybody waiting, into gigabytes."""


def create_app(service: Service, settings: Settings) -> FastAPI:
    """The application over a service that has been started."""
    app = FastAPI(title="Duologue", version=VERSION, summary="Text in, conversation out.")
    threads = anyio.CapacityLimiter(service.engine.info.parallel + settings.queue + SPARE_THREADS)
    for operation in OPERATIONS.values():
        app.add_api_route(
            operation.path,
            _endpoint(operation, service, threads, settings.max_body_mb << 20),
            methods=["POST"],
            **openapi.describe(operation),
        )
    app.add_api_route("/health", service.health, methods=["GET"], summary="What speaks here, and how busy.")
    app.add_exception_handler(SpeechError, _error)
    app.add_exception_handler(HTTPException, _error)
    app.add_middleware(RequestLog)
    return app


def _endpoint(
    operation: Operation, service: Service, threads: anyio.CapacityLimiter, max_body_bytes: int
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        raw = _json(await _body(request, max_body_bytes))
        caller = Caller()
        watch = asyncio.create_task(_watch(request, caller))
        try:
            run = functools.partial(operation, service, raw, caller)
            reply = await anyio.to_thread.run_sync(run, limiter=threads)
        except asyncio.CancelledError:  # the server's time to finish is over
            caller.leave()
            raise NotReady("the server is shutting down; send the request again", retry_after_s=1) from None
        finally:
            watch.cancel()
        return Response(reply.body, media_type=reply.media_type, headers=reply.headers)

    endpoint.__name__ = operation.name
    return endpoint


async def _watch(request: Request, caller: Caller) -> None:
    """Mark `caller` as gone when its connection closes. The body has been read: what comes next is the end."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    caller.leave()


async def _body(request: Request, max_bytes: int) -> bytes:
    """The body, refused as soon as it is known to be too large."""
    too_large = BodyTooLarge(f"body: is larger than {max_bytes >> 20} MB; send less, or shorter recordings")
    if int(request.headers.get("content-length") or 0) > max_bytes:
        raise too_large
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > max_bytes:
                raise too_large
    except ClientDisconnect:
        raise CallerLeft from None
    return bytes(body)


def _json(body: bytes) -> Any:
    if len(body) > MAX_JSON_MARKS and sum(map(body.count, (b",", b"[", b"{"))) > MAX_JSON_MARKS:
        raise InvalidInput("body", "holds more values than any request does", "send the fields of one request")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidInput("body", "is not JSON", 'send a JSON object such as {"text": "Hello."}') from None


class RequestLog:
    """Gives each request an id, in its log lines and in the answer's X-Request-Id, and logs how it went.

    What nobody foresaw ends here: the log has the trace, the caller a sentence, and the connection stays usable.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        request_id, began_s, status = uuid.uuid4().hex, time.monotonic(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        with logger.contextualize(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except Exception as error:
                logger.exception("something failed that nobody foresaw")
                if status:
                    raise
                await error_response(scope["path"], error)(scope, receive, send_with_id)
            finally:
                took_ms = 1000 * (time.monotonic() - began_s)
                logger.info("{} {} {} in {:.0f} ms", scope["method"], quote(scope["path"]), status, took_ms)


async def _error(request: Request, error: Exception) -> Response:
    response = error_response(request.url.path, error)
    if isinstance(error, SpeechError) and response.status_code >= 500:
        logger.warning("{} {}: {}", quote(request.url.path), response.status_code, error.message)
    return response
