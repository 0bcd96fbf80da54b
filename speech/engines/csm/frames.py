"""Static slots: one frame for every slot at a time, by one captured graph on cuda and by the same code on CPU.

All slots are always computed, whoever is in them, so that the shapes, and with them every rounding, of a request are
the same alone and in company. An idle slot stays at position 0 and its result is not looked at. Knows nothing of
requests, threads or text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from loguru import logger

from speech.engines.csm.device import is_out_of_memory
from speech.engines.csm.mimi import MimiDecoder
from speech.engines.csm.model import Csm
from speech.engines.csm.sampling import NARROW, Noise, favours, pick

CONTEXT_BUCKETS = (256, 512, 1024, 2048)
"""Keys a frame attends to: the smallest bucket that holds the furthest slot's position."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What one step made. codes: int64 [S, C]; audio: float32 [S, samples of a frame], or None without a codec."""

    codes: np.ndarray
    audio: np.ndarray | None


class Frames:
    """The slots of one model and its codec, and the step that takes all of them one frame on.

    slots: how many. Used by one thread at a time, under `torch.inference_mode`.
    """

    def __init__(self, model: Csm, codec: MimiDecoder | None, *, slots: int) -> None:
        dims, device = model.dims, model.device
        self.model = model
        self.slots = slots
        self.cache = model.new_cache(slots)
        self._codec = codec
        self._depth_cache = model.new_depth_cache(slots)
        # What a step reads and writes, at fixed addresses, as a captured graph needs it.
        self._x = torch.zeros(slots, dims.backbone.dim, device=device, dtype=model.dtype)
        self._positions = torch.zeros(slots, dtype=torch.int64, device=device)
        self._active = torch.zeros(slots, dtype=torch.int64, device=device)
        self._temperature = torch.zeros(slots, 1, device=device)
        self._top_k = torch.ones(slots, 1, dtype=torch.int64, device=device)
        self._codes = torch.zeros(slots, dims.codebooks, dtype=torch.int64, device=device)
        self._audio = torch.zeros(slots, codec.samples_per_frame if codec else 0, device=device)
        self._codec_state = codec.new_state(slots, max_frames=1) if codec else None
        # The same positions on the host, so that the bucket is known without asking the device.
        self._at = [0] * slots
        self._noise: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._graphs = Graphs(device)

    @property
    def positions(self) -> tuple[int, ...]:
        """Where each slot's next row goes; 0 for an idle one."""
        return tuple(self._at)

    def ranks(self, top_k: int) -> int:
        """How many ranks of noise a request with this top_k draws: its own matter, never its neighbours'."""
        return min(NARROW if top_k <= NARROW else self.model.codes, self.model.codes)

    def join(self, slot: int, last_row: torch.Tensor, position: int, *, temperature: float, top_k: int) -> None:
        """Start a request in `slot`, whose cache holds rows 0 .. position - 1. last_row: [D], the prompt's last."""
        self._x[slot] = last_row
        self._positions[slot] = position
        self._at[slot] = position
        self._active[slot] = 1
        self._temperature[slot] = temperature
        self._top_k[slot] = min(top_k, self.model.codes)
        if self._codec_state is not None:
            self._codec_state.reset(slot)

    def leave(self, slot: int) -> None:
        """Make `slot` idle."""
        self._active[slot] = 0
        self._positions[slot] = 0
        self._at[slot] = 0
        self._temperature[slot] = 0
        self._top_k[slot] = 1

    def step(self, noise: dict[int, Noise]) -> Frame:
        """One frame for the slots in `noise`, which are those that joined."""
        ranks = self._put_noise(noise)
        furthest = max(self._at) + 1
        limit = self.model.dims.max_positions
        if furthest > limit:
            raise ValueError(f"slot {self._at.index(furthest - 1)} is past the model's {limit} positions")
        context = min(next((size for size in CONTEXT_BUCKETS if size >= furthest), limit), limit)
        self._run(context, ranks)
        for slot in noise:
            self._at[slot] += 1
        # The only wait for the device, and it lies between frames.
        return Frame(self._codes.cpu().numpy().copy(), self._audio.cpu().numpy().copy() if self._codec else None)

    def warm(self) -> None:
        """Capture every graph before anyone joins; on CPU there is nothing to do."""
        if self.model.device.type == "cuda":
            for ranks in {self.ranks(1), self.ranks(self.model.codes)}:
                self._buffers(ranks)
                for context in CONTEXT_BUCKETS:
                    if context <= self.model.dims.max_positions:
                        self._run(context, ranks)

    def _buffers(self, ranks: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Where so many ranks of noise lie, float32 [S, C, ranks]: on the host and on the device."""
        if ranks not in self._noise:
            shape = (self.slots, self.model.dims.codebooks, ranks)
            staged = torch.zeros(shape, pin_memory=self.model.device.type == "cuda")
            self._noise[ranks] = (staged, torch.zeros(shape, device=self.model.device))
        return self._noise[ranks]

    def _put_noise(self, noise: dict[int, Noise]) -> int:
        """Draw everyone's noise on the host and send it over in one copy; returns the ranks this step sorts."""
        ranks = max((each.ranks for each in noise.values()), default=self.ranks(1))
        staged, there = self._buffers(ranks)
        for slot, each in noise.items():
            # Ranks past a request's own are beyond its top_k, so what lies there is never looked at.
            staged[slot, :, : each.ranks] = torch.from_numpy(each.draw())
        there.copy_(staged, non_blocking=True)
        return ranks

    def _run(self, context: int, ranks: int) -> None:
        self._graphs.run((context, ranks), lambda: self._frame(context, ranks), self._changing)

    def _frame(self, context: int, ranks: int) -> None:
        """The whole frame, on the device alone: no value of it is asked for on the way."""
        favoured = favours(self._noise[ranks][1], self._temperature, self._top_k)
        hidden = self.model.step(self._x, self._positions, self.cache, context)

        def choose(book: int, logits: torch.Tensor) -> torch.Tensor:
            return pick(logits, favoured[:, book])

        codes = self.model.fill_frame(hidden, self._depth_cache, choose)
        self._codes.copy_(codes)
        self._x.copy_(self.model.embed_frame(codes))
        self._positions.add_(self._active)
        if self._codec is not None:
            # The all-zero frame says that speech has ended. It has no sound of its own: the decoder rings out on
            # silence instead, which is the tail that keeps the last phoneme whole (SesameAILabs/csm issue 119).
            sounding = codes.any(dim=1)
            self._audio.copy_(self._codec.step(codes[:, :, None], self._codec_state, sounding))

    def _changing(self) -> list[torch.Tensor]:
        """What a frame changes and a later one reads; keys and values are only written again, with the same values."""
        state = [self._x, self._positions]
        return state + (self._codec_state.tensors() if self._codec_state is not None else [])


class Graphs:
    """On cuda, runs a function once for warm-up, captures it as a graph, and from then on replays it; on CPU, calls it.

    Not run by the project's tests, which have no cuda: it is kept as small as it can be.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._captured: dict[tuple[int, ...], torch.cuda.CUDAGraph | None] = {}
        self._pool: Any = None  # of the first graph
        self._side: torch.cuda.Stream | None = None

    def run(self, key: tuple[int, ...], work: Callable[[], None], changing: Callable[[], list[torch.Tensor]]) -> None:
        """Do `work`. changing: the tensors that one run changes and the next one reads."""
        if self._device.type != "cuda":
            work()
            return
        with torch.cuda.device(self._device):
            if key not in self._captured:
                self._captured[key] = self._capture(work, changing())
            graph = self._captured[key]
            graph.replay() if graph else work()

    def _capture(self, work: Callable[[], None], changing: list[torch.Tensor]) -> torch.cuda.CUDAGraph | None:
        """None where cuda will not capture it; it is slower then."""
        # Warm-up runs pick algorithms and allocate workspaces, on a stream of their own as capture demands; what each
        # changed is put back, so that a graph can be captured while requests are under way.
        before = [tensor.clone() for tensor in changing]
        stream = torch.cuda.current_stream(self._device)
        side = self._side = self._side or torch.cuda.Stream(self._device)
        side.wait_stream(stream)
        try:
            with torch.cuda.stream(side):
                for _ in range(2):
                    work()
                    for tensor, value in zip(changing, before, strict=True):
                        tensor.copy_(value)
            stream.wait_stream(side)
        finally:
            torch.cuda.synchronize(self._device)  # what was put back may not be freed before
        graph = torch.cuda.CUDAGraph()
        # Graphs run one after another, so they may share the memory of what they make on the way. Only this thread
        # is watched while it captures: another may give idle memory back meanwhile.
        try:
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                work()
        except RuntimeError as error:
            torch.cuda.set_stream(stream)  # one that failed leaves its own behind
            if is_out_of_memory(error):
                raise
            logger.opt(exception=error).warning("cuda captures no graph of a frame: it will be slower")
            return None
        self._pool = self._pool or graph.pool()
        return graph
