"""A connection that asks for nothing is closed; one that is served is left alone, however long it takes."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from websockets.sync.client import connect

from server.connections import BoundedConnection

HEAD_WAIT_S = 0.3


class Hasty(BoundedConnection):
    head_wait_s = HEAD_WAIT_S


async def slow_echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers, twice as late as a head may be."""
    await receive()
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        await asyncio.sleep(2 * HEAD_WAIT_S)
        await send({"type": "websocket.send", "text": "late"})
        await receive()
        return
    await asyncio.sleep(2 * HEAD_WAIT_S)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
    await send({"type": "http.response.body", "body": b"late"})


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    config = uvicorn.Config(slow_echo, http=Hasty, lifespan="off", log_level="error")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield listening.getsockname()
        server.should_exit = True
        thread.join(20)


def test_who_does_not_ask_is_not_waited_for(address: tuple[str, int]) -> None:
    with ExitStack() as opened:
        silent = [opened.enter_context(socket.create_connection(address, timeout=20)) for _ in range(3)]
        for connection, said in zip(silent, (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nX: "), strict=True):
            connection.sendall(said)
        assert [connection.recv(100) for connection in silent] == [b"", b"", b""]


def test_a_refused_body_is_not_read_for_ever(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nx")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        with pytest.raises(ConnectionError):
            for _ in range(2000):
                connection.sendall(b"x")
                time.sleep(0.01)


def test_who_is_served_is_left_alone(address: tuple[str, int]) -> None:
    url = f"http://{address[0]}:{address[1]}"
    with httpx.Client(base_url=url, timeout=20) as http:
        assert [http.get("/").text for _ in range(2)] == ["late", "late"]
    with connect(url.replace("http", "ws")) as socket_:
        assert socket_.recv(20) == "late"
