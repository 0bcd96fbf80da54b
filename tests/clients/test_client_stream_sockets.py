"""Streams over a real connection: sound is there when it is sent, and a stream that is left is a connection closed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from clients import AsyncTTSClient, ConnectionFailed, TTSClient
from tests.clients.streams import DONE, START, delta, written

ONE, TWO, END = written(START, delta(b"one")), written(delta(b"two")), written(DONE)


class StreamServer:
    """Sends each of `pieces` as a chunk of its own; where it is not bytes it is called, with the connection."""

    def __init__(self) -> None:
        self.pieces: list[bytes | Callable[[BaseHTTPRequestHandler], None]] = []
        self.connections: set[Any] = set()
        self.asked = threading.Event()
        self.caller_left = threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                owner.connections.add(self.client_address)
                owner.asked.set()
                try:
                    self._stream()
                except OSError:
                    hang_up(self)
                    owner.caller_left.set()

            def _stream(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for piece in owner.pieces:
                    if callable(piece):
                        piece(self)
                        continue
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                if not self.close_connection:
                    self.wfile.write(b"0\r\n\r\n")

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def until_left(self, handler: BaseHTTPRequestHandler) -> None:
        """Sends nothing until the caller is gone."""
        handler.rfile.read(1)
        hang_up(handler)
        self.caller_left.set()

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


@pytest.fixture
def server() -> Iterator[StreamServer]:
    served = StreamServer()
    yield served
    served.close()


def test_sound_is_there_before_the_rest_is_made(server: StreamServer) -> None:
    heard = threading.Event()
    server.pieces = [ONE[:50], ONE[50:] + TWO[:20], lambda _: heard.wait(60) and None, TWO[20:], END]
    with TTSClient(server.url) as client, client.stream("Hello") as stream:
        assert next(stream) == b"one"
        heard.set()
        assert list(stream) == [b"two"]


def test_the_connection_serves_again_after_a_whole_stream(server: StreamServer) -> None:
    server.pieces = [ONE, END]
    with TTSClient(server.url) as client:
        assert [client.stream("Hello").collect() for _ in range(3)] == [b"one"] * 3
    assert len(server.connections) == 1


@pytest.mark.parametrize("when", ["opened", "heard", "interrupted"])
def test_leaving_closes_the_connection(server: StreamServer, when: str) -> None:
    server.pieces = [ONE, server.until_left]
    with TTSClient(server.url) as client:
        try:
            with client.stream("Hello") as stream:
                if when != "opened":
                    next(stream)
                if when == "interrupted":
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
        assert server.caller_left.wait(60)


@pytest.mark.parametrize("sent", [b"", TWO[:30], TWO])
def test_a_connection_that_breaks_is_no_end(server: StreamServer, sent: bytes) -> None:
    server.pieces = [ONE, sent, hang_up] if sent else [ONE, hang_up]
    told = f"broke off after {6 if sent == TWO else 3} bytes"
    with (
        TTSClient(server.url) as client,
        client.stream("Hello") as stream,
        pytest.raises(ConnectionFailed, match=told),
    ):
        list(stream)
    assert len(server.connections) == 1


@pytest.mark.parametrize("way", ["close", "cancel"])
def test_a_task_that_waits_for_sound_can_be_stopped(server: StreamServer, way: str) -> None:
    server.pieces = [ONE, server.until_left]

    async def run() -> None:
        async with AsyncTTSClient(server.url) as client:
            stream = client.stream("Hello")
            assert await anext(stream) == b"one"
            reading = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if way == "close":
                await stream.aclose()
                with pytest.raises(ConnectionFailed, match="closed after 3 bytes"):
                    await reading
            else:
                reading.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reading
            with pytest.raises(ConnectionFailed, match="closed after 3 bytes"):
                await anext(stream)
            assert await asyncio.to_thread(server.caller_left.wait, 60)

    asyncio.run(run())


def test_waiting_for_the_first_sound_can_be_stopped(server: StreamServer) -> None:
    server.pieces = [written(START), server.until_left]

    async def run() -> None:
        async with AsyncTTSClient(server.url) as client:
            opening = asyncio.ensure_future(client.stream("Hello").open())
            assert await asyncio.to_thread(server.asked.wait, 60)
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            assert await asyncio.to_thread(server.caller_left.wait, 60)

    asyncio.run(run())
