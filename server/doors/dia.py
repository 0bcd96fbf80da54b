"""The Dia application's door: /api/generate, every field of it doing what its name says, and /api/health.

A prompt comes as a list of samples. Dia's codec counts time in frames, and so do its limits here.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

import schemas
from audio_utils import Audio
from server import bodies, openapi
from server.desk import Desk
from server.scripts import MAX_ANSWER_MS, Controls, answer, opened, script
from speech.caller import Caller
from speech.engines.base import Line, Segment
from speech.errors import InvalidInput
from speech.reply import Reply
from speech.service import Service

FRAMES_PER_S = 44_100 / 512
"""Of Dia's codec; a frame is a token of max_new_tokens."""

SAMPLES = "audio_prompt.audio_data"
SEND = "send a list of floats within ±1 or of 16-bit integers, or a list of such lists, one for each channel"
MAX_CHANNELS = 8


class AudioPrompt(schemas.Model):
    """How the speaker sounds."""

    sample_rate: int = Field(ge=4_000, le=192_000)
    audio_data: list[Any] = Field(
        description="0.5 to 60 s of floats within ±1, or of 16-bit integers; or a list of such lists, one a channel.",
        examples=[[0.0, 0.1]],
        json_schema_extra={"items": {"type": "number"}},
    )


class GenerateRequest(Controls):
    """Say `text_input` as one WAV."""

    text_input: schemas.Text
    audio_prompt: AudioPrompt | None = None
    max_new_tokens: int = Field(
        1024,
        ge=44,
        le=int(MAX_ANSWER_MS / 1000 * FRAMES_PER_S),
        description="The audio is never longer than this: 86.13 tokens are a second.",
    )
    speed_factor: float = Field(0.94, ge=0.25, le=4, allow_inf_nan=False, description="The pace: 2 is twice as fast.")


def router(desk: Desk) -> APIRouter:
    routes = APIRouter()
    service = desk.service

    async def generate(request: Request) -> Response:
        body = await bodies.read(request)
        if bodies.has_too_many_values(body) and b'"audio_data"' in body:
            cure = f"send up to {bodies.MAX_JSON_MARKS / 44_100:.0f} s of one channel at 44100 Hz; 10 s are plenty"
            raise InvalidInput(SAMPLES, "has more samples than are read", cure)
        wanted = schemas.parse(GenerateRequest, bodies.parsed(body))
        return await desk.reply(request, functools.partial(_generate, service, wanted))

    def health() -> Response:
        reason = service.not_ready
        return JSONResponse({"status": reason or "ok", "message": reason or "ready to speak"}, 503 if reason else 200)

    spoken = openapi.route("Say a script of [S1] and [S2].", body=GenerateRequest, answer=openapi.WAV)
    routes.add_api_route("/api/generate", generate, methods=["POST"], **spoken)
    told = openapi.route("Whether it can speak.", answer=openapi.JSON)
    routes.add_api_route("/api/health", health, methods=["GET"], **told)
    return routes


def _generate(service: Service, wanted: GenerateRequest, caller: Caller) -> Reply:
    info = service.engine.info
    said = script(wanted.text_input, info, field="text_input")
    request = wanted.sampling(speed=wanted.speed_factor)
    prompt = wanted.audio_prompt and sound(wanted.audio_prompt)

    def line() -> Line:
        context: tuple[Segment, ...] = ()
        if prompt:
            context = (Segment("", said.parts[0].speaker or 0, service.recording(prompt, SAMPLES)),)
        return service.line(
            request,
            caller,
            text=said.parts[0].text,
            speaker=0,
            max_duration_ms=int(1000 * wanted.max_new_tokens / FRAMES_PER_S),
            context=context,
        )

    speaking = opened(service, caller, line, said.parts)
    return answer(service, speaking, request, left_out=said.left_out, ignored=wanted.ignored(info))


def sound(prompt: AudioPrompt) -> Audio:
    """The samples of `prompt`, mixed to mono and scaled to ±1. Raises InvalidInput where they are no such samples."""
    channels = prompt.audio_data if any(isinstance(each, list) for each in prompt.audio_data) else [prompt.audio_data]
    if not all(isinstance(each, list) and set(map(type, each)) <= {int, float} for each in channels):
        raise InvalidInput(SAMPLES, "is not a list of numbers", SEND)  # of strings, numpy would make gigabytes
    if len(set(map(len, channels))) > 1:
        raise InvalidInput(SAMPLES, "has channels of different lengths", SEND)
    try:
        samples = np.asarray(channels)
    except OverflowError:
        samples = np.asarray(None)
    if not samples.size:
        raise InvalidInput(SAMPLES, "is empty", f"{SEND}, or leave audio_prompt out")
    if samples.dtype.kind not in "iuf":
        raise InvalidInput(SAMPLES, "holds numbers beyond every scale", SEND)
    peak = np.abs(samples.astype(np.float64)).max()
    if samples.dtype.kind != "f" and peak > 1:  # JSON writes the floats 0, 1 and -1 as integers too
        if peak > 32768:
            raise InvalidInput(SAMPLES, "holds integers of more than 16 bits", SEND)
        samples = samples / 32768
    across = int(np.argmin(samples.shape))  # of a list of frames, the second
    if samples.shape[across] > MAX_CHANNELS:
        raise InvalidInput(SAMPLES, f"has {samples.shape[across]} channels", f"send at most {MAX_CHANNELS}")
    with np.errstate(over="ignore"):  # what becomes infinite is told later
        return Audio(samples.mean(axis=across).astype(np.float32), prompt.sample_rate)
