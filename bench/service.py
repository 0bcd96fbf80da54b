"""What the service adds to an engine, and what its cache gives back: `python -m bench.service`.

Each engine is timed alone and through HTTP, in turn, on the same lines in one run, so that the two differ by the
service and not by the minute. "first audio" is the engine's first chunk; through HTTP an answer is whole, so the
engine's whole line is what it is held against.
"""

from __future__ import annotations

import json
import socket
import statistics
import threading
import time
from collections.abc import Callable

import httpx
import uvicorn

from audio_utils import Audio
from server.app import create_app
from speech.engines.base import Engine, Line
from speech.engines.registry import choose
from speech.service import Service
from speech.settings import Settings

TEXTS = {
    "short": "Hello. Nice to meet you.",
    "medium": "The weather is lovely today, and I would rather be outside than in here.",
    "long": "It was a bright morning in April. The clocks had just struck nine, and nobody in the house was awake yet.",
}
ROUNDS = 15
CACHE_REQUESTS = 500


def median_ms(times_s: list[float]) -> float:
    return statistics.median(times_s) * 1000


def timed(call: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    call()
    return time.perf_counter() - began_s


class Serving:
    """The self-hosted server in a thread of this process, over the very engine that is timed alone."""

    def __init__(self, service: Service, settings: Settings) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        config = uvicorn.Config(create_app(service, settings), port=port, log_level="warning")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120)

    def __enter__(self) -> httpx.Client:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        return self.http

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()


def lines(engine: Engine, http: httpx.Client, text: str) -> dict[str, float]:
    """Times of one text, alone and through HTTP, round by round in turn."""
    line = Line(text, max_duration_ms=90_000)
    first, alone, through = [], [], []
    audio = Audio.join(engine.speak(line))
    body = {"text": text, "seed": 0, "max_duration_ms": 90_000}
    for _ in range(ROUNDS):
        chunks = engine.speak(line)
        first.append(timed(lambda: next(chunks)))  # noqa: B023
        chunks.close()
        alone.append(timed(lambda: list(engine.speak(line))))
        through.append(timed(lambda: http.post("/speak", json=body).raise_for_status()))
    added = [whole - engine_s for whole, engine_s in zip(through, alone, strict=True)]
    return {
        "audio_ms": audio.duration_ms,
        "first_audio_ms": median_ms(first),
        "engine_ms": median_ms(alone),
        "http_ms": median_ms(through),
        "added_ms": median_ms(added),
        "rtf": median_ms(through) / audio.duration_ms,
    }


def cache(http: httpx.Client) -> dict[str, float]:
    """A repeat against the first answer, and repeats a second on one connection."""
    body = {"text": TEXTS["long"], "max_duration_ms": 30_000}
    miss_s = timed(lambda: http.post("/cached_speak", json=body).raise_for_status())
    hits = [timed(lambda: http.post("/cached_speak", json=body).raise_for_status()) for _ in range(CACHE_REQUESTS)]
    return {"miss_ms": miss_s * 1000, "hit_ms": median_ms(hits), "times": miss_s / statistics.median(hits)} | {
        "hits_a_second": CACHE_REQUESTS / sum(hits)
    }


def freed_ms(service: Service, port_url: str) -> float:
    """From hanging up on a long request to an engine that is free."""
    host, port = port_url.removeprefix("http://").split(":")
    payload = json.dumps({"text": TEXTS["long"] * 40, "max_duration_ms": 90_000}).encode()
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /speak HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(payload)}\r\n\r\n"
        connection.sendall(head.encode() + payload)
        while not service.gate.speaking:
            time.sleep(0.001)
        time.sleep(0.3)
        began_s = time.perf_counter()
    while service.gate.speaking:
        time.sleep(0.001)
    return (time.perf_counter() - began_s) * 1000


def main() -> None:
    result: dict[str, object] = {"bench": "service"}
    print(f"{'engine':8} {'text':7} {'audio':>7} {'first':>7} {'engine':>8} {'http':>8} {'added':>7} {'RTF':>7}   ms")
    for name in ("kokoro", "hibari"):
        settings = Settings(engine=name)
        service = Service(choose(settings), settings)
        service.start()
        with Serving(service, settings) as http:
            for kind, text in TEXTS.items():
                row = lines(service.engine, http, text)
                result[f"{name}_{kind}"] = {key: round(value, 4) for key, value in row.items()}
                print(
                    f"{name:8} {kind:7} {row['audio_ms']:7.0f} {row['first_audio_ms']:7.0f} {row['engine_ms']:8.1f} "
                    f"{row['http_ms']:8.1f} {row['added_ms']:7.1f} {row['rtf']:7.3f}"
                )
            kept = cache(http)
            freed = freed_ms(service, str(http.base_url).rstrip("/"))
        result[f"{name}_cache"] = {key: round(value, 3) for key, value in kept.items()}
        result[f"{name}_freed_ms"] = round(freed, 1)
        print(
            f"{name:8} cache: first {kept['miss_ms']:.0f} ms, repeat {kept['hit_ms']:.2f} ms "
            f"({kept['times']:.0f} times faster), {kept['hits_a_second']:.0f} repeats a second; "
            f"engine free {freed:.0f} ms after a caller hung up"
        )
        service.close()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
