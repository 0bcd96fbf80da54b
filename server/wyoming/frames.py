"""Events as they come off a connection: one line of JSON, then as many bytes of data and payload as it says.

Bounded in size, and in time once begun; between events a connection may be quiet for as long as it likes. Knows no
event by its name.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from wyoming.event import Event

MAX_HEADER_BYTES = 256 << 10
"""Older clients have the data in the line: the longest text, every letter escaped, is 120 KB."""

MAX_DATA_BYTES = 256 << 10
MAX_PAYLOAD_BYTES = 1 << 20
"""Nothing that is understood here has a payload: it is read over."""

EVENT_S = 20.0
"""From the first byte of an event to its last."""

_READ_BYTES = 64 << 10


class Unreadable(Exception):
    """Where this event ends and the next begins cannot be known any more; the message is for the client."""


async def read_event(reader: asyncio.StreamReader, idle_s: float | None = None) -> Event | None:
    """The next event; None at the end of the connection. Raises Unreadable, and TimeoutError where none has begun
    within `idle_s`."""
    async with asyncio.timeout(idle_s):
        first = await reader.read(1)
    if not first:
        return None
    try:
        async with asyncio.timeout(EVENT_S):
            return await _rest(reader, first)
    except TimeoutError:
        raise Unreadable(f"the rest of the event did not come within {EVENT_S:g} s") from None
    except asyncio.IncompleteReadError:
        return None


async def _rest(reader: asyncio.StreamReader, first: bytes) -> Event:
    header = await _header(reader, first)
    kind = header.get("type")
    if not isinstance(kind, str):
        raise Unreadable('an event begins with a line such as {"type": "describe"}')
    data = header.get("data") or {}
    if not isinstance(data, dict):
        raise Unreadable("data: is not an object")
    if length := _length(header, "data_length", MAX_DATA_BYTES):
        data |= _object(await reader.readexactly(length), "data")
    await _skip(reader, _length(header, "payload_length", MAX_PAYLOAD_BYTES))
    return Event(kind, data)


async def _header(reader: asyncio.StreamReader, first: bytes) -> dict[str, Any]:
    if first != b"{":  # nothing else begins one; a client of another protocol hears so at once
        raise Unreadable("an event begins with a line of JSON")
    try:
        return _object(first + await reader.readuntil(b"\n"), "the event")
    except asyncio.LimitOverrunError:
        raise Unreadable(f"an event's first line is longer than {MAX_HEADER_BYTES >> 10} KB") from None


def _object(raw: bytes, what: str) -> dict[str, Any]:
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        raise Unreadable(f"{what}: is not JSON") from None
    if not isinstance(found, dict):
        raise Unreadable(f"{what}: is not an object")
    return found


def _length(header: dict[str, Any], name: str, most: int) -> int:
    length = header.get(name) or 0
    if type(length) is not int or not 0 <= length <= most:
        raise Unreadable(f"{name}: is not a number from 0 to {most}")
    return length


async def _skip(reader: asyncio.StreamReader, length: int) -> None:
    while length:
        read = await reader.read(min(length, _READ_BYTES))
        if not read:
            raise asyncio.IncompleteReadError(b"", length)
        length -= len(read)
