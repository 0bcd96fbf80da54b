"""An upstream that follows a script: the wire of a Duologue server, on loopback, with nothing behind it."""

from __future__ import annotations

import json
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from pybase64 import b64encode

RATE_HZ = 24_000
HEALTH: dict[str, Any] = {
    "status": "ready",
    "engine": "csm",
    "model": "a model",
    "sample_rate_hz": RATE_HZ,
    "device": "cuda",
    "voices": [],
    "context": "conversation",
    "takes": True,
    "sampling": True,
    "grain": "frame",
    "parallel": 4,
    "speed": [1, 1],
    "notes": ["Speaks."],
    "speakers": [None, None],
}

SOUND = (32_000 * np.sin(np.arange(RATE_HZ // 5))).astype("<i2")
"""What it says of every line: 200 ms, in two events."""


class FakeUpstream:
    """Answers as `script` says, one entry a request, then speaks. An entry is

    (status, body, headers)   an error
    "refuse"                  closes the connection without a word
    "break"                   closes it after the first sound
    "fail"                    an error event after the first sound
    "hold"                    waits before the first sound, until `release`
    "stay"                    waits after it, until `release` or until the other side hangs up (counted in `hung_up`)

    bodies: of all requests to speak. health: what it says of itself. asked: how often it was asked for that.
    """

    def __init__(self, **health: Any) -> None:
        self.health = HEALTH | health
        self.script: deque[Any] = deque()
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.asked = 0
        self.hung_up = 0
        self.release = threading.Event()
        self.arrived = threading.Condition()
        self.url = ""

    def until(self, true: Callable[[], bool]) -> None:
        with self.arrived:
            assert self.arrived.wait_for(true, 20), self.bodies

    def changed(self) -> None:
        with self.arrived:
            self.arrived.notify_all()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeUpstream

    def do_GET(self) -> None:
        self.fake.asked += 1
        self.fake.keys.add(self.headers["Authorization"])
        self._answer(200, self.fake.health)

    def do_POST(self) -> None:
        try:
            self._post()
        except OSError:
            self.fake.hung_up += 1
            self.fake.changed()
            self.close_connection = True

    def _post(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fake = self.fake
        fake.bodies.append(body | {"path": self.path})
        fake.changed()
        entry = fake.script.popleft() if fake.script else None
        if isinstance(entry, tuple):
            return self._answer(*entry)
        if entry == "refuse":
            self.close_connection = True
            return self.connection.shutdown(socket.SHUT_RDWR)
        if entry == "hold" and self._wait():
            self.close_connection = True
            return None
        if self.path == "/speak":
            return self._whole()
        return self._stream(entry, body)

    def _wait(self) -> bool:
        """Whether the other side hung up."""
        while not self.fake.release.is_set():
            if select.select([self.connection], [], [], 0.005)[0] and self._is_over():
                self.fake.hung_up += 1
                self.fake.changed()
                return True
        return False

    def _is_over(self) -> bool:
        try:
            return not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def _whole(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(SOUND.nbytes))
        self.end_headers()
        self.wfile.write(SOUND.tobytes())

    def _stream(self, entry: Any, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        start = {"sample_rate_hz": self.fake.health["sample_rate_hz"], "seed": body["seed"], "voice": None}
        self._event({"type": "speech.audio.start", **start, "response_format": "pcm"})
        half = len(SOUND) // 2
        self._delta(SOUND[:half])
        if entry == "break":
            self.close_connection = True
            return self.connection.shutdown(socket.SHUT_RDWR)
        if entry == "fail":
            self._event({"type": "error", "detail": "the engine broke", "code": "engine_failed", "field": None})
            return self._chunk(b"")
        if entry == "stay" and self._wait():
            self.close_connection = True
            return None
        self._delta(SOUND[half:])
        cut = body["text"] == "Too long."
        lost = body["text"] == "Hm."
        self._event({"type": "speech.audio.done", "duration_ms": 200, "truncated": cut, "ran_away": lost})
        return self._chunk(b"")

    def _delta(self, samples: np.ndarray) -> None:
        self._event({"type": "speech.audio.delta", "audio": b64encode(samples.tobytes()).decode()})

    def _event(self, event: dict[str, Any]) -> None:
        self._chunk(b"data: " + json.dumps(event).encode() + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            """The other side hung up."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: the other side hung up."""


@contextmanager
def serving(fake: FakeUpstream) -> Iterator[FakeUpstream]:
    """`fake`, listening; at the same address as before where it has one."""
    port = int(fake.url.rpartition(":")[2]) if fake.url else 0
    server = _Server(("127.0.0.1", port), type("Handler", (_Handler,), {"fake": fake}))
    fake.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        fake.release.set()
        server.shutdown()
        server.server_close()
        thread.join()
