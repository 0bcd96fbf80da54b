"""A line as the request an upstream is sent: what the client's `speak` and `stream` take.

The wire takes less than an engine does, so what it would refuse is left out or cut here. Knows nothing of the network.
"""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from pybase64 import b64encode

import schemas
from audio_utils import SILENT_BELOW, Audio, DecodeLimits, Samples, encode
from speech.engines.base import EngineInfo, Line, Segment
from speech.errors import InvalidInput

LIMITS = DecodeLimits()
DURATION_MS = (500, 90_000)
UNKNOWN_WORDS = "Hm."
"""Stands for what is said in a recording where nobody wrote it down: the wire wants a word."""

KEPT_DIGESTS = 512


class Encodings:
    """Sound in base64 FLAC; what was encoded lately is kept, since a conversation sends its past again and again.

    max_bytes: of text kept. Safe from any thread.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._texts: OrderedDict[bytes, str] = OrderedDict()
        self._held_bytes = 0
        self._digests: OrderedDict[int, tuple[weakref.ref[Samples], bytes]] = OrderedDict()
        self.encoded = 0

    def digest(self, audio: Audio) -> bytes:
        """The same for the same sound; of an array that was asked for before it is not computed again."""
        samples = audio.samples
        with self._lock:
            known = self._digests.get(id(samples))
        if known and known[0]() is samples:
            return known[1]
        found = hashlib.blake2b(np.ascontiguousarray(samples).data, digest_size=16).digest()
        with self._lock:
            self._digests[id(samples)] = (weakref.ref(samples), found)
            if len(self._digests) > KEPT_DIGESTS:
                self._digests.popitem(last=False)
        return found

    def text(self, audio: Audio) -> str:
        key = self.digest(audio)
        with self._lock:
            if key in self._texts:
                self._texts.move_to_end(key)
                return self._texts[key]
        text = b64encode(encode(audio, "flac")).decode()
        with self._lock:
            self.encoded += 1
            if key not in self._texts:
                self._texts[key] = text
                self._held_bytes += len(text)
            while self._held_bytes > self._max_bytes:
                _, dropped = self._texts.popitem(last=False)
                self._held_bytes -= len(dropped)
        return text


def checked(line: Line) -> None:
    """Raises InvalidInput for what any upstream would refuse."""
    if not any(char.isalnum() for char in line.text):
        raise InvalidInput(line.field, "has nothing to say", "write at least one letter or digit")


def own_voice(line: Line, info: EngineInfo) -> str | None:
    """The voice of the engine's own that `line` names or that its speaker spoke with before, where that is settled
    without listening."""
    if line.voice or not info.voices:
        return line.voice
    said = (segment.voice for segment in line.context if segment.speaker == line.speaker)
    return next((voice for voice in said if voice in info.voices), None)


def heard(line: Line, info: EngineInfo) -> list[Segment]:
    """What of the line's context makes a difference to the engine."""
    if info.context == "none" or not line.context:
        return []
    if info.context == "voice":
        if own_voice(line, info):
            return []
        said = [segment for segment in line.context if segment.speaker == line.speaker]
        # What the engine itself said in a recording's voice sounds less like it than the recording does.
        said = [segment for segment in said if not segment.voice] or said
        return said[: schemas.MAX_CONTEXT_SEGMENTS]
    most = schemas.MAX_CONTEXT_SEGMENTS
    if len(line.context) <= most:
        return list(line.context)
    # As csm does where it has too little room: never without the first by the line's own speaker.
    newest = list(line.context[-most:])
    first = next((segment for segment in line.context if segment.speaker == line.speaker), None)
    return newest if first is None or first in newest else [first, *newest[1:]]


def fields(line: Line, segments: Sequence[Segment], info: EngineInfo, encodings: Encodings) -> dict[str, Any]:
    """What to send for `line`, said after `segments`."""
    shortest_ms, longest_ms = DURATION_MS
    told = (_told(segment, encodings) for segment in segments)
    return {
        "text": line.text,
        "speaker": line.speaker,
        "voice": own_voice(line, info),
        "context": [each for each in told if each],
        "max_duration_ms": min(max(line.max_duration_ms, shortest_ms), longest_ms),
        "seed": line.seed,
        "temperature": line.temperature,
        "top_k": line.top_k,
        "speed": line.speed,
        "response_format": "pcm",
    }


def _told(segment: Segment, encodings: Encodings) -> dict[str, Any] | None:
    """`segment` as it is sent; None for one that no upstream would take for a recording."""
    audio = segment.audio
    if not len(audio.samples) or np.ptp(audio.samples) / 2 < SILENT_BELOW:
        return None
    if audio.duration_ms > LIMITS.max_ms:
        audio = audio.cut(LIMITS.max_ms - 1)
    if audio.duration_ms < LIMITS.min_ms:
        rest = Audio.silence(LIMITS.min_ms - audio.duration_ms + 1, audio.sample_rate_hz)
        audio = Audio.join([audio, rest])
    words = segment.text[: schemas.MAX_TEXT_CHARS]
    words = words if any(char.isalnum() for char in words) else UNKNOWN_WORDS
    return {"text": words, "speaker": segment.speaker, "audio_b64": encodings.text(audio)}


def refused(message: str, field: str | None, line: Line) -> InvalidInput:
    """What an upstream found wrong with `line`, told of the input that it came from."""
    problem, _, cure = message.partition("; ")
    problem = problem.removeprefix(f"{field}: ")
    asked = line.field if field in (None, "text") else field.partition("[")[0]
    return InvalidInput(asked, problem, cure or "send something else")


def samples_of(pcm: bytes) -> Samples:
    """16-bit samples as float32: the inverse of how they were written, so that they are written the same again."""
    return np.frombuffer(pcm, "<i2").astype(np.float32) / np.float32(32767)


def asks_for_all(line: Line, info: EngineInfo) -> bool:
    """Whether `line` is asked for in one piece, as /speak says it: /stream_speak says each sentence in pieces,
    which an engine of grain "sentence" draws a little differently."""
    return info.grain == "sentence" and not line.eager
