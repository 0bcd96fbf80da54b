"""OpenAI's door: /v1, for its SDK and for all that is written against its speech endpoint.

Any model that a client names is taken, since there is one. What a client sends that is not known here is passed over,
and so is null: they send it for what they leave out. What is known is checked.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from loguru import logger
from pybase64 import b64encode
from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

import schemas
from audio_utils import MEDIA_TYPES, Format
from server import bodies, openapi
from server.desk import Desk
from server.errors import OPENAI_PATHS, shaped
from speech.caller import Caller
from speech.engines.base import Line
from speech.errors import InvalidInput, SpeechError, to_http
from speech.service import Service
from speech.streaming import Speaking, encoded, parts_of

MODELS = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")
"""OpenAI's names, which clients have built in. Each means the engine that is here."""

MODEL = "tts-1"
VOICE = "alloy"

MEDIA_TYPE: dict[str, str] = MEDIA_TYPES | {"pcm": "audio/pcm"}
"""As this protocol has it: its clients take audio/pcm for 24 kHz, 16 bits, little-endian, mono."""

PCM_HZ = 24_000

MAX_DURATION_MS = 15 * 60_000
"""Of an answer at the usual pace: more than the longest input takes, unless it is all digits."""

MAX_EVENT_BYTES = 24_000
"""Of sound in one event, 32 kB as base64: many clients read an event as a line, and lines have limits."""


def _voice_name(value: Any) -> Any:
    if isinstance(value, dict):  # how OpenAI names a custom voice
        value = value.get("id")
    return VOICE if value == "" else value  # what Open WebUI sends where no voice is set


class SpeechRequest(schemas.Sampling):
    """Say `input`. seed, temperature and top_k are ours."""

    model_config = ConfigDict(extra="ignore")

    input: Annotated[
        schemas.Text,
        WithJsonSchema({"type": "string", "description": "1 to 10000 characters, with a letter or a digit."}),
    ]
    model: Annotated[str, Field(max_length=256)] = Field(MODEL, description="Any name: the engine is the same.")
    voice: Annotated[
        schemas.VoiceName,
        BeforeValidator(_voice_name),
        WithJsonSchema({"type": ["string", "object"]}),
    ] = Field(VOICE, description='A name, or {"id": …}.')
    instructions: str = Field("", max_length=10_000, description="Accepted; no engine here can follow them yet.")
    response_format: schemas.ResponseFormat = Field("mp3", description="pcm is 24 kHz, 16-bit, mono, headerless.")
    stream_format: Literal["audio", "sse"] = "audio"


class VoiceRequest(schemas.Model):
    """Add a voice that sounds as in the file `audio_sample`. transcript is ours."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["audio_sample"] = Field("audio_sample", description="Voices are made of recordings only.")
    name: str = Field(description="How to ask for it: 1 to 64 letters, digits, blanks or any of . ' _ -")
    consent: str = Field(
        min_length=1, max_length=1000, description="That the person agreed: an id, or any words. The log keeps it."
    )
    transcript: str = Field("", max_length=schemas.MAX_TEXT_CHARS, description="What the recording says.")


def router(desk: Desk) -> APIRouter:
    routes = APIRouter(prefix="/v1")
    service = desk.service
    names = (service.engine.info.name, *MODELS)
    opened_s = int(time.time())

    async def speech(request: Request) -> Response:
        raw = await desk.json(request)
        wanted = schemas.parse(SpeechRequest, _given(raw))
        open = functools.partial(_open, service, wanted)
        if wanted.stream_format == "sse":
            return await desk.events(request, open, lambda speaking: _events(speaking, wanted.response_format))
        media_type = MEDIA_TYPE[wanted.response_format]
        return await desk.stream(request, open, lambda speaking: _sound(speaking, wanted.response_format), media_type)

    def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(name, opened_s) for name in names]}

    def model(model: str) -> dict[str, Any]:
        if model not in names:
            raise HTTPException(404, "there is no such model here; GET /v1/models lists those there are")
        return _model(model, opened_s)

    def audio_models() -> dict[str, Any]:
        return {"models": [{"id": name, "name": name} for name in names]}

    def voices() -> dict[str, Any]:
        return {"voices": [{"id": voice.id, "name": voice.name, "kind": voice.kind} for voice in service.voices.all()]}

    async def add_voice(request: Request) -> dict[str, Any]:
        async with bodies.read_form(request) as form:
            fields = {name: value for name, value in form.items() if isinstance(value, str)}
            sample = form.get("audio_sample")
            data = await sample.read() if isinstance(sample, UploadFile) else None
        return await desk.run(request, functools.partial(_add, service, fields, data))

    def remove_voice(voice_id: str) -> dict[str, Any]:
        try:
            service.voices.remove(voice_id, "voice_id")
        except InvalidInput as error:
            raise HTTPException(404, error.message) from None
        logger.info("the voice {} was removed", voice_id)
        return {"id": voice_id, "object": "audio.voice.deleted", "deleted": True}

    def add(method: str, path: str, endpoint: Callable[..., Any], summary: str, **described: Any) -> None:
        keywords = openapi.describe_openai(summary, **described)
        routes.add_api_route(path, endpoint, methods=[method], **keywords)

    sound = openapi.EVENTS | openapi.AUDIO | {MEDIA_TYPE["pcm"]: openapi.BINARY}
    add("POST", "/audio/speech", speech, "Say a text.", answer=sound, body=SpeechRequest)
    add("GET", "/models", models, "The names of the engine here.")
    add("GET", "/models/{model}", model, "One of them.")
    add("GET", "/audio/models", audio_models, "The same, as Open WebUI asks for them.")
    add("GET", "/audio/voices", voices, "Every voice that can be asked for here.")
    add("POST", "/audio/voices", add_voice, "Add a voice.", body=VoiceRequest, file="audio_sample")
    add("DELETE", "/audio/voices/{voice_id}", remove_voice, "Forget a voice that was added.")
    return routes


def _given(raw: Any) -> Any:
    return {name: value for name, value in raw.items() if value is not None} if isinstance(raw, dict) else raw


def _open(service: Service, wanted: SpeechRequest, caller: Caller) -> Speaking:
    def prepare() -> Callable[[], Line]:
        line = service.line(
            wanted,
            caller,
            text=wanted.input,
            field="input",
            speaker=0,
            voice=wanted.voice,
            max_duration_ms=round(MAX_DURATION_MS / min(1, wanted.speed)),
        )
        line = replace(line, eager=True)
        return lambda: line

    parts = [replace(part, field="input") for part in parts_of(wanted.input, service.engine.info)]
    return Speaking.open(service, caller, prepare, parts)


def _sound(speaking: Speaking, response_format: Format) -> Iterator[bytes]:
    return encoded(speaking, response_format, PCM_HZ if response_format == "pcm" else None)


def _events(speaking: Speaking, response_format: Format) -> Iterator[dict[str, Any]]:
    """OpenAI's events. After an error the connection is cut as well, for those who look at nothing but the sound."""
    try:
        for data in _sound(speaking, response_format):
            for at in range(0, len(data), MAX_EVENT_BYTES):
                audio = b64encode(data[at : at + MAX_EVENT_BYTES]).decode()
                yield {"type": "speech.audio.delta", "audio": audio}
    except SpeechError as error:
        status, body, _ = to_http(error)
        yield {"type": "error", **shaped(OPENAI_PATHS, status, body)}
        raise
    yield {"type": "speech.audio.done", "usage": speaking.usage, "truncated": speaking.truncated}


def _model(name: str, created_s: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created_s, "owned_by": "duologue"}


def _add(service: Service, fields: dict[str, str], sample: bytes | None, caller: Caller) -> dict[str, Any]:
    missing = [name for name in ("name", "consent") if name not in fields]
    missing += ["audio_sample"] if sample is None else []
    if missing and fields.get("type", "audio_sample") == "audio_sample":
        cure = "send a form with name, consent and the file audio_sample, as in curl -F audio_sample=@voice.wav"
        raise InvalidInput(missing[0], "is missing", cure)
    wanted = schemas.parse(VoiceRequest, fields)
    assert sample is not None
    with service.place(caller):
        recording = service.recording(sample, "audio_sample")
    voice = service.voices.add(wanted.name, wanted.transcript, recording)
    logger.info("the voice {} was added, with this consent: {!r}", voice.id, wanted.consent)
    return {
        "id": voice.id,
        "object": "audio.voice",
        "type": "audio_sample",
        "name": voice.name,
        "created_at": voice.created_s,
    }
