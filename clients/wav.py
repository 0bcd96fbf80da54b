"""The sizes in a WAV's header. One that is written before its sound is made says more than there is."""

from __future__ import annotations

import struct

HEAD_BYTES = 4096
"""A header is found whole in this many bytes."""

_MOST = 0xFFFFFFFF


def true_sizes(head: bytes, total_bytes: int) -> list[tuple[int, bytes]]:
    """What to write, and at which bytes of the file, so that its header tells its size; nothing where the header says
    no more than there is, or it is no WAV. head: how the file begins."""
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return []
    at = 12
    while at + 8 <= len(head):
        (size,) = struct.unpack_from("<I", head, at + 4)
        if head[at : at + 4] == b"data":
            there = total_bytes - at - 8
            return [] if size <= there else [(4, _size(total_bytes - 8)), (at + 4, _size(there))]
        at += 8 + size + size % 2
    return []


def with_true_sizes(audio: bytes) -> bytes:
    """`audio` with the sizes that it has."""
    mended = bytearray(audio)
    for at, size in true_sizes(audio[:HEAD_BYTES], len(audio)):
        mended[at : at + len(size)] = size
    return bytes(mended)


def _size(count: int) -> bytes:
    return struct.pack("<I", min(count, _MOST))
