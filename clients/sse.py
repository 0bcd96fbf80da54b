"""Server-sent events out of bytes that come in pieces of any size. Knows nothing of where the bytes come from, nor of
what the events tell.

As the HTML standard has it: a line ends in LF, CR LF or CR; an event is the `data` lines before an empty line; what
is no field of an event (a comment, a field nobody knows) is passed over; an event that never ended is none.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_EVENT_BYTES = 32 << 20
"""The longest answer there is, 90 s of 48 kHz PCM, is 11.5 MB in base64, and comes in many events."""

_BOM = b"\xef\xbb\xbf"


class EventTooLarge(ValueError):
    """An event has more bytes than are kept for one."""


@dataclass(frozen=True)
class Event:
    """name: what its `event` field says, else `message`. data: its lines, with LF between them."""

    name: str
    data: str


class Parser:
    """Reads one stream. Keeps the event it is in the middle of, and no more than `max_bytes` of that."""

    def __init__(self, max_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._line = bytearray()  # as far as it came
        self._data = bytearray()  # each line of the event's data, and LF
        self._name = b""
        self._in_first_line = True
        self._after_cr = False

    def feed(self, piece: bytes) -> list[Event]:
        """The events that end in `piece`. Raises EventTooLarge."""
        if not piece:
            return []
        if self._after_cr:
            piece = piece.removeprefix(b"\n")
        self._after_cr = piece.endswith(b"\r")
        found = []
        for line in piece.splitlines(keepends=True):
            words = line.rstrip(b"\r\n")
            if len(self._line) + len(words) + len(self._data) > self._max_bytes:
                raise EventTooLarge(f"an event is larger than {self._max_bytes:,} bytes")
            self._line += words
            if len(words) < len(line):
                event = self._end_line()
                if event:
                    found.append(event)
        return found

    def _end_line(self) -> Event | None:
        line = bytes(self._line)
        self._line.clear()
        if self._in_first_line:
            self._in_first_line = False
            line = line.removeprefix(_BOM)
        if not line:
            return self._end_event()
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data += value + b"\n"
        elif field == b"event":
            self._name = value
        return None

    def _end_event(self) -> Event | None:
        data, name = bytes(self._data[:-1]), self._name
        told = bool(self._data)
        self._data.clear()
        self._name = b""
        return Event(name.decode(errors="replace") or "message", data.decode(errors="replace")) if told else None
