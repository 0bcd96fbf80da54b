"""Connections before and between requests: one that asks for nothing is closed.

uvicorn waits for the first request of a connection, and for the rest of a head once begun, for ever: whoever opens
connections and says nothing would leave none to others. Knows nothing of requests.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_WAIT_S = 20.0
"""From the connection, or from the end of the answer before, to the next request's whole head. Time too for the rest of
a body that was refused: a client that is cut off while sending may never read why."""


class BoundedConnection(H11Protocol):
    """uvicorn's own protocol for HTTP/1.1, which bounds a head at 64 KB, with a bound in time."""

    head_wait_s = HEAD_WAIT_S
    _wait: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_anew()

    def on_response_complete(self) -> None:
        self._wait_anew()
        super().on_response_complete()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._stop_waiting()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait_anew(self) -> None:
        self._stop_waiting()
        self._wait = self.loop.call_later(self.head_wait_s, self._waited)

    def _stop_waiting(self) -> None:
        if self._wait:
            self._wait.cancel()
            self._wait = None

    def _waited(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
