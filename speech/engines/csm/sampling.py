"""From logits and a request's own noise to a code.

With noise g = -log(e), e exponential, argmax(logits + T * g) is a draw from softmax(logits / T) (the Gumbel-max
identity, divided through by T), and at T = 0 it is the likeliest code: one formula, nothing to branch on. The noise
belongs to ranks, not ids: rank r of the sorted logits gets noise r, so that 64 numbers a codebook are enough for
every usual top_k.
"""

from __future__ import annotations

import numpy as np
import torch

NARROW = 64
"""Ranks drawn from unless a request asks for a larger top_k."""


class Noise:
    """One request's noise: a counter-based generator of its own, so that what it draws never depends on others.

    seed: 0 .. 2**64 - 1. take: which attempt at the same line this is. The generator runs on the host, so a seed
    means the same on every device.
    """

    def __init__(self, seed: int, *, take: int, codebooks: int, ranks: int) -> None:
        self._shape = (codebooks, ranks)
        self._random = np.random.Generator(np.random.Philox(key=np.array([seed % 2**64, take], dtype=np.uint64)))

    @property
    def ranks(self) -> int:
        return self._shape[1]

    def draw(self) -> np.ndarray:
        """One frame's noise, float32[codebooks, ranks]."""
        exponential = self._random.standard_exponential(self._shape, dtype=np.float32)
        return -np.log(np.maximum(exponential, np.float32(1e-30)))


def favours(noise: torch.Tensor, temperature: torch.Tensor, top_k: torch.Tensor) -> torch.Tensor:
    """What a frame's draws add to each rank, float32 [S, C, R]: the scaled noise, and -inf beyond top_k.

    noise: float32 [S, C, R]. temperature: float32 [S, 1]. top_k: int64 [S, 1], at most R.
    """
    beyond = torch.arange(noise.shape[2], device=noise.device)[None] >= top_k
    return (temperature[:, None] * noise).masked_fill_(beyond[:, None], float("-inf"))


def pick(logits: torch.Tensor, favours: torch.Tensor) -> torch.Tensor:
    """One code a slot, int64 [S]. logits: [S, V]. favours: float32 [S, R], of this codebook."""
    values, ids = torch.topk(logits.float(), favours.shape[1], dim=1)
    return ids.gather(1, (values + favours).argmax(dim=1, keepdim=True)).squeeze(1)
