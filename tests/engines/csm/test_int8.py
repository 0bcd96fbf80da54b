"""Eight bits are close to the matrix they stand for, and change nothing about seeds and slots."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from speech.engines.base import Line
from speech.engines.csm.engine import CsmConfig, CsmEngine
from speech.engines.csm.int8 import WIDE, Int8
from speech.engines.csm.model import linear


@torch.inference_mode()
@pytest.mark.parametrize("width", [256, 40])
@pytest.mark.parametrize("rows", [2500, WIDE])
def test_a_product_in_eight_bits_is_close(rows: int, width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(rows, width, generator=generator), torch.randn(3, 2, width, generator=generator)
    x[0] *= 1000
    x[2, 1] = 0
    small = Int8(weight)
    right, made = x @ weight.T, small(x)
    assert made.shape == right.shape
    assert made.dtype == torch.float32
    assert not made[2, 1].any()
    for one, other in zip(made.flatten(0, 1)[:5], right.flatten(0, 1), strict=False):
        assert (one - other).norm() / other.norm() < 0.015
    assert small.nbytes < 0.3 * weight.nbytes


@torch.inference_mode()
@pytest.mark.parametrize(("kind", "rows"), [("float32", 2051), ("bfloat16", 2051), ("int8", 2051), ("int8", WIDE)])
def test_a_slots_place_and_company_change_no_bit_of_a_product_at_full_size(kind: str, rows: int) -> None:
    dtype = torch.float32 if kind == "float32" else torch.bfloat16
    weight = torch.randn(rows, 1024).to(dtype)
    matrix = Int8(weight) if kind == "int8" else weight
    mine, made = torch.randn(1024).to(dtype), []
    for slot in range(4):
        x = torch.randn(4, 1, 1024).to(dtype)
        x[slot, 0] = mine
        made.append(linear(x, matrix)[slot])
    assert all(torch.equal(made[0], each) for each in made)


def test_the_engine_speaks_in_eight_bits_and_repeats_itself(transformers_folder: Path) -> None:
    engine = CsmEngine(CsmConfig(weights=str(transformers_folder), device="cpu", slots=3, dtype="bfloat16", int8=True))
    engine.start()
    lines = [Line("Small.", seed=i, max_duration_ms=400) for i in range(4)]

    def said(line: Line) -> np.ndarray:
        return np.concatenate([chunk.samples for chunk in engine.speak(line)])

    alone = [said(line) for line in lines]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(said, lines))
    engine.close()
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))
