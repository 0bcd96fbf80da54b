"""A server on the loopback that honours the wire contract with a tone for a voice, and what the tests share."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import threading
import wave
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import schemas
from speech.errors import InvalidInput, to_http
from tests.clients.streams import DONE, START, delta, failed, written

ROOT = Path(__file__).parents[2]
REQUESTS: dict[str, type[schemas.Model]] = {
    "/speak": schemas.SpeakRequest,
    "/conversation": schemas.ConversationRequest,
    "/clone_voice": schemas.CloneVoiceRequest,
    "/batch_speak": schemas.BatchSpeakRequest,
    "/contextual_speak": schemas.ContextualSpeakRequest,
    "/quality_speak": schemas.SpeakRequest,
    "/cached_speak": schemas.PlainSpeakRequest,
    "/optimized_speak": schemas.SpeakRequest,
    "/robust_speak": schemas.SpeakRequest,
    "/stream_speak": schemas.StreamSpeakRequest,
}


def wav(frames: int = 240) -> bytes:
    """A WAV of silence, 24 kHz."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(24_000)
        file.writeframes(bytes(2 * frames))
    return out.getvalue()


def wav_header() -> bytes:
    """That of a WAV whose length nobody knows yet."""
    header = bytearray(wav(0))
    header[4:8] = header[40:44] = b"\xff" * 4
    return bytes(header)


class FakeServer:
    """Parses every request with the real `schemas` and answers with silence. `seen` holds (path, headers, body).

    A text that holds "UNSPEAKABLE" is refused, one that holds "CRASH" is a 500, and where `key` is set, a request
    without it a 401. In a stream, after the first sound, "BREAK" is an error and "STAY" waits until the caller leaves.
    """

    def __init__(self) -> None:
        self.caller_left = threading.Event()
        self.seen: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.key: str | None = None
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(200, json.dumps({"status": "ready"}).encode(), "application/json")

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                owner.seen.append((self.path, dict(self.headers), body))
                if owner.key and self.headers["Authorization"] != f"Bearer {owner.key}":
                    return self._error(401, "the API key is missing or wrong", "unauthorised")
                try:
                    request = schemas.parse(REQUESTS[self.path], body)
                    _refuse_the_unspeakable(body)
                except InvalidInput as error:
                    status, answer, headers = to_http(error)
                    return self._answer(status, json.dumps(answer).encode(), "application/json", headers)
                if "CRASH" in json.dumps(body):
                    return self._error(500, "the engine failed on this request", "engine_failed")
                if isinstance(request, schemas.BatchSpeakRequest):
                    sounds = [base64.b64encode(wav(24 * len(text))).decode() for text in request.texts]
                    return self._answer(200, json.dumps(sounds).encode(), "application/json")
                if isinstance(request, schemas.StreamSpeakRequest):
                    return self._stream(request)
                seed = getattr(request, "seed", None)
                told = {"X-Seed": str(7 if seed is None else seed), "X-Truncated": "false", "X-Request-Id": "r1"}
                self._answer(200, wav(), "audio/wav", told)

            def _stream(self, request: schemas.StreamSpeakRequest) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                told = {"seed": 7, "response_format": request.response_format, "media_type": "audio/x"}
                header = wav_header() if request.response_format == "wav" else b""
                self.wfile.write(written(START | told, delta(header + b"\1\0" * 120)))
                if "STAY" in request.text:
                    self.rfile.read(1)
                    owner.caller_left.set()
                elif "BREAK" in request.text:
                    self.wfile.write(written(failed("engine_failed", "the engine broke")))
                else:
                    self.wfile.write(written(delta(b"\2\0" * 120), DONE | {"truncated": False}))

            def _error(self, status: int, detail: str, code: str) -> None:
                body = {"detail": detail, "code": code, "field": None}
                self._answer(status, json.dumps(body).encode(), "application/json")

            def _answer(self, status: int, body: bytes, media_type: str, headers: dict[str, str] | None = None) -> None:
                self.send_response(status)
                told = {"Content-Type": media_type, "Content-Length": str(len(body)), **(headers or {})}
                for name, value in told.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


def _refuse_the_unspeakable(body: dict[str, Any]) -> None:
    for index, text in enumerate(body.get("texts", [])):
        if "UNSPEAKABLE" in text:
            raise InvalidInput(f"texts[{index}]", "cannot be said", "say something else")
    if "UNSPEAKABLE" in body.get("text", ""):
        raise InvalidInput("text", "cannot be said", "say something else")


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()
    yield fake
    fake.close()


Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def cli(server: FakeServer, tmp_path: Path) -> Run:
    """Runs `python -m clients …` in `tmp_path` against the fake server, with `path` as PATH."""

    def run(
        *arguments: str, stdin: bytes = b"", path: str = "", env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        clean = {"PYTHONPATH": str(ROOT), "PATH": path, "DUOLOGUE_URL": server.url, "NO_PROXY": "*", "LANG": "C.UTF-8"}
        return subprocess.run(
            [sys.executable, "-m", "clients", *arguments],
            cwd=tmp_path,
            env=clean | (env or {}),
            input=stdin,
            capture_output=True,
            timeout=30,
            check=False,
        )

    return run


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name in ("DUOLOGUE_API_KEY", "CHUTES_API_KEY", "DUOLOGUE_URL") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
