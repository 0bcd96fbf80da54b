"""SillyTavern's door: the routes of xtts-api-server that its XTTS extension calls.

Everything there is one person's: a slider moved in the page sets the pace of the whole server. Here each caller's
settings are their own, by API key, or by address where no keys are asked.
"""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from pydantic import ConfigDict, Field
from starlette.exceptions import HTTPException

import schemas
from cache import AudioCache
from server import openapi
from server.desk import Desk
from server.guard import GRANT, SAMPLES
from server.scripts import MAX_ANSWER_MS, answer, opened
from speech.caller import Caller
from speech.engines.base import EngineInfo, Line
from speech.errors import InvalidInput
from speech.reply import Reply
from speech.service import Service
from speech.streaming import Speaking, parts_of
from speech.voices.catalogue import Voice

SAMPLE_TEXT = "Hello. This is how I sound when I read to you."
MAX_CALLERS = 1000
"""Whose settings are remembered; the longest unused are forgotten first."""

LANGUAGES = {
    "ar": "Arabic",
    "pt": "Brazilian Portuguese",
    "zh-cn": "Chinese",
    "cs": "Czech",
    "nl": "Dutch",
    "en": "English",
    "fr": "French",
    "de": "German",
    "it": "Italian",
    "pl": "Polish",
    "ru": "Russian",
    "es": "Spanish",
    "tr": "Turkish",
    "ja": "Japanese",
    "ko": "Korean",
    "hu": "Hungarian",
    "hi": "Hindi",
}
"""What the extension offers, by the code it sends."""


class SpeakRequest(schemas.Model):
    """Say `text` in a voice."""

    model_config = ConfigDict(extra="ignore")  # save_path and the like: nothing is written here

    text: schemas.Text
    speaker_wav: schemas.VoiceName | None = Field(None, description="A voice by name, .wav or not; none: the first.")
    language: str | None = Field(None, max_length=16, description="One of GET /languages.")


class SettingsRequest(schemas.Model):
    """How everything is said from now on that this caller asks for here."""

    # Lax: once a slider was moved the extension sends every number as text.
    model_config = ConfigDict(extra="ignore", strict=False)

    temperature: float = Field(0.9, ge=0, le=2, allow_inf_nan=False)
    speed: float = Field(1, ge=0.25, le=4, allow_inf_nan=False)
    length_penalty: float = Field(1, ge=-10, le=10, allow_inf_nan=False)
    repetition_penalty: float = Field(5, gt=0, le=20, allow_inf_nan=False)
    top_p: float = Field(0.85, ge=0, le=1, allow_inf_nan=False)
    top_k: int = Field(50, ge=0, le=2048, description="0: any number.")
    enable_text_splitting: bool = Field(True, description="False: in pieces as long as the engine takes.")
    stream_chunk_size: int = Field(100, ge=1, le=1000)

    def sampling(self) -> schemas.Sampling:
        wanted = {"temperature": self.temperature, "top_k": self.top_k or 2048, "speed": self.speed}
        return schemas.Sampling.model_validate(wanted)

    def ignored(self, info: EngineInfo) -> list[str]:
        """Which of the settings that were sent change nothing here."""
        heeded = {"speed", "enable_text_splitting"} | ({"temperature", "top_k"} if info.sampling else set())
        return [name for name in SettingsRequest.model_fields if name in self.model_fields_set - heeded]


USUAL = SettingsRequest.model_validate({})


class Remembered:
    """The settings of each caller, a bounded number of them. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, SettingsRequest] = OrderedDict()

    def keep(self, request: Request, settings: SettingsRequest) -> None:
        with self._lock:
            self._kept[_whose(request)] = settings
            self._kept.move_to_end(_whose(request))
            if len(self._kept) > MAX_CALLERS:
                self._kept.popitem(last=False)

    def of(self, request: Request) -> SettingsRequest:
        with self._lock:
            settings = self._kept.get(_whose(request))
            if settings:
                self._kept.move_to_end(_whose(request))
            return settings or USUAL


def _whose(request: Request) -> str:
    grant = request.scope.get(GRANT)
    if grant and grant.key:
        return f"key {grant.key.sha256}"
    return f"address {request.client.host if request.client else ''}"


def router(desk: Desk) -> APIRouter:
    routes = APIRouter()
    service, remembered = desk.service, Remembered()
    samples: AudioCache[Reply] = AudioCache(capacity=256, max_bytes=64 << 20)

    def speakers(request: Request) -> list[dict[str, str]]:
        base = str(request.base_url).rstrip("/") + SAMPLES
        return [
            {"name": voice.name, "voice_id": voice.id, "preview_url": f"{base}{quote(voice.id)}.wav"}
            for voice in _voices(service)
        ]

    def speakers_list() -> list[str]:
        return [voice.name for voice in _voices(service)]

    def languages() -> dict[str, dict[str, str]]:
        return {"languages": {LANGUAGES.get(code, code): code for code in service.engine.info.languages}}

    async def sample(request: Request) -> Response:
        name = request.path_params["name"].removesuffix(".wav")
        voice = next((voice for voice in _voices(service) if voice.id == name), None)
        if voice is None:
            raise HTTPException(404, "there is no such voice; GET /speakers lists them")
        response = await desk.reply(request, functools.partial(_sample, service, samples, voice))
        response.headers["Cache-Control"] = "private, max-age=3600"
        return response

    async def tts_to_audio(request: Request) -> Response:
        wanted, settings = schemas.parse(SpeakRequest, await desk.json(request)), remembered.of(request)
        return await desk.reply(request, functools.partial(_whole, service, wanted, settings))

    async def tts_stream(request: Request) -> Response:
        if "text" not in request.query_params:
            raise InvalidInput("text", "is missing", "send it in the query, as in ?text=Hello.&language=en")
        wanted, settings = schemas.parse(SpeakRequest, dict(request.query_params)), remembered.of(request)
        return await desk.audio(request, functools.partial(_open, service, wanted, settings, eager=True), "wav")

    async def set_tts_settings(request: Request) -> dict[str, Any]:
        settings = schemas.parse(SettingsRequest, await desk.json(request))
        remembered.keep(request, settings)
        ignored = settings.ignored(service.engine.info)
        return {"message": "kept, for you alone", "settings": settings.model_dump(), "ignored": ignored}

    for path, endpoint, described in (
        ("/speakers", speakers, openapi.route("The voices, each with a sample.", answer=openapi.JSON)),
        ("/speakers_list", speakers_list, openapi.route("Their names.", answer=openapi.JSON)),
        ("/languages", languages, openapi.route("What is spoken.", answer=openapi.JSON)),
        (SAMPLES + "{name}", sample, openapi.route("A voice's sample.", answer=openapi.WAV, path=("name",))),
        ("/tts_stream", tts_stream, openapi.route("Say it as it is made.", query=SpeakRequest, answer=openapi.WAV)),
    ):
        routes.add_api_route(path, endpoint, methods=["GET"], **described)
    routes.add_api_route("/tts_stream/", tts_stream, methods=["GET"], include_in_schema=False)
    said = openapi.route("Say a text as one WAV.", body=SpeakRequest, answer=openapi.WAV)
    routes.add_api_route("/tts_to_audio/", tts_to_audio, methods=["POST"], **said)
    routes.add_api_route("/tts_to_audio", tts_to_audio, methods=["POST"], include_in_schema=False)
    kept = openapi.route("Say things so from now on.", body=SettingsRequest, answer=openapi.JSON)
    routes.add_api_route("/set_tts_settings", set_tts_settings, methods=["POST"], **kept)
    return routes


def _voices(service: Service) -> list[Voice]:
    """Those to choose from: not the names that OpenAI has for some of them."""
    return [voice for voice in service.voices.all() if voice.kind != "alias"]


def _voice_name(service: Service, speaker_wav: str) -> str:
    """The voice that is meant: .wav is the ending of a file, unless a voice is called so."""
    known = {name.lower() for voice in service.voices.all() for name in (voice.id, voice.name)}
    return speaker_wav if speaker_wav.lower() in known else speaker_wav.removesuffix(".wav")


def _sample(service: Service, samples: AudioCache[Reply], voice: Voice, caller: Caller) -> Reply:
    """The sample of `voice`, from those that were made before where it is there."""
    kept = samples.get(voice.id)
    if kept is None:
        wanted = SpeakRequest(text=SAMPLE_TEXT, speaker_wav=voice.id, language=None)
        kept = _whole(service, wanted, USUAL, caller)
        samples.put(voice.id, kept)
    return kept


def _whole(service: Service, wanted: SpeakRequest, settings: SettingsRequest, caller: Caller) -> Reply:
    return answer(service, _open(service, wanted, settings, caller), settings.sampling())


def _open(
    service: Service, wanted: SpeakRequest, settings: SettingsRequest, caller: Caller, *, eager: bool = False
) -> Speaking:
    """`wanted` under way. Raises SpeechError."""
    info = service.engine.info
    language = (wanted.language or info.languages[0]).lower()
    if language not in info.languages and language.split("-")[0] not in info.languages:
        raise InvalidInput("language", "is not spoken here", f"ask for one of {', '.join(info.languages)}")
    name = _voice_name(service, wanted.speaker_wav or "")
    text = wanted.text.replace("*", "")  # around what somebody does in a chat
    parts = parts_of(text, info, max_chars=None if settings.enable_text_splitting else info.max_text_chars)

    def line() -> Line:
        line = service.line(settings.sampling(), caller, text=parts[0].text, speaker=0, max_duration_ms=MAX_ANSWER_MS)
        line = replace(line, eager=eager)
        return service.in_voice(line, name, "speaker_wav") if name else line

    return opened(service, caller, line, parts)
