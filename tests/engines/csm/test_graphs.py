"""The order in which a frame is captured and replayed, with a stand-in for cuda's graphs.

It shows what the wrapper does, not that cuda agrees: there is no GPU where these tests run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from speech.engines.csm.frames import Graphs


class Stream:
    def wait_stream(self, _: Stream) -> None: ...


class Graph:
    """Records the work done while it is open, as cuda would without doing it, and does it when replayed."""

    def replay(self) -> None:
        self.work()  # type: ignore[attr-defined]

    def pool(self) -> str:
        return "pool"


def stand_in(monkeypatch: pytest.MonkeyPatch, graph: Callable[..., Any]) -> None:
    for name, stand in {
        "Stream": lambda _: Stream(), "current_stream": lambda _: Stream(), "set_stream": lambda _: None,
        "stream": lambda _: contextlib.nullcontext(),
        "device": lambda _: contextlib.nullcontext(), "synchronize": lambda _: None, "CUDAGraph": Graph, "graph": graph,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, stand)


@pytest.mark.parametrize("runs", [1, 3])
def test_a_frame_is_captured_once_and_leaves_what_warming_up_changed_as_it_was(
    monkeypatch: pytest.MonkeyPatch, runs: int
) -> None:
    state, log = torch.zeros(1), []
    open_graph: list[Graph] = []

    def work() -> None:
        if open_graph:
            open_graph[0].work = work  # type: ignore[attr-defined]
            return
        log.append(float(state))
        state.add_(1)

    @contextlib.contextmanager
    def graph(made: Graph, *, pool: object, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        assert pool in (None, "pool")
        open_graph.append(made)
        yield
        open_graph.clear()

    stand_in(monkeypatch, graph)
    graphs = Graphs(torch.device("cuda"))
    for _ in range(runs):
        graphs.run((256, 64), work, lambda: [state])
    assert log == [0.0, 0.0, *map(float, range(runs))]  # two warm-ups from the same state, then one run each
    graphs.run((512, 64), work, lambda: [state])
    assert float(state) == runs + 1


def test_what_cuda_does_not_capture_is_done_without_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    state, captures = torch.zeros(1), []

    def graph(*_: object, **__: object) -> contextlib.AbstractContextManager[None]:
        captures.append(None)
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    stand_in(monkeypatch, graph)
    graphs = Graphs(torch.device("cuda"))
    for run in range(3):
        graphs.run((256, 64), lambda: state.add_(1), lambda: [state])
        assert float(state) == run + 1
    assert len(captures) == 1


def test_memory_that_runs_out_while_capturing_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def graph(*_: object, **__: object) -> contextlib.AbstractContextManager[None]:
        raise RuntimeError("CUDA error: out of memory")

    stand_in(monkeypatch, graph)
    with pytest.raises(RuntimeError, match="out of memory"):
        Graphs(torch.device("cuda")).run((256, 64), lambda: None, list)
