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
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.bodies import Bodies
from server.desk import Desk
from server.doors import native
from server.errors import error_response
from speech.errors import SpeechError
from speech.release import VERSION
from speech.service import Service
from speech.settings import Settings

DOORS = (native,)


def create_app(service: Service, settings: Settings) -> FastAPI:
    """The application over a service that has been started."""
    app = FastAPI(title="Duologue", version=VERSION, summary="Text in, conversation out.")
    desk = Desk(service, settings)
    for door in DOORS:
        app.include_router(door.router(desk))
    app.add_exception_handler(SpeechError, _error)
    app.add_exception_handler(HTTPException, _error)
    app.add_middleware(
        Bodies,
        each_bytes=settings.max_body_mb << 20,
        all_bytes=settings.bodies_mb << 20,
        within_s=settings.body_wait_s,
    )
    app.add_middleware(RequestLog)
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
                logger.info("{} {} {} in {:.0f} ms", scope["method"], quote(scope["path"]), status, took_ms)


async def _error(request: Request, error: Exception) -> Response:
    response = error_response(request.scope["path"], error)
    if isinstance(error, SpeechError) and response.status_code >= 500:
        logger.warning("{} {}: {}", quote(request.scope["path"]), response.status_code, error.message)
    return response
