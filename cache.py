"""The content-addressed cache of finished audio, in memory.

Knows nothing of speech: a key is made of everything that changes the bytes, by whoever asks.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from typing import Any, Generic, Protocol, TypeVar


class Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


V = TypeVar("V", bound=Sized)


def content_key(**parts: Any) -> str:
    """SHA-256, in hex, of `parts` as canonical JSON: equal parts give equal keys, whatever their order."""
    canonical = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


class AudioCache(Generic[V]):
    """Finished answers by content key; the least recently used go first. Safe from any thread.

    capacity: entries kept, 0 keeps none. max_bytes: their size together. asked, found: how often an answer was looked
    for, and how often it was there. nbytes: the size of what is kept.
    """

    def __init__(self, *, capacity: int, max_bytes: int) -> None:
        self._capacity = capacity
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, V] = OrderedDict()
        self.nbytes = 0
        self.asked = 0
        self.found = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> V | None:
        with self._lock:
            self.asked += 1
            if key in self._entries:
                self.found += 1
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def put(self, key: str, value: V) -> None:
        with self._lock:
            previous = self._entries.pop(key, None)
            self.nbytes += value.nbytes - (previous.nbytes if previous else 0)
            self._entries[key] = value
            while self._entries and (len(self._entries) > self._capacity or self.nbytes > self._max_bytes):
                _, evicted = self._entries.popitem(last=False)
                self.nbytes -= evicted.nbytes
