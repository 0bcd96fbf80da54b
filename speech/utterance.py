"""A text that is spoken while it arrives, and what had been heard of it when the listener interrupted.

Knows no protocol. Text comes from one thread, the sound is made in another.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import schemas
from audio_utils import Audio, Encoder
from speech.caller import Caller
from speech.conversation import expected_ms
from speech.engines.base import Line, Segment
from speech.errors import Busy
from speech.service import Service
from speech.streaming import Part, Speaking
from speech.text.feed import Feed

AHEAD_MS = 10_000.0
"""The engine waits, without its turn, while this much sound has been made that the connection has not taken."""

PIECE_MS = 200.0
"""Sound is handed over in pieces of at most this, so that it can be stopped and its progress told."""

MAX_WAITING_CHARS = 20_000


@dataclass(frozen=True, slots=True)
class Piece:
    """Encoded sound, and how long it lasts. text: of the part that begins with it, or None."""

    data: bytes
    ms: float
    text: str | None = None
    start_ms: float = 0.0

    def __len__(self) -> int:
        return len(self.data)


@dataclass(frozen=True, slots=True)
class Progress:
    """What had been heard of an utterance, and what had not."""

    played_ms: float
    spoken_text: str
    unspoken_text: str


class Utterance:
    """One text, said in the voice and manner of `request`.

    context: gives what was said before, when the engine is about to speak.
    """

    def __init__(
        self, service: Service, request: schemas.UtteranceRequest, context: Callable[[], tuple[Segment, ...]]
    ) -> None:
        self.request = request
        self.caller = Caller()
        self.speaking: Speaking | None = None
        self.first_sent_s: float | None = None  # on the monotonic clock
        self._service = service
        self._context = context
        self._feed = Feed()
        self._waiting: deque[str] = deque()
        self._waiting_chars = 0
        self._taken: list[str] = []
        self._ended = False
        self._made = False  # whether the engine has said all of it
        self._delivered_ms = 0.0
        self._sound: list[Audio] = []
        self._changed = threading.Condition()

    # The writer's side

    def add(self, text: str) -> None:
        """More of the text. Raises Busy, and takes none of it, where too much is waiting already."""
        with self._changed:
            if self._waiting_chars + len(self._feed.held) + len(text) > MAX_WAITING_CHARS:
                raise Busy(
                    f"text: more than {MAX_WAITING_CHARS} characters are waiting to be spoken; send this again later",
                    field="text",
                    retry_after_s=5,
                )
            self._queue(self._feed.add(text))

    def flush(self) -> None:
        """What has come is to be said now, even in the middle of a sentence."""
        with self._changed:
            self._queue(self._feed.flush())

    def settle(self) -> None:
        """Nothing has come for a while: what looks like a whole sentence is one."""
        with self._changed:
            if self._feed.ended:
                self._queue(self._feed.flush())

    def end(self) -> None:
        """No more will come."""
        with self._changed:
            self._queue(self._feed.flush())
            self._ended = True

    @property
    def ready(self) -> bool:
        """Whether there is something to do: a part to say, or nothing more to wait for."""
        return bool(self._waiting) or self._ended

    @property
    def wordless(self) -> bool:
        """Whether it is over without a word."""
        return self._ended and not self._waiting and self.speaking is None

    def _queue(self, parts: list[str]) -> None:
        self._waiting.extend(parts)
        self._waiting_chars += sum(map(len, parts))
        self._changed.notify_all()

    # The speaker's side

    def open(self) -> Speaking:
        """Begin to speak; waits for the first sound. Raises SpeechError."""
        service, request = self._service, self.request

        def prepare() -> Callable[[], Line]:
            given = service.heard(request.context, self.caller)
            line = service.line(
                request,
                self.caller,
                text="",
                speaker=request.speaker,
                voice=request.voice,
                context=given,
                max_duration_ms=request.max_duration_ms,
            )
            line = replace(line, eager=True)
            return lambda: line if given else replace(line, context=(*line.context, *self._context()))

        self.speaking = Speaking.open(service, self.caller, prepare, self._parts())
        return self.speaking

    def pieces(self) -> Iterator[Piece]:
        """The encoded sound, as it is made."""
        assert self.speaking is not None, "open() comes first"
        encoder = Encoder(self.request.response_format, self.speaking.info.sample_rate_hz)
        keeps = self.speaking.info.context != "none"
        told = 0
        for chunk in self.speaking:
            if keeps:
                self._sound.append(chunk)
            for sound in _divided(chunk):
                data = encoder.write(sound)
                if told < len(self.speaking.spoken):
                    text, start_ms = self.speaking.spoken[told]
                    told += 1
                    yield Piece(data, sound.duration_ms, text, start_ms)
                else:
                    yield Piece(data, sound.duration_ms)
        self._made = True
        yield Piece(encoder.close(), 0.0)

    def delivered(self, piece: Piece) -> None:
        """`piece` has left for the listener."""
        with self._changed:
            if self.first_sent_s is None:
                self.first_sent_s = time.monotonic()
            self._delivered_ms += piece.ms
            self._changed.notify_all()

    def _parts(self) -> Iterator[Part]:
        with self.caller.when_gone(self._wake):
            while True:
                with self._changed:
                    awaited = not self.ready
                    while not self.caller.gone and not (self.ready and self._listener_is_near()):
                        self._changed.wait()
                    self.caller.check()
                    if not self._waiting:
                        return
                    text = self._waiting.popleft()
                    self._waiting_chars -= len(text)
                    self._taken.append(text)
                yield Part(text, left_ms=self._left_ms() if awaited else None)

    def _listener_is_near(self) -> bool:
        made_ms = self.speaking.duration_ms if self.speaking else 0.0
        return made_ms - self._delivered_ms < AHEAD_MS

    def _left_ms(self) -> float:
        """What a listener who plays at once has left to hear."""
        return 1000 * max(0.0, self.speaking.account.heard_until_s - time.monotonic()) if self.speaking else 0.0

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    # Looking back

    @property
    def duration_ms(self) -> float:
        """Of the sound that has left for the listener."""
        return self._delivered_ms

    def progress(self, played_ms: float) -> Progress:
        """What a listener has heard who has played so much of it, to the word, as far as can be told from the
        letters; and the rest, with what was never spoken."""
        played_ms = max(0.0, min(played_ms, self._delivered_ms))
        parts = list(self.speaking.spoken) if self.speaking else []
        with self._changed:
            begun = len(self._taken)
            unsaid = [*self._taken[len(parts) :], *self._waiting, self._feed.held.strip()]
        spoken, unspoken = [], []
        for index, (text, start_ms) in enumerate(parts):
            end_ms = parts[index + 1][1] if index + 1 < len(parts) else self._end_ms(text, start_ms, begun > len(parts))
            share = (played_ms - start_ms) / max(1.0, end_ms - start_ms)
            heard, left = _words_within(text, share)
            spoken += [heard] if heard else []
            unspoken += [left] if left else []
        return Progress(played_ms, " ".join(spoken), " ".join(filter(None, [*unspoken, *unsaid])))

    def _end_ms(self, text: str, start_ms: float, followed: bool) -> float:
        """When `text`, the last part begun, is over. followed: whether a further one was to be said next."""
        assert self.speaking is not None
        made_ms = self.speaking.duration_ms
        cut = self.speaking.truncated and not followed  # else the limit fell between the two
        if self._made and not cut:
            return made_ms
        # It is in the making, or would have gone on: it lasts at least as long as its letters do.
        return max(made_ms + cut, start_ms + expected_ms(text) / self.request.speed)

    def segment(self, progress: Progress) -> Segment | None:
        """What was heard of it, to be remembered; None where that is nothing."""
        if not (self._sound and self.speaking and progress.spoken_text):
            return None
        audio = Audio.join(self._sound).cut(progress.played_ms)
        return Segment(progress.spoken_text, self.speaking.line.speaker, audio, self.speaking.voice)


def _divided(chunk: Audio) -> Iterator[Audio]:
    """`chunk` in pieces of at most PIECE_MS."""
    size = round(PIECE_MS * chunk.sample_rate_hz / 1000)
    for at in range(0, len(chunk.samples), size):
        yield Audio(chunk.samples[at : at + size], chunk.sample_rate_hz)


def _words_within(text: str, share: float) -> tuple[str, str]:
    """The words of `text` within its first `share` (0 to 1) of letters, and the others."""
    words = text.split()
    letters = sum(map(len, words))
    heard, count = 0, 0
    for word in words:
        count += len(word)
        if count > share * letters + 1e-6:
            break
        heard += 1
    return " ".join(words[:heard]), " ".join(words[heard:])
