"""Speaking while it is heard: a text in parts, each handed over as it is made.

Knows nothing of HTTP, and of formats only through the encoder. Whoever iterates decides the pace: a face that lets
nobody wait for a slow listener iterates in a thread of its own and keeps what is made until it is fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from pybase64 import b64encode

from audio_utils import MEDIA_TYPES, Audio, Encoder, Format, resampled
from speech.account import Account
from speech.caller import Caller
from speech.engines.base import EngineInfo, Line, Segment
from speech.errors import EngineFailed, SpeechError, to_http
from speech.service import Service, Take
from speech.text.split import chunks

KEPT_CONTEXT = 5
"""A long text is spoken after this many of its own last parts."""

SLOWEST_RTF = 0.7
"""The most that a second of sound costs where speaking must not falter, all in all. What a listener still has to hear
is reckoned by it and not by the clock, so that the same text is cut the same way every time; only where text had to be
waited for does the clock say."""

FIRST_MS = 500.0
"""So much is there when the listener begins to hear; the rest is made meanwhile."""

MAX_EVENTS = 60
FIRST_EVENT_MS = 80.0
EVENT_GROWTH = 1.1
"""Each event holds at least this much more sound than the one before: with the first of 80 ms, 57 events hold 182 s,
twice the longest answer."""

TOKENS_PER_CHAR = 0.25
TOKENS_PER_S = 12.5
"""For `usage`: four characters of English a token, and CSM's frames a second."""


@dataclass(frozen=True, slots=True)
class Part:
    """Something to say in one go. speaker, voice: None for the line's own. pause_ms: silence after it. left_ms: what
    the listener had left to hear when its text came, where that had to be waited for."""

    text: str
    speaker: int | None = None
    voice: str | None = None
    pause_ms: int = 0
    left_ms: float | None = None
    field: str = "text"


def parts_of(text: str, info: EngineInfo, *, max_chars: int | None = None) -> list[Part]:
    """`text` as the engine speaks it best while it is heard: sentence by sentence, or for one that streams by the
    frame in pieces of `max_chars` (default: what the engine prefers). Never empty."""
    size = min(max_chars or info.line_chars, info.max_text_chars)
    found = chunks(text, size, pack=info.grain == "frame" or max_chars is not None)
    return [Part(piece.text, piece.speaker) for piece in found] or [Part(text)]


Prepare = Callable[[], Callable[[], Line]]
"""Called with a place held, for what takes time and may fail; what it gives is called with the turn held, for what
depends on those who spoke just before."""


class Speaking:
    """An answer under way: iterate for its sound, float32 at the engine's rate; `close` stops the engine.

    `open` waits for the first sound, so that whatever is wrong is raised there. Each part takes a turn of its own at
    the gate, needed when the sound before it ends: a long text does not keep others from being heard.
    A part is said after `line.context` and, on an engine that hears conversations, after the parts before it.

    truncated: whether the limit cut something off; known at the end, as are duration_ms (of the sound) and voices.
    spoken: the texts of the parts begun, with the milliseconds of sound before each. account: what it took and gave.
    before_part: is called before each part but the first, with no turn held: whoever hands the sound on may wait there.
    """

    def __init__(
        self,
        service: Service,
        caller: Caller,
        prepare: Prepare,
        parts: Iterable[Part],
        remember: Callable[[Segment], None] | None = None,
    ) -> None:
        self.caller = caller
        self.info = service.engine.info
        self.account = Account(streamed=True)
        self.duration_ms = 0.0
        self.voices: dict[str, None] = {}
        self.spoken: list[tuple[str, float]] = []
        self.line: Line
        self.before_part: Callable[[], None] = lambda: None
        self._service = service
        self._first: Audio | None = None
        self._reckoned_from = (0.0, 0.0)  # sound made, and of it still to be heard, in ms
        self._remember = remember
        self._chunks = self._speak(prepare, parts)

    @classmethod
    def open(
        cls,
        service: Service,
        caller: Caller,
        prepare: Prepare,
        parts: Iterable[Part],
        remember: Callable[[Segment], None] | None = None,
    ) -> Speaking:
        """The answer to `parts`, each said as the line of `prepare` would be. remember: is given each part
        once it is said, with the turn still held. Raises SpeechError."""
        speaking = cls(service, caller, prepare, parts, remember)
        speaking._first = next(speaking._chunks)
        return speaking

    def __iter__(self) -> Iterator[Audio]:
        with closing(self._chunks):
            if self._first is not None:
                first, self._first = self._first, None
                yield first
            yield from self._chunks

    def close(self) -> None:
        """Stop the engine and give its turn and place back. Not while another thread is iterating: there, the caller
        leaves."""
        self._chunks.close()

    def collect(self) -> Take:
        """All of it, as one take."""
        self.account.streamed = False
        return Take(self._service.marked(Audio.join(self)), self.truncated, tuple(self.voices))

    @property
    def first_audio_ms(self) -> float:
        """From the opening to the first sound."""
        return self.account.first_audio_ms

    @property
    def truncated(self) -> bool:
        return self.account.truncated

    @property
    def voice(self) -> str | None:
        """The engine's own voice that speaks the line, where it has any."""
        return self._service.engine.voice_of(self.line)

    def _speak(self, prepare: Prepare, parts: Iterable[Part]) -> Generator[Audio]:
        context: list[Segment] = []
        with self._service.place(self.caller, self.account) as place:
            settle = prepare()
            for number, part in enumerate(parts):
                if number and self.duration_ms >= self.line.max_duration_ms:
                    self.account.truncated = True
                    break
                if number:
                    self.before_part()
                needed_s = self.account.part() if number else None
                with place.turn(needed_s):
                    if not number:
                        self.line = settle()
                        self._reckoned_from = (0.0, self.line.ahead_ms)
                    yield from self._say(part, number, context)
                if self.truncated:
                    break
                if part.pause_ms:
                    yield self._heard(Audio.silence(part.pause_ms, self.info.sample_rate_hz))
            if not self.duration_ms:
                raise EngineFailed("the engine said nothing for this text; send another, or try again")

    def _say(self, part: Part, number: int, context: list[Segment]) -> Generator[Audio]:
        """Say one part, after those of `context`; adds it to them where the engine listens."""
        line = self._asked(self.line, part, number)
        if part.left_ms is not None:
            self._reckoned_from = (self.duration_ms, part.left_ms)
        line = replace(line, context=(*line.context, *context[-KEPT_CONTEXT:]), ahead_ms=self._ahead_ms())
        if part.voice:
            line = self._service.in_voice(line, part.voice)
        self.spoken.append((part.text, self.duration_ms))
        spoken, sound = self._service.stream(line), []
        keeps = self._remember is not None or self.info.context == "conversation"
        for chunk in spoken:
            if keeps:
                sound.append(chunk)
            yield self._heard(chunk)
        self.account.truncated |= spoken.truncated
        self.account.ran_away |= spoken.ran_away
        voice = self._service.engine.voice_of(line)
        self.voices |= {voice: None} if voice else {}
        if sound:
            said = Segment(part.text, line.speaker, Audio.join(sound), voice)
            if self._remember:
                self._remember(said)
            if self.info.context == "conversation":
                context.append(said)

    def _asked(self, line: Line, part: Part, number: int) -> Line:
        return replace(
            line,
            text=part.text,
            field=part.field,
            speaker=line.speaker if part.speaker is None else part.speaker,
            max_duration_ms=max(1, int(line.max_duration_ms - self.duration_ms)),
            seed=(line.seed + number) % 2**63,
        )

    def _heard(self, chunk: Audio) -> Audio:
        """Count `chunk` as handed over."""
        self.account.heard(chunk.duration_ms)
        self.duration_ms += chunk.duration_ms
        return chunk

    def _ahead_ms(self) -> float:
        """Of the sound so far, what is still to be heard, in whatever chunks it came."""
        from_ms, left_ms = self._reckoned_from
        made_ms = left_ms + self.duration_ms - from_ms
        rtf = SLOWEST_RTF * max(1, self.line.speed)  # what is heard twice as fast was made at the usual pace
        return max(0.0, made_ms - rtf * max(0.0, made_ms - max(FIRST_MS, left_ms)))

    @property
    def usage(self) -> dict[str, int]:
        """Roughly what was read and made, in tokens."""
        read = sum(len(text) for text, _ in self.spoken) * TOKENS_PER_CHAR
        made = self.duration_ms / 1000 * TOKENS_PER_S
        counted = {"input_tokens": max(1, round(read)), "output_tokens": max(1, round(made))}
        return counted | {"total_tokens": sum(counted.values())}


def encoded(speaking: Speaking, response_format: Format, sample_rate_hz: int | None = None) -> Iterator[bytes]:
    """The bytes of `speaking` as they come, at the engine's rate or another; none is empty."""
    rate_hz = sample_rate_hz or speaking.info.sample_rate_hz
    encoder = Encoder(response_format, rate_hz)
    for chunk in resampled(speaking, rate_hz):
        data = encoder.write(chunk)
        if data:
            yield data
    data = encoder.close()
    if data:
        yield data


def events(speaking: Speaking, response_format: Format) -> Iterator[dict[str, Any]]:
    """`speaking` as at most MAX_EVENTS events, the sound in base64. An error after the first sound ends them."""
    yield {
        "type": "speech.audio.start",
        "seed": speaking.line.seed,
        "voice": speaking.voice,
        "sample_rate_hz": speaking.info.sample_rate_hz,
        "response_format": response_format,
        "media_type": MEDIA_TYPES[response_format],
    }
    encoder = Encoder(response_format, speaking.info.sample_rate_hz)
    held, held_ms, wanted_ms = bytearray(), 0.0, FIRST_EVENT_MS
    try:
        for chunk in speaking:
            held += encoder.write(chunk)
            held_ms += chunk.duration_ms
            if held and held_ms >= wanted_ms:
                yield _delta(held)
                held, held_ms, wanted_ms = bytearray(), 0.0, wanted_ms * EVENT_GROWTH
        held += encoder.close()
    except SpeechError as error:
        _, body, _ = to_http(error)
        yield {"type": "error", **body}
        return
    if held:
        yield _delta(held)
    yield {
        "type": "speech.audio.done",
        "duration_ms": round(speaking.duration_ms),
        "truncated": speaking.truncated,
        "ran_away": speaking.account.ran_away,
        "first_audio_ms": round(speaking.first_audio_ms, 1),
        "usage": speaking.usage,
    }


def _delta(data: bytes | bytearray) -> dict[str, Any]:
    return {"type": "speech.audio.delta", "audio": b64encode(data).decode()}
