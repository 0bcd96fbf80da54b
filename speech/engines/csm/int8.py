"""Weight-only eight bits: half the bytes a frame reads in bfloat16, for a small error in every product.

Each row of a matrix is scaled by its largest value over 127 and rounded. Embeddings and the codec are left alone.
Off by default until it has been heard.
"""

from __future__ import annotations

import warnings
from typing import Protocol

import torch
import torch.nn.functional as F

from speech.engines.csm.weights import Stack, Weights

WIDE = 8192
"""A matrix of so many rows is read faster by the `Packed` product, one of fewer by the plain one (bench/LOG.md)."""


class Product(Protocol):
    """x: [rows, in]. Returns [rows, out], in any dtype."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor: ...


class Int8:
    """A matrix [out, in] in eight bits; called like `F.linear` with it. nbytes: what a product reads of it."""

    def __init__(self, weight: torch.Tensor) -> None:
        scales = weight.abs().amax(dim=1).float().clamp(min=1e-12) / 127
        values = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
        # Some rows at a time, so that no full-width copy of a large matrix is made on the way.
        for some in torch.arange(len(weight)).split(1024):
            rows = slice(int(some[0]), int(some[-1]) + 1)
            values[rows] = (weight[rows].float() / scales[rows, None]).round_().to(torch.int8)
        self.nbytes = values.nbytes + 2 * len(scales)
        packs = weight.device.type == "cpu" and "fbgemm" in torch.backends.quantized.supported_engines
        self._product: Product = (Packed if packs and len(weight) >= WIDE else Plain)(values, scales)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x: [..., in]. Returns [..., out] in x's dtype."""
        return self._product(x.reshape(-1, x.shape[-1])).to(x.dtype).view(*x.shape[:-1], -1)


class Plain:
    """values: int8 [out, in]; scales: float32 [out]."""

    def __init__(self, values: torch.Tensor, scales: torch.Tensor) -> None:
        self._values = values
        self._scales = scales.to(torch.bfloat16)  # as the fast kernels take them, on both devices
        # Given a row that does not fill its vectors, torch's CPU kernel (2.13) reads past the row's end.
        self._fast = values.shape[1] % 64 == 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(torch.bfloat16)
        if self._fast:
            return torch._weight_int8pack_mm(x, self._values, self._scales)
        return F.linear(x, self._values.to(torch.bfloat16)) * self._scales


class Packed:
    """The same by fbgemm's product of integers, which is exact. It takes 7 bits of x, few enough for sums of two that
    older processors keep in 16; so x goes as two rows, its upper and its lower 7 bits."""

    STEPS = 63
    """To either side of zero, in 7 bits."""

    def __init__(self, values: torch.Tensor, scales: torch.Tensor) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch will give these tensors up, and has nothing else yet
            zeros = torch.zeros(len(values), dtype=torch.int64)
            whole = torch._make_per_channel_quantized_tensor(values, scales.double(), zeros, 0)
            torch.backends.quantized.engine = "fbgemm"
            self._packed = torch.ops.quantized.linear_prepack(whole, None)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        x = x.float()
        largest = torch.linalg.vector_norm(x, float("inf"), dim=1, keepdim=True).clamp_(min=1e-30)
        x = x * (self.STEPS / largest)
        upper = x.round()
        # What is left lies within half a step, and is stretched to all of them.
        halves = torch.cat([upper, (x - upper).mul_(2 * self.STEPS)])
        y = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(halves, 1.0, self.STEPS + 1, self._packed)
        return torch.add(y[: len(x)], y[len(x) :], alpha=0.5 / self.STEPS).mul_(largest / self.STEPS)


def to_int8(weights: Weights) -> None:
    """Replace the matrices of both transformers and their heads in place, one after another."""
    for stack in (weights.backbone, weights.depth):
        _stack_to_int8(stack)
    weights.head0 = Int8(weights.head0)
    for book, head in enumerate(weights.heads):
        weights.heads[book] = Int8(head)


def _stack_to_int8(stack: Stack) -> None:
    for layer in stack.layers:
        layer.qkv = Int8(layer.qkv)
        layer.out = Int8(layer.out)
        layer.gate_up = Int8(layer.gate_up)
        layer.down = Int8(layer.down)
