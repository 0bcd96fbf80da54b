"""The events of POST /stream_speak, a transport that plays them, and one face for both clients' streams."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from clients import AsyncTTSClient, TTSClient

STREAM = {"Content-Type": "text/event-stream; charset=utf-8", "X-Request-Id": "r1"}
START = {
    "type": "speech.audio.start",
    "seed": 9,
    "voice": "anna",
    "sample_rate_hz": 24_000,
    "media_type": "audio/mpeg",
    "response_format": "mp3",
}
DONE = {
    "type": "speech.audio.done",
    "duration_ms": 1200,
    "truncated": True,
    "first_audio_ms": 45.2,
    "usage": {"input_tokens": 3, "output_tokens": 15, "total_tokens": 18},
}


def delta(sound: bytes) -> dict[str, Any]:
    return {"type": "speech.audio.delta", "audio": base64.b64encode(sound).decode()}


def failed(code: str, detail: str, field: str | None = None) -> dict[str, Any]:
    return {"type": "error", "detail": detail, "code": code, "field": field}


def written(*events: dict[str, Any]) -> bytes:
    return b"".join(f"data: {json.dumps(event)}\n\n".encode() for event in events)


class Pieces(httpx.SyncByteStream, httpx.AsyncByteStream):
    """The body of an answer, piece by piece; an exception among them is raised there."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self.pieces = pieces
        self.read = 0
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        for piece in self.pieces:
            self.read += 1
            if isinstance(piece, Exception):
                raise piece
            yield piece

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


Answer = httpx.Response | Exception | Pieces


class Answers:
    """A transport's handler: gives the answers in turn and keeps the requests. `waits`: between them, in seconds."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.waits: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        answer = self.answers[len(self.requests)]
        self.requests.append(request)
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(200, headers=STREAM, stream=answer) if isinstance(answer, Pieces) else answer

    async def sleep(self, wait_s: float) -> None:
        self.waits.append(wait_s)


class Blocking:
    """An AsyncSpeechStream with the face of a SpeechStream."""

    def __init__(self, runner: asyncio.Runner, stream: Any) -> None:
        self._runner = runner
        self._stream = stream

    def __enter__(self) -> Blocking:
        self._runner.run(self._stream.__aenter__())
        return self

    def __exit__(self, *error: Any) -> None:
        self._runner.run(self._stream.__aexit__(*error))

    def __iter__(self) -> Blocking:
        return self

    def __next__(self) -> bytes:
        async def following() -> bytes | None:
            return await anext(self._stream, None)

        sound = self._runner.run(following())
        if sound is None:
            raise StopIteration
        return sound

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._stream, {"close": "aclose"}.get(name, name))
        return (lambda: self._runner.run(value())) if asyncio.iscoroutinefunction(value) else value


Streaming = Callable[..., Any]


@contextmanager
def streaming(asynchronous: bool, answers: Answers, **options: Any) -> Iterator[Streaming]:
    """`stream` of one client or the other, on `answers`."""
    transport = httpx.MockTransport(answers)
    if not asynchronous:
        with TTSClient("http://tts", transport=transport, sleep=answers.waits.append, **options) as client:
            yield client.stream
        return
    with asyncio.Runner() as runner:
        quick = AsyncTTSClient("http://tts", transport=transport, sleep=answers.sleep, **options)
        yield lambda *args, **kwargs: Blocking(runner, quick.stream(*args, **kwargs))
        runner.run(quick.aclose())


def joined(sounds: Iterable[bytes]) -> bytes:
    return b"".join(sounds)
