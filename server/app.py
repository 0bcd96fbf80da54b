"""The HTTP application: every door of the service under one roof.

Knows nothing of what a door does; logs each request and tells what went wrong.
"""

from __future__ import annotations

import time
import uuid
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from loguru import logger
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.bodies import Bodies
from server.cors import origins_of, policy
from server.desk import Desk
from server.doors import native, openai, websocket
from server.errors import error_response
from server.guard import GRANT, Guard
from server.heads import Heads
from server.keys import Keys, keys_of
from speech.errors import SpeechError
from speech.release import VERSION
from speech.service import Service
from speech.settings import Settings

MAX_LOGGED_CHARS = 200
"""Of a path; it may be of any length."""

DOORS = (native, openai, websocket)


def create_app(service: Service, settings: Settings, keys: Keys | None = None) -> FastAPI:
    """The application over a service that has been started. `keys`: those of `settings`, where they were read already.
    Raises StartupError where they cannot be."""
    keys = keys or keys_of(settings)
    app = FastAPI(title="Duologue", version=VERSION, summary="Text in, conversation out.")
    desk = Desk(service, settings)
    for door in DOORS:
        app.include_router(door.router(desk))
    app.add_exception_handler(SpeechError, _error)
    app.add_exception_handler(HTTPException, _error)
    # The last one added stands outermost.
    app.add_middleware(Heads)
    app.add_middleware(
        Bodies,
        each_bytes=settings.max_body_mb << 20,
        all_bytes=settings.bodies_mb << 20,
        within_s=settings.body_wait_s,
    )
    origins = origins_of(settings)
    app.add_middleware(
        Guard,
        keys=keys,
        rate_per_minute=settings.rate_per_minute,
        origins=origins,
        max_websockets=settings.connections // 2,  # uvicorn counts them too: plain requests keep the other half
    )
    app.add_middleware(RequestLog)
    if origins:
        app.add_middleware(CORSMiddleware, **policy(origins))
    return app


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
                grant = scope.get(GRANT)
                whose = f" for {grant.name}" if grant and grant.name else ""
                told = (scope["method"], _path(scope), status, took_ms, whose)
                logger.info("{} {} {} in {:.0f} ms{}", *told)


async def _error(request: Request, error: Exception) -> Response:
    response = error_response(request.scope["path"], error)
    if isinstance(error, SpeechError) and response.status_code >= 500:
        logger.warning(
            "{} {}: {}", quote(request.scope["path"][:MAX_LOGGED_CHARS]), response.status_code, error.message
        )
    return response


def _path(scope: Scope) -> str:
    """What the log may have of a path: no line of its own, and no more than a line."""
    return quote(scope["path"][:MAX_LOGGED_CHARS])
