"""Weight-only eight bits: half the bytes a frame reads in bfloat16, for a small error in every product.

Each row of a matrix is scaled by its largest value over 127 and rounded. Embeddings and the codec are left alone.
Off by default until it has been heard.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from speech.engines.csm.weights import Stack, Weights


class Int8:
    """A matrix [out, in] in eight bits; called like `F.linear` with it. values: int8 [out, in]; scales: [out]."""

    def __init__(self, weight: torch.Tensor) -> None:
        scales = weight.abs().amax(dim=1).float().clamp(min=1e-12) / 127
        self.values = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
        # Some rows at a time, so that no full-width copy of a large matrix is made on the way.
        for some in torch.arange(len(weight)).split(1024):
            rows = slice(int(some[0]), int(some[-1]) + 1)
            self.values[rows] = (weight[rows].float() / scales[rows, None]).round_().to(torch.int8)
        # The fast kernels, on both devices, take bfloat16.
        self.scales = scales.to(torch.bfloat16)
        # Given a row that does not fill its vectors, torch's CPU kernel (2.13) reads past the row's end.
        self._fast = weight.shape[1] % 64 == 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x: [..., in]. Returns [..., out] in x's dtype."""
        flat = x.reshape(-1, x.shape[-1]).to(torch.bfloat16)
        if self._fast:
            y = torch._weight_int8pack_mm(flat, self.values, self.scales)
        else:
            y = F.linear(flat, self.values.to(torch.bfloat16)) * self.scales
        return y.to(x.dtype).view(*x.shape[:-1], -1)

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.scales.nbytes


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
