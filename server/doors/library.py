"""The voice-library server's door: /tts in chunks, /analyze that tells them beforehand, /voices, /stats.

What its engine had and the one here has not is told in X-Ignored and X-Left-Out (docs/other-doors.md).
"""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import ConfigDict, Field

import schemas
from server import openapi
from server.desk import Desk
from server.scripts import MAX_ANSWER_MS, Controls, Script, answer, opened, script
from speech.account import Account
from speech.caller import Caller
from speech.engines.base import Line
from speech.errors import InvalidInput
from speech.reply import Reply
from speech.service import Service

LIBRARY = "voice_library"
SECOND = "single_s2"

CHARS_PER_S = 16
"""Of English, at the usual pace: the embedded voices say 16 to 18 in long sentences, fewer in short ones."""

ChunkSize = Field(120, ge=20, le=1000, description="Characters in a chunk, at most.")


class TtsRequest(Controls):
    """Say `text`, chunk by chunk, as one clip."""

    text: schemas.Text
    voice_mode: Literal["dialogue", "single_s1", "single_s2", "voice_library"] = Field(
        "single_s1",
        description="Who speaks until a tag [S1] or [S2] says otherwise; in voice_library, voice_id says all of it.",
    )
    voice_id: schemas.VoiceName | None = None
    enable_chunking: bool = Field(True, description="False: in pieces as long as the engine takes.")
    chunk_size: int = ChunkSize
    output_format: schemas.ResponseFormat = "wav"


class AnalyzeRequest(schemas.Model):
    """Tell how /tts would divide `text`."""

    # Lax: the server that is replaced takes these in the query, where a number is text.
    model_config = ConfigDict(extra="ignore", strict=False)

    text: schemas.Text
    enable_chunking: bool = True
    chunk_size: int = ChunkSize


@dataclass
class Tally:
    """What was spoken since the start."""

    answered: int = 0
    failed: int = 0
    audio_s: float = 0.0
    work_s: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, account: Account) -> None:
        with self._lock:
            self.answered += not account.error
            self.failed += bool(account.error)
            self.audio_s += account.audio_s
            self.work_s += account.work_s

    @property
    def rtf(self) -> float | None:
        """The engine's time for a second of sound; None before the first."""
        return self.work_s / self.audio_s if self.audio_s else None


def router(desk: Desk) -> APIRouter:
    routes = APIRouter()
    service, tally = desk.service, Tally()
    service.watchers.append(tally.add)

    async def tts(request: Request) -> Response:
        wanted = schemas.parse(TtsRequest, await desk.json(request))
        return await desk.reply(request, functools.partial(_speak, service, wanted))

    async def analyze(request: Request) -> dict[str, Any]:
        raw: Any = dict(request.query_params)
        if "text" not in raw:
            body = await desk.json(request)
            raw = raw | body if isinstance(body, dict) else body
        wanted = schemas.parse(AnalyzeRequest, raw)
        return await desk.run(request, lambda _: _analysis(service, wanted, tally.rtf))

    def voices() -> list[dict[str, Any]]:
        return [{"voice_id": voice.id, "name": voice.name, "kind": voice.kind} for voice in service.voices.all()]

    def stats() -> dict[str, Any]:
        return _stats(service, tally)

    spoken = openapi.route("Say a text in chunks, as one clip.", body=TtsRequest, answer=openapi.AUDIO)
    analysed = openapi.route("Tell how /tts would divide a text.", body=AnalyzeRequest, answer=openapi.JSON)
    routes.add_api_route("/tts", tts, methods=["POST"], **spoken)
    routes.add_api_route("/analyze", analyze, methods=["POST"], **analysed)
    routes.add_api_route("/voices", voices, methods=["GET"], **openapi.route("The voices.", answer=openapi.JSON))
    routes.add_api_route("/stats", stats, methods=["GET"], **openapi.route("What was done.", answer=openapi.JSON))
    return routes


def _speak(service: Service, wanted: TtsRequest, caller: Caller) -> Reply:
    if wanted.voice_mode == LIBRARY and wanted.voice_id is None:
        raise InvalidInput(
            "voice_id", "is missing", f"name a voice for voice_mode {LIBRARY}, as GET /voices lists them"
        )
    named = "voice_mode" in wanted.model_fields_set
    if wanted.voice_id is not None and named and wanted.voice_mode != LIBRARY:
        raise InvalidInput("voice_id", f"has no part in voice_mode {wanted.voice_mode}", f"ask for {LIBRARY}")
    said = _script(service, wanted)
    request = wanted.sampling(response_format=wanted.output_format)

    def line() -> Line:
        speaker = 1 if wanted.voice_mode == SECOND else 0
        line = service.line(request, caller, text=said.parts[0].text, speaker=speaker, max_duration_ms=MAX_ANSWER_MS)
        return line if wanted.voice_id is None else service.in_voice(line, wanted.voice_id, "voice_id")

    parts = said.parts
    if wanted.voice_id is not None:  # all of it in one voice, whatever its tags
        parts = [replace(part, speaker=None) for part in parts]
    speaking = opened(service, caller, line, parts)
    ignored = wanted.ignored(service.engine.info)
    return answer(service, speaking, request, left_out=said.left_out, ignored=ignored)


def _script(service: Service, wanted: TtsRequest | AnalyzeRequest) -> Script:
    info = service.engine.info
    return script(wanted.text, info, max_chars=wanted.chunk_size if wanted.enable_chunking else info.max_text_chars)


def _analysis(service: Service, wanted: AnalyzeRequest, rtf: float | None) -> dict[str, Any]:
    said = _script(service, wanted)
    audio_s = sum(len(part.text) for part in said.parts) / CHARS_PER_S
    return {
        "original_length": len(wanted.text),
        "num_chunks": len(said.parts),
        "chunks": [part.text for part in said.parts],
        "speakers": [part.speaker for part in said.parts],
        "left_out": list(said.left_out),
        "estimated_audio_seconds": round(audio_s, 1),
        "estimated_generation_time": None if rtf is None else round(audio_s * rtf, 1),
    }


def _stats(service: Service, tally: Tally) -> dict[str, Any]:
    health = service.health()
    kinds = [voice.kind for voice in service.voices.all()]
    cache, sessions = service.cache, service.sessions
    return {
        "model_loaded": service.ready,
        "uptime_seconds": health["uptime_s"],
        "engine": health["engine"],
        "device": health["device"],
        "requests": {
            "answered": tally.answered,
            "failed": tally.failed,
            "speaking": service.gate.speaking,
            "waiting": service.gate.waiting,
        },
        "audio_seconds": round(tally.audio_s, 1),
        "real_time_factor": None if tally.rtf is None else round(tally.rtf, 3),
        "voice_library_stats": {kind: kinds.count(kind) for kind in ("builtin", "alias", "custom")},
        "cache": {"entries": len(cache), "bytes": cache.nbytes, "queries": cache.asked, "hits": cache.found},
        "sessions": {"entries": len(sessions), "bytes": sessions.nbytes},
        "memory_info": dict(service.engine.load().memory),
    }
