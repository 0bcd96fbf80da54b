"""What /metrics tells: numbers of this server, in Prometheus' text.

Watches: the service tells it of every answer, the request log of every request, the rest is read when asked. Names
are those of vLLM and vLLM-Omni where they have one, in Prometheus' units (docs/metrics.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    CollectorRegistry,
    Counter,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from server.streams import Backlog
from speech.account import Account
from speech.release import VERSION
from speech.service import Service

MEDIA_TYPE = CONTENT_TYPE_PLAIN_0_0_4
PREFIX = "duologue_"

FIRST_AUDIO_S = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30)
SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300)
AUDIO_S = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 900)
UNDERRUN_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)
RTF = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1, 1.25, 1.5, 2, 5, 10)

disable_created_metrics()  # a second series for each, with the time it began: nobody reads them


class Metrics:
    """The numbers of one service. Safe from any thread."""

    def __init__(self, service: Service, backlog: Backlog) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(_Held(service, backlog))
        info = service.engine.info
        told = {"version": VERSION, "engine": info.name, "model": info.model, "device": info.device}
        Info(PREFIX + "engine", "What speaks here.", registry=self._registry).info(told)

        self._requests = self._counter("http_requests", "Requests by route and status.", "handler", "status")
        self._answers = self._counter("answers", "Answers by how they ended.", "delivery", "finished_reason")
        self._underruns = self._counter("audio_underruns", "Times that a stream's listener ran out of sound.")
        self._queue = self._histogram("request_queue_time", "From asking for a turn to getting it.", SECONDS)
        self._latency = self._histogram("e2e_request_latency", "From request to the end.", SECONDS, "delivery")
        self._first = self._histogram("time_to_first_audio", "From request to first sound.", FIRST_AUDIO_S, "delivery")
        self._audio = self._histogram("audio_duration", "Sound of one answer.", AUDIO_S, "delivery")
        self._underrun = self._histogram("audio_underrun", "Silence that a stream's listener heard.", UNDERRUN_S)
        self._rtf = Histogram(
            PREFIX + "audio_rtf",
            "The engine's time for a second of sound.",
            ["delivery"],
            buckets=RTF,
            registry=self._registry,
        )
        service.watchers.append(self.answered)

    def _counter(self, name: str, told: str, *labels: str) -> Counter:
        return Counter(PREFIX + name, told, labels, registry=self._registry)

    def _histogram(self, name: str, told: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"{PREFIX}{name}_seconds", told, labels, buckets=buckets, registry=self._registry)

    def requested(self, handler: str, status: int) -> None:
        """A request for the route `handler` was answered."""
        self._requests.labels(handler, status).inc()

    def answered(self, account: Account) -> None:
        """An answer has ended."""
        delivery = "stream" if account.streamed else "whole"
        self._answers.labels(delivery, account.finished_reason).inc()
        if account.turn_s is not None:
            self._queue.observe(account.waited_s)
        if not account.audio_s:
            return
        self._latency.labels(delivery).observe(account.took_s)
        self._first.labels(delivery).observe(account.first_audio_ms / 1000)
        self._audio.labels(delivery).observe(account.audio_s)
        self._rtf.labels(delivery).observe(account.rtf)
        if account.streamed:
            self._underruns.inc(account.late)
            self._underrun.observe(account.late_s)

    def text(self) -> bytes:
        """All of it, of the media type `MEDIA_TYPE`."""
        return generate_latest(self._registry)


class _Held(Collector):
    """What is read when it is asked for: how much is held and under way just now."""

    def __init__(self, service: Service, backlog: Backlog) -> None:
        cache, sessions, gate = service.cache, service.sessions, service.gate
        self._engine = service.engine
        self._gauges: tuple[tuple[str, str, Callable[[], float]], ...] = (
            ("num_requests_running", "Requests that have the engine's turn.", lambda: gate.speaking),
            ("num_requests_waiting", "Requests that wait for it.", lambda: gate.waiting),
            ("stream_buffer_bytes", "Sound made and not yet taken by its listeners.", lambda: backlog.held_bytes),
            ("cache_entries", "Answers that /cached_speak keeps.", lambda: len(cache)),
            ("cache_bytes", "And their size.", lambda: cache.nbytes),
            ("sessions", "Sessions that are remembered.", lambda: len(sessions)),
            ("sessions_bytes", "And their sound.", lambda: sessions.nbytes),
        )
        self._counters: tuple[tuple[str, str, Callable[[], float]], ...] = (
            ("cache_queries", "Answers looked for in the cache.", lambda: cache.asked),
            ("cache_hits", "Answers found there.", lambda: cache.found),
        )

    def collect(self) -> Iterator[Metric]:
        for name, told, read in self._gauges:
            yield GaugeMetricFamily(PREFIX + name, told, value=read())
        for name, told, read in self._counters:
            yield CounterMetricFamily(PREFIX + name, told, value=read())
        load = self._engine.load()
        yield _batch_sizes(load.batches)
        memory = GaugeMetricFamily(PREFIX + "gpu_memory_bytes", "Memory of the engine's GPU.", labels=["kind"])
        for kind, nbytes in load.memory.items():
            memory.add_metric([kind], nbytes)
        yield memory


def _batch_sizes(batches: tuple[int, ...]) -> Metric:
    """`batches` (see Load) as a histogram; without a sample for an engine that makes no frames."""
    family = HistogramMetricFamily(PREFIX + "batch_size", "Lines spoken together, of every frame the engine made.")
    if batches:
        buckets = [(f"{size}.0", float(sum(batches[: size + 1]))) for size in range(1, len(batches))]
        lines = sum(size * frames for size, frames in enumerate(batches))
        family.add_metric([], [*buckets, ("+Inf", float(sum(batches)))], lines)
    return family
