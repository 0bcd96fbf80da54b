"""The sizes in a WAV's header. One that is written before its sound is made says more than there is."""

from __future__ import annotations

import struct

HEAD_BYTES = 4096
"""A header is found whole in this many bytes."""

_MOST = 0xFFFFFFFF


def data_at(head: bytes | bytearray) -> int | None:
    """Where the samples begin in a file that begins with `head`; None where it does not tell, or is no WAV."""
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return None
    at = 12
    while at + 8 <= len(head):
        if head[at : at + 4] == b"data":
            return at + 8
        (size,) = struct.unpack_from("<I", head, at + 4)
        at += 8 + size + size % 2
    return None


def true_sizes(head: bytes | bytearray, total_bytes: int) -> list[tuple[int, bytes]]:
    """What to write, and at which bytes of the file, so that its header tells its size; nothing where the header says
    no more than there is, or it is no WAV. head: how the file begins."""
    at = data_at(head)
    if at is None or struct.unpack_from("<I", head, at - 4)[0] <= total_bytes - at:
        return []
    return [(4, _size(total_bytes - 8)), (at - 4, _size(total_bytes - at))]


def with_true_sizes(audio: bytes) -> bytes:
    """`audio` with the sizes that it has."""
    mended = bytearray(audio)
    for at, size in true_sizes(audio[:HEAD_BYTES], len(audio)):
        mended[at : at + len(size)] = size
    return bytes(mended)


def _size(count: int) -> bytes:
    return struct.pack("<I", min(count, _MOST))
