"""Faster or slower at the same pitch, chunk by chunk, for engines that cannot: libav's atempo (WSOLA)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
import av.filter
import numpy as np

from audio_utils import Audio

_STEP = 2.0  # atempo skips samples beyond 2 and refuses less than 0.5: larger changes are made in several steps


def at_tempo(chunks: Iterable[Audio], tempo: float) -> Iterator[Audio]:
    """`chunks` at `tempo` times their pace, 0.25 to 4. The sum of what comes out lasts 1 / `tempo` of what went in."""
    graph: av.filter.Graph | None = None
    written = 0
    for chunk in chunks:
        if graph is None:
            graph = _graph(tempo, chunk.sample_rate_hz)
        frame = av.AudioFrame.from_ndarray(chunk.samples[np.newaxis], "flt", "mono")
        frame.sample_rate = chunk.sample_rate_hz
        frame.time_base = Fraction(1, chunk.sample_rate_hz)
        frame.pts = written
        written += len(chunk.samples)
        graph.push(frame)
        yield from _ready(graph, chunk.sample_rate_hz)
    if graph is not None:
        graph.push(None)
        yield from _ready(graph, chunk.sample_rate_hz)


def _graph(tempo: float, sample_rate_hz: int) -> av.filter.Graph:
    graph = av.filter.Graph()
    steps = 1 if 1 / _STEP <= tempo <= _STEP else 2
    nodes = [
        graph.add_abuffer(
            sample_rate=sample_rate_hz, format="flt", layout="mono", time_base=Fraction(1, sample_rate_hz)
        )
    ]
    nodes += [graph.add("atempo", f"{tempo ** (1 / steps):.6f}") for _ in range(steps)]
    nodes += [graph.add("aformat", "sample_fmts=flt:channel_layouts=mono"), graph.add("abuffersink")]
    graph.link_nodes(*nodes).configure()
    return graph


def _ready(graph: av.filter.Graph, sample_rate_hz: int) -> Iterator[Audio]:
    pieces = []
    while True:
        try:
            pieces.append(np.asarray(graph.pull().to_ndarray(), np.float32).reshape(-1))
        except (av.BlockingIOError, av.EOFError):
            break
    if pieces:
        yield Audio(np.concatenate(pieces), sample_rate_hz)
