"""Reading safetensors files piece by piece.

The format (https://github.com/huggingface/safetensors): eight bytes of header length, little-endian; a JSON header
`{name: {dtype, shape, data_offsets}}`; the tensors' bytes, row-major. Plain reads into one small buffer are used
rather than a memory map, whose touched pages would count as a second copy of the weights while they load.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from speech.errors import StartupError

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip

PIECE_BYTES = 32 * 1024 * 1024
MAX_HEADER_BYTES = 100_000_000  # the format's own limit


class TensorFiles:
    """The tensors of one or more safetensors files, by name."""

    def __init__(self, paths: list[Path]) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._entries: dict[str, tuple[Path, int, torch.dtype]] = {}
        for path in paths:
            self._read_header(path)

    def __contains__(self, name: str) -> bool:
        return name in self.shapes

    def pieces(self, name: str, block: int) -> Iterator[torch.Tensor]:
        """The values of tensor `name` in order, as `[k * block]` tensors; each is only good until the next is taken."""
        path, start, dtype = self._entries[name]
        left = math.prod(self.shapes[name])
        if left % block:
            raise ValueError(f"{name} does not divide into blocks of {block}")
        per_piece = max(1, PIECE_BYTES // (block * dtype.itemsize)) * block
        buffer = bytearray(min(left, per_piece) * dtype.itemsize)
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            while left:
                count = min(left, per_piece)
                view = memoryview(buffer)[: count * dtype.itemsize]
                _read_exactly(file, view, path)
                yield torch.frombuffer(view, dtype=dtype)
                left -= count

    def read(self, name: str) -> torch.Tensor:
        """The whole tensor; for small ones."""
        _, _, dtype = self._entries[name]
        whole = torch.empty(self.shapes[name], dtype=dtype)
        flat, at = whole.view(-1), 0
        for piece in self.pieces(name, 1):
            flat[at : at + len(piece)] = piece
            at += len(piece)
        return whole

    def _read_header(self, path: Path) -> None:
        broken = f"{path.name} is not a whole safetensors file; download it again"
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
                raise StartupError(broken)
            try:
                header = json.loads(file.read(length))
                items = [(name, entry) for name, entry in header.items() if name != "__metadata__"]
                for name, entry in items:
                    self._add(path, name, entry, data_at=8 + length, size=size)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise StartupError(f"{broken} ({error})") from error

    def _add(self, path: Path, name: str, entry: dict, *, data_at: int, size: int) -> None:
        dtype = DTYPES[entry["dtype"]]
        shape = tuple(int(n) for n in entry["shape"])
        begin, end = entry["data_offsets"]
        if end - begin != math.prod(shape) * dtype.itemsize or not 0 <= begin <= end <= size - data_at:
            raise ValueError(f"tensor {name} lies outside it")
        if name in self.shapes:
            raise ValueError(f"tensor {name} is there twice")
        self.shapes[name] = shape
        self._entries[name] = (path, data_at + begin, dtype)


def _read_exactly(file: object, view: memoryview, path: Path) -> None:
    """Fill `view`; a short read (a signal, a network disk) is continued."""
    at = 0
    while at < len(view):
        got = os.readv(file.fileno(), [view[at:]])  # type: ignore[attr-defined]
        if got <= 0:
            raise StartupError(f"{path.name} ended early; download it again")
        at += got
