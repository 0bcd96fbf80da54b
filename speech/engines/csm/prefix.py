"""Prompts that were read before: keys and values of segments, and the codes of sounds, bounded in bytes.

A segment's keys and values depend on all that stands before it, so they are kept under a key of the whole prompt up
to its end, each segment's own part separately: voices and conversations that begin alike share their beginnings. A
prompt is always read segment by segment, so that one that is partly remembered is computed in the same steps, and
to the same bits, as one that is not.
"""

from __future__ import annotations

from collections import OrderedDict

import torch


class Remembered:
    """Tensors by key; the least recently used go when all together exceed `limit_bytes`. Used by one thread."""

    def __init__(self, *, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._tensors: OrderedDict[bytes, torch.Tensor] = OrderedDict()
        self.bytes = 0
        self.hits = 0
        self.misses = 0

    def get(self, key: bytes) -> torch.Tensor | None:
        found = self._tensors.get(key)
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        self._tensors.move_to_end(key)
        return found

    def put(self, key: bytes, tensor: torch.Tensor) -> None:
        """Keep `tensor`, which nobody changes afterwards; one that is larger than the limit is not kept."""
        size = tensor.numel() * tensor.element_size()
        if size > self._limit:
            return
        self._drop(key)
        self._tensors[key] = tensor
        self.bytes += size
        while self.bytes > self._limit:
            self._drop(next(iter(self._tensors)))

    def touch(self, keys: list[bytes]) -> None:
        """Mark as used, the last first, so that a prompt's beginning outlives its end."""
        for key in reversed(keys):
            if key in self._tensors:
                self._tensors.move_to_end(key)

    def clear(self) -> None:
        self._tensors.clear()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._tensors)

    def _drop(self, key: bytes) -> None:
        gone = self._tensors.pop(key, None)
        if gone is not None:
            self.bytes -= gone.numel() * gone.element_size()
