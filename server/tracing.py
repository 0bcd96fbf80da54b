"""OpenTelemetry traces, where OTEL_EXPORTER_OTLP_ENDPOINT says where to send them; else nothing of it is imported.

A request is a span of FastAPI's own making, which continues the caller's trace. Each answer in it adds how long it
waited for its turn, how long its first sound took and how long it spoke on.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastapi.telemetry import TelemetryConfig
from loguru import logger

from server.request_log import POLLED
from speech.account import Account
from speech.errors import StartupError
from speech.release import VERSION
from speech.service import Service

if TYPE_CHECKING:
    from loguru import Record
    from opentelemetry.sdk.trace import TracerProvider

OF_FASTAPI: TelemetryConfig = {
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
    "exclude": lambda scope: scope["path"] in POLLED,
}
"""What FastAPI does by itself: a span for each request where there are `Traces`, and nothing else."""

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"


def wanted(env: Mapping[str, str] = os.environ) -> bool:
    """Whether traces are to be sent. Raises StartupError where they cannot be."""
    endpoint = next((name for name in _ENDPOINTS if env.get(name)), None)
    off = env.get("OTEL_SDK_DISABLED", "").lower() == "true" or env.get("OTEL_TRACES_EXPORTER") == "none"
    if endpoint is None or off:
        return False
    for name in _PROTOCOLS:
        if env.get(name, _PROTOCOL) != _PROTOCOL:
            raise StartupError(f"{name}={env[name]} will not do: traces are sent as {_PROTOCOL}; set that, or unset it")
    try:
        found = importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        raise StartupError(
            f"{endpoint} is set, and the packages for it are missing: run "
            "`.venv/bin/pip install -r requirements/otel.txt`, or set OTEL_SDK_DISABLED=true"
        )
    return True


class Traces:
    """Sends the spans of every request and of every answer of `service`. Call `close` at the end."""

    def __init__(self, service: Service) -> None:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        class WithoutQuery(SpanProcessor):
            """A query holds what is spoken, and the key of a WebSocket."""

            def on_start(self, span: Any, parent_context: Any = None) -> None:
                if "url.query" in span.attributes:
                    span.set_attribute("url.query", "REDACTED")

        own = Resource({"service.name": "duologue", "service.version": VERSION})
        self._provider: TracerProvider = TracerProvider(resource=own.merge(OTELResourceDetector().detect()))
        self._provider.add_span_processor(WithoutQuery())
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        trace.set_tracer_provider(self._provider)
        self._trace = trace
        self._tracer = trace.get_tracer("duologue", VERSION)
        service.watchers.append(self.answered)
        logger.configure(patcher=self._with_trace_id)

    def answered(self, account: Account) -> None:
        """Spans of an answer that has ended, inside that of its request."""
        told: dict[str, str | float] = {
            "duologue.finished_reason": account.finished_reason,
            "duologue.audio_s": account.audio_s,
            "duologue.rtf": account.rtf,
            "duologue.underruns": account.late,
        }
        epoch_ns = time.time_ns() - time.monotonic_ns()
        for name, begins_s, ends_s in (
            ("queue", account.asked_s, account.turn_s),
            ("first audio", account.turn_s, account.first_audio_s),
            ("speaking", account.first_audio_s, account.ended_s),
        ):
            if begins_s is not None:
                span = self._tracer.start_span(name, start_time=epoch_ns + round(1e9 * begins_s), attributes=told)
                span.end(epoch_ns + round(1e9 * (ends_s or account.ended_s)))

    def _with_trace_id(self, record: Record) -> None:
        context = self._trace.get_current_span().get_span_context()
        if context.is_valid:
            record["extra"]["trace_id"] = self._trace.format_trace_id(context.trace_id)

    def close(self) -> None:
        """Send what has not been sent."""
        self._provider.shutdown()
