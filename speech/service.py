"""The conductor: what a request means to the engine, and who may use the engine when.

Streaming is the primitive; a whole take is the stream, collected. Knows nothing of HTTP and of formats on the wire.
"""

from __future__ import annotations

import dataclasses
import math
import random
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace

import numpy as np
from loguru import logger

import schemas
from audio_utils import Audio, decode, decode_b64, encode, padding_ms, usable
from cache import AudioCache
from speech.account import Account, logged
from speech.caller import Caller
from speech.engines.base import Engine, Line, Segment
from speech.errors import EngineFailed, InvalidInput, NotReady, OutOfMemory, SpeechError
from speech.gate import Gate, Place
from speech.reply import Reply
from speech.sessions import Sessions
from speech.settings import Settings
from speech.tempo import at_tempo
from speech.voices.catalogue import Voices
from speech.watermark import Watermark, read_key

SELF_CHECK_HZ = 24_000
UNMARKED = "Whole clips are watermarked; streams are not."


@dataclass(frozen=True, slots=True)
class Take:
    """What an engine said. truncated: it had more to say than the limit allowed. voices: its own, where it has any.
    ran_away: it went on for longer than its text can take, and was stopped."""

    audio: Audio
    truncated: bool
    voices: tuple[str, ...] = ()
    ran_away: bool = False


class Spoken:
    """An engine's chunks of one line, cut at its limit, with the engine's failures as the service's own errors.

    tempo: what is left to do of the line's speed, since the engine could not.
    truncated: whether the engine had more to say than the limit allowed; known when the chunks have ended.
    """

    def __init__(self, line: Line, chunks: Generator[Audio], tempo: float = 1.0) -> None:
        self.line = line
        self._cut = False
        self._chunks = chunks
        self._tempo = tempo

    @property
    def truncated(self) -> bool:
        return self._cut or getattr(self._chunks, "truncated", False)

    @property
    def ran_away(self) -> bool:
        return getattr(self._chunks, "ran_away", False)

    def __iter__(self) -> Iterator[Audio]:
        left_ms = float(self.line.max_duration_ms)
        with _engine_errors(), closing(self._chunks):
            for chunk in self._chunks if self._tempo == 1 else at_tempo(self._chunks, self._tempo):
                self.line.caller.check()
                if chunk.duration_ms > left_ms:
                    self._cut = True
                    yield chunk.cut(left_ms)
                    return
                yield chunk
                left_ms -= chunk.duration_ms


class Service:
    """One engine behind one gate, with what is remembered between requests.

    watchers: are told the account of every answer when it has ended.
    """

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine = engine
        self.gate = Gate(slots=engine.info.parallel, queue=settings.queue, wait_s=settings.queue_wait_s)
        self.sessions = Sessions(
            capacity=settings.sessions, max_bytes=settings.sessions_mb << 20, ttl_s=settings.session_ttl_s
        )
        self.voices = Voices(engine.info, capacity=settings.voices, max_bytes=settings.voices_mb << 20)
        self.cache: AudioCache[Reply] = AudioCache(capacity=settings.cache_entries, max_bytes=settings.cache_mb << 20)
        self.watchers: list[Callable[[Account], None]] = [logged]
        self._watermark_key = settings.watermark_key
        self._watermark: Watermark | None = None
        self._started_s: float | None = None
        self._draining = False

    @property
    def ready(self) -> bool:
        return self._started_s is not None

    @property
    def not_ready(self) -> str | None:
        """Why no request should be sent here now; None where one may."""
        if self._draining or self.gate.closed:
            return "shutting down"
        return (self.engine.load().unable or None) if self.ready else "loading"

    def drain(self) -> None:
        """Ask for no further requests; those that come all the same are answered."""
        self._draining = True

    def start(self) -> None:
        """Load and warm the engine. Raises StartupError."""
        began_s = time.monotonic()
        if self._watermark_key:
            self._watermark = Watermark(read_key(self._watermark_key))
        self.engine.start()
        if self.engine.info.context != "none":
            hiss = np.random.default_rng(0).uniform(-0.1, 0.1, SELF_CHECK_HZ).astype(np.float32)
            decode(
                encode(Audio(hiss, SELF_CHECK_HZ), "wav"), field="start-up"
            )  # a server that cannot hear is not ready
        self._started_s = time.monotonic()
        info = self.engine.info
        logger.info("{} on {} is ready after {:.1f} s", info.model, info.device, self._started_s - began_s)

    def close(self) -> None:
        self.gate.close()
        self._started_s = None
        self.engine.close()

    @contextmanager
    def place(self, caller: Caller, account: Account | None = None) -> Iterator[Place]:
        """A place in the queue for `caller`, at once or not at all: raises NotReady or Busy. Everything for one answer
        is done inside. account: that answer's, where it is not the caller's only one."""
        account = account or caller.account
        with account.closing(*self.watchers):
            if not self.ready:
                raise NotReady("the model is still loading; try again soon", retry_after_s=5)
            with self.gate.place(caller) as place:
                try:
                    yield place
                finally:
                    account.asked_s, account.turn_s, account.work_s = place.asked_s, place.turn_s, place.work_s

    # What a request means

    def line(
        self,
        request: schemas.Sampling,
        caller: Caller,
        *,
        text: str,
        speaker: int,
        max_duration_ms: int,
        field: str = "text",
        context: tuple[Segment, ...] = (),
        voice: str | None = None,
    ) -> Line:
        """One thing to say, drawn as `request` wants it; a seed is drawn where it names none, so that every take can
        be had again. The limit leaves room for what encoding adds. Raises InvalidInput for a voice there is not."""
        padding = padding_ms(request.response_format, self.engine.info.sample_rate_hz)
        line = Line(
            text=text,
            field=field,
            speaker=speaker,
            context=context,
            max_duration_ms=int(max_duration_ms - padding),
            seed=random.getrandbits(31) if request.seed is None else request.seed,
            temperature=request.temperature,
            top_k=request.top_k,
            speed=request.speed,
            caller=caller,
        )
        return self.in_voice(line, voice) if voice else line

    def in_voice(self, line: Line, name: str, field: str = "voice") -> Line:
        """`line` said by the voice of that name. Raises InvalidInput for `field` where there is none."""
        voice = self.voices.find(name, field)
        speaker = line.speaker if voice.speaker is None else voice.speaker
        context = line.context
        if voice.recording:  # what this speaker said in one of the engine's own voices would contradict it
            others = (segment for segment in context if segment.speaker != speaker or not segment.voice)
            context = (replace(voice.recording, speaker=speaker), *others)
        return replace(line, voice=voice.own, speaker=speaker, context=context)

    def heard(self, context: list[schemas.ContextSegment], caller: Caller) -> tuple[Segment, ...]:
        """The caller's context as segments. Raises InvalidInput that names the segment at fault, or CallerLeft."""
        segments = []
        for index, said in enumerate(context):
            caller.check()
            segments.append(
                Segment(said.text, said.speaker, self.recording(said.audio_b64, f"context[{index}].audio_b64"))
            )
        return tuple(segments)

    def recording(self, audio: str | bytes | Audio, field: str) -> Audio:
        """A caller's recording, base64 or a file's bytes or its sound, at the engine's rate. Raises InvalidInput naming
        `field`."""
        info = self.engine.info
        if info.context == "none":
            raise InvalidInput(
                field,
                f"cannot be used: the engine {info.name} has one voice and hears nothing said before",
                "leave it out, or ask a server with another engine",
            )
        if isinstance(audio, str):
            audio = decode_b64(audio, field=field)
        else:
            audio = decode(audio, field=field) if isinstance(audio, bytes) else usable(audio, field=field)
        return audio.resampled(info.sample_rate_hz)

    # Speaking; whoever calls these has the engine's turn

    def stream(self, line: Line) -> Spoken:
        """Say `line`, chunk by chunk, never longer than its limit. On an engine that batches, it has joined."""
        slowest, fastest = self.engine.info.speed
        native = min(max(line.speed, slowest), fastest)
        tempo = line.speed / native
        asked = replace(line, speed=native, max_duration_ms=math.ceil(line.max_duration_ms * tempo))
        with _engine_errors():
            return Spoken(line, self.engine.speak(asked), tempo)

    def take(self, line: Line) -> Take:
        """Say `line`, collected."""
        return self.takes([line])[0]

    def takes(self, lines: Iterable[Line]) -> list[Take]:
        """Say each of `lines` on its own; an engine that batches speaks them together."""
        streams = [self.stream(line) for line in lines]
        return [self._collect(stream) for stream in streams]

    def _collect(self, spoken: Spoken) -> Take:
        account, chunks = spoken.line.caller.account, []
        for chunk in spoken:
            account.heard(chunk.duration_ms)
            chunks.append(chunk)
        account.truncated |= spoken.truncated
        if not chunks:
            raise EngineFailed("the engine said nothing for this text; send another, or try again")
        audio = self.marked(Audio.join(chunks))
        voice = self.engine.voice_of(spoken.line)
        return Take(audio, spoken.truncated, (voice,) if voice else (), spoken.ran_away)

    def marked(self, audio: Audio) -> Audio:
        """A whole clip with the watermark in it, where the operator wants one. Needs no turn."""
        if not self._watermark:
            return audio
        with _engine_errors():
            return self._watermark.mark(audio)

    def voice_headers(self, voices: Collection[str]) -> dict[str, str]:
        """What is told of the engine's own voices that spoke: their names, and whether any was matched to a
        recording."""
        if not voices:
            return {}
        match = "exact" if set(voices) <= set(self.engine.info.voices) else "approximate"
        return {"X-Voice": ", ".join(voices), "X-Voice-Match": match}

    def health(self) -> dict[str, object]:
        """What /health tells."""
        info = dataclasses.asdict(self.engine.info)
        return {
            "status": "ready" if self.ready else "loading",
            "engine": info.pop("name"),
            **info,
            "speakers": [self.engine.voice_of(Line("", speaker=number)) for number in (0, 1)],
            "notes": [*self.engine.info.notes, *([UNMARKED] if self._watermark else [])],
            "watermark": self._watermark is not None,
            "queue_length": self.gate.waiting,
            "speaking": self.gate.speaking,
            "uptime_s": round(time.monotonic() - self._started_s, 1) if self._started_s else 0.0,
        }


@contextmanager
def _engine_errors() -> Iterator[None]:
    try:
        yield
    except SpeechError:
        raise
    except MemoryError as error:
        raise OutOfMemory("no memory is left for this request; send a shorter one, or try again later") from error
    except Exception as error:
        logger.exception("the engine failed")
        raise EngineFailed("the engine failed on this request; the server's log says why") from error
