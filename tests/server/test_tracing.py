"""Traces: a collector that speaks OpenTelemetry's protocol is told what each request took."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from server import tracing
from speech.errors import StartupError
from tests.server.observed import Collector, Logged
from tests.server.test_load import until

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


def attributes(span: Span) -> dict[str, object]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value") or "") for each in span.attributes}


@pytest.mark.parametrize("path", ["/speak", "/stream_speak"])
def test_a_request_continues_the_callers_trace_and_tells_what_it_took(
    logged: Logged, collector: Collector, path: str
) -> None:
    trace_id, parent_id = ("a" if path == "/speak" else "b") * 32, "1234567890abcdef"
    answer = logged.http.post(
        f"{path}?api_key=Zanzibar",
        json={"text": "Zanzibar, in two sentences. This is the other."},
        headers={"traceparent": f"00-{trace_id}-{parent_id}-01"},
    )
    assert answer.status_code == 200
    assert until(lambda: len(collector.of(trace_id)) == 4)
    spans = {span.name: span for span in collector.of(trace_id)}
    request = spans.pop(f"POST {path}")
    assert request.parent_span_id.hex() == parent_id
    assert attributes(request)["http.response.status_code"] == 200
    steps = [spans.pop(name) for name in ("queue", "first audio", "speaking")]
    assert not spans
    assert {step.parent_span_id for step in steps} == {request.span_id}
    times = [time for step in steps for time in (step.start_time_unix_nano, step.end_time_unix_nano)]
    assert times == sorted(times)
    assert request.start_time_unix_nano - 1e6 <= times[0] and times[-1] <= request.end_time_unix_nano + 1e6
    assert attributes(steps[-1])["duologue.finished_reason"] == "stop"
    assert b"Zanzibar" not in collector.raw, "neither what is spoken nor what stands in the query"
    assert collector.names == {"duologue"}
    assert logged.line(answer.headers["x-request-id"], "spoke ")["trace_id"] == trace_id


def test_polling_makes_no_trace_and_a_refusal_does(logged: Logged, collector: Collector) -> None:
    for path in ("/health", "/ready", "/metrics"):
        assert logged.http.get(path, headers={"traceparent": f"00-{'c' * 32}-1234567890abcdef-01"}).status_code == 200
    refused = logged.http.post("/speak", json={}, headers={"traceparent": f"00-{'d' * 32}-1234567890abcdef-01"})
    assert refused.status_code == 400
    assert until(lambda: bool(collector.of("d" * 32)))
    assert [span.name for span in collector.of("d" * 32)] == ["POST /speak"]
    assert not collector.of("c" * 32)


@pytest.mark.parametrize("off", [{"OTEL_SDK_DISABLED": "True"}, {"OTEL_TRACES_EXPORTER": "none"}, {ENDPOINT: ""}])
def test_traces_can_be_turned_off(off: dict[str, str]) -> None:
    assert not tracing.wanted({ENDPOINT: "http://127.0.0.1:4318", **off})


def test_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    env = {ENDPOINT: "http://127.0.0.1:4318"}
    assert tracing.wanted(env) and not tracing.wanted({})
    with pytest.raises(StartupError, match=r"OTEL_EXPORTER_OTLP_PROTOCOL=grpc will not do.*http/protobuf"):
        tracing.wanted({**env, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})

    def missing(name: str, package: str | None = None) -> ModuleSpec | None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib.util, "find_spec", missing)
    with pytest.raises(StartupError, match=r"OTEL_EXPORTER_OTLP_ENDPOINT is set.*requirements/otel.txt"):
        tracing.wanted(env)
