"""/ws: a conversation on one connection. Text comes in as it is written, sound goes out as it is made.

Messages in and out are JSON objects with a `type`, sound is binary frames (docs/websocket.md). Utterances are spoken
one after the other; each hears those before it.
"""

from __future__ import annotations

from fastapi import APIRouter, WebSocket

from server.desk import Desk, Places
from server.doors.websocket.connection import Connection

PATH = "/ws"
MAX_CONNECTIONS = 1000
TRY_AGAIN_LATER = 1013


def router(desk: Desk) -> APIRouter:
    routes = APIRouter()
    open_connections: set[Connection] = set()
    places = Places(desk.service, desk.settings, "utterances of WebSockets")

    @routes.websocket(PATH)
    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        if len(open_connections) >= MAX_CONNECTIONS:
            await socket.close(TRY_AGAIN_LATER, "too many connections; try again later")
            return
        connection = Connection(desk, socket, places)
        open_connections.add(connection)
        try:
            await connection.serve()
        finally:
            open_connections.discard(connection)

    return routes
