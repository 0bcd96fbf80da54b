"""What the events of POST /stream_speak tell. Knows nothing of the network."""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Iterator
from typing import Any, TypeVar

import httpx

from .errors import ConnectionFailed, TimedOut, TTSError, UnreadableAnswer, from_event, from_transport
from .sse import Event, EventTooLarge, Parser
from .values import Speech
from .wav import with_true_sizes
from .wire import MEDIA_TYPES, Call, media_type_of

Value = TypeVar("Value")


class Told:
    """What a stream has told so far; see SpeechStream for the attributes."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._keeps = False
        self._begun = False
        self._over = False
        self._failure: TTSError | None = None
        self._begin()

    def _begin(self) -> None:
        """Forgets an attempt that came to nothing."""
        asked = self._call.body or {}
        self.response_format: str = asked.get("response_format", "wav")
        self.media_type = MEDIA_TYPES.get(self.response_format, "application/octet-stream")
        self.seed: int | None = asked.get("seed")
        self.voice: str | None = asked.get("voice")
        self.session_id: str | None = asked.get("session_id")
        self.sample_rate_hz: int | None = None
        self.headers = httpx.Headers()
        self.first_audio_s: float | None = None
        self.first_audio_ms: float | None = None
        self.duration_ms: int | None = None
        self.truncated = False
        self.ran_away = False
        self.usage: dict[str, Any] | None = None
        self.received_bytes = 0
        self.complete = False
        self._parser = Parser()
        self._ready: Iterator[bytes] = iter(())
        self._first: bytes | None = None
        self._request: httpx.Request | None = None
        self._kept: list[bytes] = []
        self._sent_s = time.monotonic()

    def _answered(self, response: httpx.Response) -> None:
        """Raises UnreadableAnswer where `response`, a success, is no stream of events."""
        self._request = response.request
        self.headers = response.headers
        self.session_id = response.headers.get("X-Session-Id") or self.session_id
        media_type = media_type_of(response)
        if media_type != "text/event-stream":
            raise UnreadableAnswer(f"{self._call.path} answered with {media_type or 'no type'}, not with events")

    def _hear(self, piece: bytes) -> Iterator[bytes]:
        """The sounds of the events that end in `piece`. Raises APIStatusError, UnreadableAnswer."""
        try:
            events = self._parser.feed(piece)
        except EventTooLarge as error:
            raise UnreadableAnswer(f"{self._call.path}: {error}") from error
        for event in events:
            sound = self._take(event)
            if sound:
                if not self.received_bytes:
                    self.first_audio_s = time.monotonic() - self._sent_s
                self.received_bytes += len(sound)
                if self._keeps:
                    self._kept.append(sound)
                yield sound
            if self.complete:
                return

    def _take(self, event: Event) -> bytes:
        """The sound that `event` brings; what else it tells becomes ours."""
        told = self._json(event)
        kind = told.get("type", event.name)
        if kind == "speech.audio.delta":
            return self._sound(told)
        if kind == "speech.audio.start":
            if self.received_bytes:  # a gateway that lost its server in the middle asked another, from the start
                raise UnreadableAnswer(f"{self._call.path} began anew after {self.received_bytes:,} bytes")
            self.response_format = _value(told, "response_format", str) or self.response_format
            self.media_type = _value(told, "media_type", str) or self.media_type
            self.sample_rate_hz = _value(told, "sample_rate_hz", int)
            self.seed = _value(told, "seed", int) if "seed" in told else self.seed
            self.voice = _value(told, "voice", str) if "voice" in told else self.voice
        elif kind == "speech.audio.done":
            self.complete = True
            self.duration_ms = _value(told, "duration_ms", int)
            self.first_audio_ms = _value(told, "first_audio_ms", float) or _value(told, "first_audio_ms", int)
            self.truncated = told.get("truncated") is True
            self.ran_away = told.get("ran_away") is True
            self.usage = _value(told, "usage", dict)
        elif kind == "error" or (kind == "message" and "error" in told):  # the latter is how gateways say it
            raise from_event(told, self.headers)
        return b""

    def _json(self, event: Event) -> dict[str, Any]:
        """What `event` holds. One with a name of its own may be a gateway's, and hold anything."""
        try:
            told = json.loads(event.data)
        except (ValueError, RecursionError):
            told = None
        if isinstance(told, dict):
            return told
        if event.name != "message":
            return {}
        raise UnreadableAnswer(f"{self._call.path} answered with an event that is no JSON object")

    def _sound(self, told: dict[str, Any]) -> bytes:
        try:
            return base64.b64decode(told["audio"], validate=True)
        except (binascii.Error, KeyError, TypeError, ValueError) as error:
            raise UnreadableAnswer(f"{self._call.path} answered with something else than base64") from error

    def _at_hand(self) -> bytes | None:
        """The next sound of what was heard already. Raises the failure that ended the stream."""
        if self._failure is not None:
            raise self._failure
        return next(self._ready, None)

    def _listen(self, piece: bytes | None) -> None:
        """Hears the next piece of the answer. None: it has ended, and the stream had not: httpx.RemoteProtocolError,
        as where the network ends it.
        """
        if piece is None:
            raise httpx.RemoteProtocolError("the answer ended before the sound did", request=self._request)
        self._ready = self._hear(piece)

    def _some(self, first: bytes | None) -> bytes:
        if first is None:
            raise UnreadableAnswer(f"{self._call.path} answered without any sound")
        return first

    def _failed(self, error: BaseException) -> BaseException:
        """What is raised for `error`, now and whenever the stream is iterated on: never a quiet end."""
        if self._failure is not None and isinstance(error, httpx.RequestError | httpx.StreamError):
            return self._failure  # it was closed while another task was reading
        failure = self._in_our_words(error)
        self._failure = failure if isinstance(failure, TTSError) else self._closed()
        return failure

    def _in_our_words(self, error: BaseException) -> BaseException:
        so_far = f"after {self.received_bytes:,} bytes"
        if isinstance(error, httpx.TimeoutException):
            return TimedOut(f"the stream stood still {so_far}; a longer timeout may help")
        if isinstance(error, httpx.DecodingError):
            return from_transport(error)
        if isinstance(error, httpx.RequestError):
            return ConnectionFailed(f"the stream broke off {so_far}: {str(error) or type(error).__name__}")
        return error

    def _ended(self) -> None:
        """The stream is being closed: what it was not iterated over until then is lost."""
        self._begun = True
        self._first = None
        if not self._over and self._failure is None:
            self._failure = self._closed()

    def _closed(self) -> TTSError:
        return ConnectionFailed(f"the stream was closed after {self.received_bytes:,} bytes")

    def _untouched(self) -> None:
        if self.received_bytes and self._first is None:
            raise ValueError("collect: some of the sound was taken already")

    def keep(self) -> None:
        """Keeps the sound, from its first on, for `heard`."""
        self._keeps = True

    @property
    def heard(self) -> Speech:
        """What came so far, where it is kept."""
        return self._speech(b"".join(self._kept))

    def _speech(self, audio: bytes) -> Speech:
        """`audio` with what was told, under the names that the headers of a whole answer have."""
        told = {
            "Content-Type": self.media_type,
            "X-Seed": self.seed,
            "X-Voice": self.voice,
            "X-Session-Id": self.session_id,
            "X-Audio-Duration-Ms": self.duration_ms,
            "X-Truncated": str(self.truncated).lower(),
        }
        headers = httpx.Headers(self.headers, encoding="utf-8")
        for name, value in told.items():
            if value is not None:
                headers[name] = str(value)
        return Speech(with_true_sizes(audio), media_type=self.media_type, headers=headers)


def _value(told: dict[str, Any], name: str, kind: type[Value]) -> Value | None:
    """What was told of `name`, if it is of that kind."""
    value = told.get(name)
    return value if isinstance(value, kind) else None
