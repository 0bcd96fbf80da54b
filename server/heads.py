"""HEAD wherever there is a GET: the same status and headers, without the body."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Heads:
    """Answers HEAD as GET, up to where the body would begin; who was about to make one sees the caller leave."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            return await self._app(scope, receive, send)
        ended = False

        async def send_head(message: Message) -> None:
            nonlocal ended
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body", "body": b""})
                ended = True

        async def receive_end() -> Message:
            return {"type": "http.disconnect"} if ended else await receive()

        as_get: Scope = {**scope, "method": "GET"}
        try:
            await self._app(as_get, receive_end, send_head)
        finally:
            scope["route"] = as_get.get("route")  # for those who stand outside
