"""A server that is watched from outside: its log is kept, and its traces go to a collector of our own."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.server.test_load import until
from tests.server.test_main import started


@dataclass
class Logged:
    """A server whose log is JSON, and kept."""

    http: httpx.Client
    url: str
    log: Path

    def lines(self, request_id: str | None = None) -> list[dict]:
        told = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in told if request_id in (None, line.get("request_id"))]

    def line(self, request_id: str, begins: str) -> dict:
        """The line of that request with that beginning, which may be written just after the answer."""
        found: list[dict] = []

        def there() -> bool:
            found[:] = [line for line in self.lines(request_id) if line["message"].startswith(begins)]
            return bool(found)

        assert until(there, within_s=10), (request_id, begins)
        assert len(found) == 1
        return found[0]


class Collector(ThreadingHTTPServer):
    """Keeps what it is sent. `names`: of the services that sent it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Receiver)
        self.spans: list[Span] = []
        self.names: set[str] = set()
        self.raw = b""

    def of(self, trace_id: str) -> list[Span]:
        return [span for span in self.spans if span.trace_id.hex() == trace_id]


class _Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        body = gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
        self.server.raw += body
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            told = {each.key: each.value.string_value for each in resource.resource.attributes}
            self.server.names.add(told["service.name"])
            self.server.spans += [span for scope in resource.scope_spans for span in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def collecting() -> Iterator[Collector]:
    with Collector() as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        yield collector
        collector.shutdown()


@contextmanager
def logging_to(log: Path, collector: Collector) -> Iterator[Logged]:
    with pytest.MonkeyPatch.context() as env:
        env.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
        env.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        running = started(log, subprocess.DEVNULL, engine="hibari", port="0", log_format="json")
        with running as process:
            assert until(lambda: "listens on" in log.read_text() or process.poll() is not None, within_s=60)
            address = re.search(r"http://[\d.]+:\d+", log.read_text())
            assert address, log.read_text()
            with httpx.Client(base_url=address[0], timeout=60) as http:
                yield Logged(http, address[0], log)
