"""Every request has an id, a line in the log and a place in the numbers.

Stands outside of every door, for HTTP and WebSockets alike. Knows nothing of what is asked for beyond its path.
"""

from __future__ import annotations

import re
import time
import uuid
from urllib.parse import quote

from loguru import logger
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import error_response
from server.guard import GRANT
from server.metrics import Metrics

MAX_LOGGED_CHARS = 200
"""Of a path; it may be of any length."""

NO_ROUTE = "none"
"""Where there is none for a path, or the request was refused before one was looked for."""

POLLED = frozenset({"/health", "/ready", "/metrics", "/api/health"})
"""Asked every few seconds, by machines: an answer that all is well is a line for DEBUG, and no trace."""

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_BEGINS = ("http.response.start", "websocket.accept", "websocket.http.response.start")
"""The messages that an answer begins with; each may carry headers."""


class RequestLog:
    """Gives each request an id, its own where its X-Request-Id will do, in its log lines and in the answer's
    X-Request-Id, and tells how it went.

    What nobody foresaw ends here: the log has the trace, the caller a sentence, and the connection stays usable.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        request_id, began_s, status = _id_of(scope), time.monotonic(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] in _BEGINS:
                status = message.get("status", 101)
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            elif message["type"] == "websocket.close":
                status = status or 403
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
                self._metrics.requested(getattr(scope.get("route"), "path", NO_ROUTE), status)
                key = scope[GRANT].name if GRANT in scope else None
                logger.log(
                    "DEBUG" if scope["path"] in POLLED and status < 400 else "INFO",
                    "{method} {path} {status} in {took_ms:.0f} ms{}",
                    f" for {key}" if key else "",
                    method=scope.get("method", "WS"),
                    path=logged_path(scope),
                    status=status,
                    took_ms=round(1000 * (time.monotonic() - began_s), 1),
                    key=key,
                )


def logged_path(scope: Scope) -> str:
    """What the log may have of a path: no line of its own, no more than a line, and nothing of the query, where texts
    and keys are."""
    return quote(scope["path"][:MAX_LOGGED_CHARS])


def _id_of(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _ID.fullmatch(given) else uuid.uuid4().hex
