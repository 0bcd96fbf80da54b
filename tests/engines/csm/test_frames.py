"""A request's result is its own: alone, in any slot, in any company, whoever joins and leaves meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from speech.engines.csm import frames as frames_module
from speech.engines.csm.frames import Frames
from speech.engines.csm.mimi import MimiDecoder
from speech.engines.csm.mimi_weights import load_mimi
from speech.engines.csm.model import Csm
from speech.engines.csm.prompt import text_rows
from speech.engines.csm.sampling import Noise, favours, pick
from speech.engines.csm.source import Source
from speech.engines.csm.weights import load_weights

CPU = torch.device("cpu")
SLOTS = 3


@dataclass(frozen=True)
class Wish:
    """A request as the slots see it."""

    ids: tuple[int, ...]
    seed: int
    length: int
    temperature: float = 0.9
    top_k: int = 50


@dataclass
class Bench:
    """Slots that were used before, as a server's are."""

    frames: Frames
    made: dict[int, list[np.ndarray]] = field(default_factory=dict)
    heard: dict[int, list[np.ndarray]] = field(default_factory=dict)
    noise: dict[int, Noise] = field(default_factory=dict)

    def join(self, slot: int, wish: Wish) -> None:
        model = self.frames.model
        rows = model.embed_rows(*text_rows(wish.ids, model.dims.codebooks))
        model.prefill(rows[:-1], self.frames.cache, slot, 0)
        self.noise[slot] = Noise(wish.seed, take=0, codebooks=model.dims.codebooks, ranks=self.frames.ranks(wish.top_k))
        self.frames.join(slot, rows[-1], len(rows) - 1, temperature=wish.temperature, top_k=wish.top_k)
        self.made[slot], self.heard[slot] = [], []

    def leave(self, slot: int) -> None:
        self.frames.leave(slot)
        del self.noise[slot]

    def step(self) -> None:
        frame = self.frames.step(self.noise)
        for slot in self.noise:
            self.made[slot].append(frame.codes[slot])
            assert frame.audio is not None
            self.heard[slot].append(frame.audio[slot])


@pytest.fixture(scope="module")
def bench(transformers_folder: Path) -> Bench:
    source = Source(str(transformers_folder))
    with torch.inference_mode():
        mimi = load_mimi(source, device=CPU)
        model = Csm(load_weights(source, device=CPU, dtype=torch.float32), codes=mimi.dims.codebook_size)
        return Bench(Frames(model, MimiDecoder(mimi), slots=SLOTS))


@torch.inference_mode()
def alone(bench: Bench, wish: Wish, slot: int = 0) -> tuple[list[list[int]], np.ndarray]:
    bench.join(slot, wish)
    for _ in range(wish.length):
        bench.step()
    bench.leave(slot)
    return [codes.tolist() for codes in bench.made[slot]], np.concatenate(bench.heard[slot])


WISHES = (
    Wish((256, 10, 11, 12, 257), seed=1, length=12),
    Wish((256, 90, 257), seed=1, length=7, temperature=0.0, top_k=1),
    Wish((256, 40, 41, 42, 43, 44, 45, 257), seed=2**63 - 1, length=15, temperature=1.3, top_k=64),
    Wish((256, 10, 11, 12, 257), seed=2, length=9, top_k=3),
)


@torch.inference_mode()
def test_every_slot_gives_the_same_bits(bench: Bench) -> None:
    for wish in WISHES:
        first = alone(bench, wish, slot=0)
        for slot in range(1, SLOTS):
            codes, audio = alone(bench, wish, slot)
            assert codes == first[0]
            assert np.array_equal(audio, first[1])


def test_a_seed_is_a_take(bench: Bench) -> None:
    same, other = WISHES[0], Wish(WISHES[0].ids, seed=99, length=12)
    assert alone(bench, same)[0] == alone(bench, same)[0] != alone(bench, other)[0]


requests = st.builds(
    Wish,
    ids=st.lists(st.integers(0, 255), min_size=1, max_size=9).map(lambda ids: (256, *ids, 257)),
    seed=st.integers(0, 2**64 - 1),
    length=st.integers(1, 6),
    temperature=st.sampled_from([0.0, 0.7, 1.2]),
    top_k=st.sampled_from([1, 5, 50, 64]),
)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(wishes=st.lists(requests, min_size=1, max_size=6), gaps=st.lists(st.integers(0, 3), min_size=6, max_size=6))
def test_joining_and_leaving_changes_nobodys_result(bench: Bench, wishes: list[Wish], gaps: list[int]) -> None:
    right = [alone(bench, wish) for wish in wishes]
    with torch.inference_mode():
        waiting, speaking, wait = list(enumerate(wishes)), {}, 0
        while waiting or speaking:
            free = [slot for slot in range(SLOTS) if slot not in speaking]
            if waiting and free and wait <= 0:
                index, wish = waiting.pop(0)
                slot = free[gaps[index] % len(free)]
                bench.join(slot, wish)
                speaking[slot] = index
                wait = gaps[index]
            wait -= 1
            if speaking:
                bench.step()
            for slot, index in list(speaking.items()):
                if len(bench.made[slot]) == wishes[index].length:
                    bench.leave(slot)
                    del speaking[slot]
                    assert [codes.tolist() for codes in bench.made[slot]] == right[index][0]
                    assert np.array_equal(np.concatenate(bench.heard[slot]), right[index][1])


@torch.inference_mode()
def test_a_larger_context_bucket_changes_no_bit(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    small = alone(bench, WISHES[2])
    monkeypatch.setattr(frames_module, "CONTEXT_BUCKETS", (2048,))
    large = alone(bench, WISHES[2])
    assert small[0] == large[0]
    assert np.array_equal(small[1], large[1])


@torch.inference_mode()
def test_crossing_a_bucket_and_reaching_the_end_of_all_positions(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    wish = Wish((256, *[7] * 30, 257), seed=4, length=20)
    right = alone(bench, wish)
    monkeypatch.setattr(frames_module, "CONTEXT_BUCKETS", (34, 40, 48))
    assert alone(bench, wish)[0] == right[0]
    long = Wish((256, *[7] * 2044, 257), seed=4, length=3)
    alone(bench, long)  # position 2047 is the last
    with pytest.raises(ValueError, match="past the model's 2048"):
        alone(bench, Wish(long.ids, seed=4, length=4))
    for slot in list(bench.noise):
        bench.leave(slot)


class NoQuestions(TorchDispatchMode):
    """Fails where a value is taken from the device to decide something on the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        assert func.overloadpacket.__name__ not in ("_local_scalar_dense", "nonzero", "is_nonzero", "unique"), func
        return func(*args, **(kwargs or {}))


@torch.inference_mode()
def test_the_host_asks_nothing_within_a_frame(bench: Bench) -> None:
    bench.join(0, WISHES[0])
    bench.step()
    with NoQuestions():
        bench.frames._frame(256, 64)
    bench.leave(0)


def test_a_draw_follows_the_distribution_and_stays_within_top_k() -> None:
    logits = torch.randn(1, 40, generator=torch.Generator().manual_seed(0)) * 2
    noise = torch.from_numpy(Noise(5, take=0, codebooks=4000, ranks=40).draw())
    favoured = favours(noise[None], torch.tensor([[0.8]]), torch.tensor([[6]]))
    drawn = pick(logits.expand(4000, -1), favoured[0])
    kept = torch.zeros(40).index_fill(0, logits[0].topk(6).indices, 1.0)
    right = torch.softmax(logits[0] / 0.8, 0) * kept
    right = right / right.sum()
    shares = torch.bincount(drawn, minlength=40) / 4000
    assert (shares - right).abs().max() < 0.03
    assert not shares[kept == 0].any()


def test_noise_depends_on_seed_and_take_alone() -> None:
    def first(seed: int, take: int) -> list[float]:
        return Noise(seed, take=take, codebooks=2, ranks=3).draw().ravel().tolist()

    assert first(1, 0) == first(1, 0)
    assert len({tuple(first(*each)) for each in [(1, 0), (1, 1), (2, 0), (1 + 2**32, 0)]}) == 4
