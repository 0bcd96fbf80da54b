"""The operations: what a caller can ask for, each defined once. Both faces serve them at `/` + their name.

An operation takes the service, a parsed request and its caller, and gives the finished reply. It blocks; a face runs
it in a thread.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, TypeVar

from pybase64 import b64encode

import schemas
from audio_utils import MEDIA_TYPES, encode
from cache import content_key
from speech.caller import Caller
from speech.conversation import Turn, speak_turns
from speech.engines.base import Line, Segment
from speech.errors import InvalidInput, QualityRejected
from speech.quality import checks
from speech.reply import Reply
from speech.service import Service, Take
from speech.streaming import Part, Speaking, parts_of
from speech.text.normalise import normalise

QUALITY_ATTEMPTS = 3
ROBUST_TEXT_CHARS = 1000


def speak(service: Service, request: schemas.SpeakRequest, caller: Caller) -> Reply:
    """Say a text after what was said before."""
    with service.place(caller) as place:
        line = _line(service, request, caller, context=service.heard(request.context, caller))
        with place.turn():
            take = service.take(line)
    return audio_reply(service, request, line, take)


def conversation(service: Service, request: schemas.ConversationRequest, caller: Caller) -> Reply:
    """Say several turns as one recording, each hearing those before it."""
    turns = [Turn(turn.text, turn.speaker, turn.pause_ms, turn.voice) for turn in request.turns]
    with service.place(caller) as place:
        context = service.heard(request.context, caller)
        total_ms = request.max_total_duration_ms
        line = service.line(request, caller, text="", speaker=0, max_duration_ms=total_ms, context=context)
        with place.turn():
            take = speak_turns(service, turns, line)
    return audio_reply(service, request, line, take)


def clone_voice(service: Service, request: schemas.CloneVoiceRequest, caller: Caller) -> Reply:
    """Say a text in the voice of a recording."""
    with service.place(caller) as place:
        recording = service.recording(request.reference_audio_b64, "reference_audio_b64")
        line = service.line(
            request,
            caller,
            text=request.text,
            speaker=0,
            max_duration_ms=request.max_duration_ms,
            context=(Segment(request.reference_text, 0, recording),),
        )
        with place.turn():
            take = service.take(line)
    return audio_reply(service, request, line, take)


def stream_speak(service: Service, request: schemas.StreamSpeakRequest, caller: Caller) -> Speaking:
    """Say a text while it is heard; with a session_id, in that session.

    An engine that streams by the frame says the text in one go, exactly as /speak does; one that speaks by the
    sentence says each on its own, in pieces.
    """
    session_id = request.session_id
    given: tuple[Segment, ...] = ()

    def prepare() -> Callable[[], Line]:
        nonlocal given
        given = service.heard(request.context, caller)
        line = _line(service, request, caller, context=given)
        line = replace(line, eager=True, ahead_ms=request.ahead_ms)
        if session_id is None or given:
            return lambda: line
        return lambda: replace(line, context=(*line.context, *service.sessions.recall(session_id)))

    def remember(said: Segment) -> None:
        nonlocal given
        assert session_id is not None
        service.sessions.remember(session_id, *given, said, anew=bool(given))
        given = ()  # what begins the session anew does so once

    info = service.engine.info
    parts = [Part(request.text)] if info.grain == "frame" else parts_of(request.text, info)
    return Speaking.open(service, caller, prepare, parts, remember if session_id else None)


def batch_speak(service: Service, request: schemas.BatchSpeakRequest, caller: Caller) -> Reply:
    """Say several texts, each as if it were alone, in one batch; a JSON list of base64 audio, in their order."""
    with service.place(caller) as place:
        first = service.line(
            request,
            caller,
            text=request.texts[0],
            field="texts[0]",
            speaker=request.speaker,
            voice=request.voice,
            max_duration_ms=request.max_duration_per_text_ms,
        )
        lines = [replace(first, text=text, field=f"texts[{index}]") for index, text in enumerate(request.texts)]
        with place.turn():
            takes = service.takes(lines)
    clips = [b64encode(encode(take.audio, request.response_format)).decode() for take in takes]
    told = {"X-Seed": str(first.seed), "X-Truncated": str(any(take.truncated for take in takes)).lower()}
    return Reply(json.dumps(clips).encode(), "application/json", told)


def contextual_speak(service: Service, request: schemas.ContextualSpeakRequest, caller: Caller) -> Reply:
    """Say a text in a session that remembers its last segments; each session its own."""
    session_id = request.session_id or uuid.uuid4().hex
    with service.place(caller) as place:
        given = service.heard(request.context, caller)
        with place.turn():  # only now: who spoke in this session before, and has ended, is heard too
            before = given or service.sessions.recall(session_id)
            line = _line(service, request, caller, context=before)
            take = service.take(line)
            said = Segment(request.text, request.speaker, take.audio, *take.voices)
            service.sessions.remember(session_id, *given, said, anew=bool(given))
    return audio_reply(service, request, line, take, {"X-Session-Id": session_id})


def quality_speak(service: Service, request: schemas.SpeakRequest, caller: Caller) -> Reply:
    """Say a text, check how it came out, and try again where it did not pass."""
    with service.place(caller) as place:
        line = _line(service, request, caller, context=service.heard(request.context, caller))
        with place.turn():
            line, take, told = _checked(service, line, QUALITY_ATTEMPTS)
    return audio_reply(service, request, line, take, told)


def cached_speak(service: Service, request: schemas.PlainSpeakRequest, caller: Caller) -> Reply:
    """Say a text, or give the bytes that the same request was given before."""
    info = service.engine.info
    voice = request.voice and service.voices.find(request.voice, "voice").id  # another may have its name one day
    key = content_key(engine=info.name, model=info.model, voice=voice, request=request.model_dump())
    kept = service.cache.get(key)
    if kept:
        return replace(kept, headers=kept.headers | {"X-Cache": "hit"})
    with service.place(caller) as place:
        line = _line(service, request, caller)
        with place.turn():
            take = service.take(line)
    reply = audio_reply(service, request, line, take)
    service.cache.put(key, reply)
    return replace(reply, headers=reply.headers | {"X-Cache": "miss"})


def optimized_speak(service: Service, request: schemas.SpeakRequest, caller: Caller) -> Reply:
    """Say a text, then give the memory that was kept for speed back to the device."""
    try:
        return speak(service, request, caller)
    finally:
        service.engine.trim()


def robust_speak(service: Service, request: schemas.SpeakRequest, caller: Caller) -> Reply:
    """Say a text as it reads aloud, and hand it over only if it passed its checks."""
    text = normalise(request.text)
    if len(text) > ROBUST_TEXT_CHARS:
        raise InvalidInput(
            "text",
            f"has {len(text)} characters once numbers and abbreviations are written out",
            f"send at most {ROBUST_TEXT_CHARS}, or several requests",
        )
    with service.place(caller) as place:
        line = _line(service, request, caller, context=service.heard(request.context, caller))
        with place.turn():
            line, take, told = _checked(service, replace(line, text=text), attempts=1)
    return audio_reply(service, request, line, take, told)


def _line(
    service: Service, request: schemas.PlainSpeakRequest, caller: Caller, context: tuple[Segment, ...] = ()
) -> Line:
    return service.line(
        request,
        caller,
        text=request.text,
        speaker=request.speaker,
        voice=request.voice,
        max_duration_ms=request.max_duration_ms,
        context=context,
    )


def _checked(service: Service, line: Line, attempts: int) -> tuple[Line, Take, dict[str, str]]:
    """A take that passes its checks, the line that gave it, and what to tell of it. Raises QualityRejected."""
    if not service.engine.info.takes:
        attempts = 1  # every try would give the same take
    for attempt in range(1, attempts + 1):
        take = service.take(line)
        # What the caller's limit cut is not too short, nor what was asked for at a fast pace.
        min_ms = 0 if take.truncated else checks.MIN_DURATION_MS / max(1, line.speed)
        found = checks.failures(take.audio, min_ms, ran_away=take.ran_away)
        if not found:
            return line, take, {"X-Quality-Attempts": str(attempt), "X-Quality-Checks": "; ".join(checks.CHECKS)}
        line = replace(line, seed=line.seed + 1)
    times = "once" if attempts == 1 else f"{attempts} times"
    raise QualityRejected(f"tried {times}; the last take failed its checks: " + "; ".join(found))


def audio_reply(
    service: Service, request: schemas.Sampling, line: Line, take: Take, told: dict[str, str] | None = None
) -> Reply:
    """`take` in the format asked for, with what there is to tell about it in the headers."""
    file_format = request.response_format
    headers = {
        "Content-Disposition": f'attachment; filename="speech.{file_format}"',
        "X-Seed": str(line.seed),
        "X-Audio-Duration-Ms": str(round(take.audio.duration_ms)),
        "X-Truncated": str(take.truncated).lower(),
    }
    headers |= service.voice_headers(take.voices)
    return Reply(encode(take.audio, file_format), MEDIA_TYPES[file_format], headers | (told or {}))


Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Operation(Generic[Answer]):
    """What a face needs to serve one operation. `name` is also its path, after a slash."""

    name: str
    request: type[schemas.Model]
    run: Callable[[Service, Any, Caller], Answer]
    answers: Literal["audio", "json", "stream"] = "audio"

    @property
    def path(self) -> str:
        return "/" + self.name

    def __call__(self, service: Service, raw: Any, caller: Caller) -> Answer:
        """Answer the raw JSON body `raw`. Raises SpeechError."""
        return self.run(service, schemas.parse(self.request, raw), caller)


OPERATIONS: dict[str, Operation[Reply]] = {
    operation.name: operation
    for operation in (
        Operation("speak", schemas.SpeakRequest, speak),
        Operation("conversation", schemas.ConversationRequest, conversation),
        Operation("clone_voice", schemas.CloneVoiceRequest, clone_voice),
        Operation("batch_speak", schemas.BatchSpeakRequest, batch_speak, answers="json"),
        Operation("contextual_speak", schemas.ContextualSpeakRequest, contextual_speak),
        Operation("quality_speak", schemas.SpeakRequest, quality_speak),
        Operation("cached_speak", schemas.PlainSpeakRequest, cached_speak),
        Operation("optimized_speak", schemas.SpeakRequest, optimized_speak),
        Operation("robust_speak", schemas.SpeakRequest, robust_speak),
    )
}

STREAM_SPEAK: Operation[Speaking] = Operation(
    "stream_speak", schemas.StreamSpeakRequest, stream_speak, answers="stream"
)
