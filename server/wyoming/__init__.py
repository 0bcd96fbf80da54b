"""Home Assistant's door: the Wyoming protocol, over TCP, beside the HTTP application and over the same desk.

It has no keys: whoever reaches the port may speak, from at most half of the places there are. Knows no event; those
are in messages.py and connection.py.
"""

from __future__ import annotations

import asyncio
import socket
import uuid

from loguru import logger

from server.desk import Desk, Places
from server.guard import Addresses
from server.wyoming.connection import Connection
from server.wyoming.frames import MAX_HEADER_BYTES

MAX_CONNECTIONS = 64
"""Open at once. A further one takes the place of the one that has asked for nothing for longest."""


class Door:
    """Listens, and keeps what the connections share. `address`: a bound socket."""

    def __init__(self, desk: Desk, address: socket.socket) -> None:
        self.desk = desk
        self.addresses = Addresses(desk.settings.rate_per_minute)
        self.places = Places(desk.service, desk.settings, "texts of Wyoming's clients")
        self._address = address
        self._server: asyncio.Server | None = None
        self._open: dict[Connection, asyncio.Task[None]] = {}

    @property
    def url(self) -> str:
        host, port = self._address.getsockname()[:2]
        return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._accept, sock=self._address, limit=MAX_HEADER_BYTES)

    async def close(self, within_s: float) -> None:
        """Take no more connections, and end those there are: at once where nothing is asked, else when all of it has
        been answered, if that is soon enough."""
        if self._server is None:
            return
        self._server.close()
        for connection in self._open:
            connection.drain()
        tasks = list(self._open.values())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=within_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer: socket.socket = writer.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # one that has vanished is not kept for ever
        connection = Connection(self, reader, writer)
        task = asyncio.current_task()
        assert task
        with logger.contextualize(request_id=uuid.uuid4().hex):
            if len(self._open) >= MAX_CONNECTIONS and not self._make_room():
                await connection.refuse()
                return
            self._open[connection] = task
            try:
                await connection.serve()
            finally:
                del self._open[connection]

    def _make_room(self) -> bool:
        """Whether a connection that asks for nothing could be closed for another."""
        idle = [connection for connection in self._open if connection.idle]
        if idle:
            min(idle, key=lambda connection: connection.idle_since_s).drop()
        return bool(idle)
