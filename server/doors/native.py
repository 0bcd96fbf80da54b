"""Our own door: the operations at the same paths as on Chutes, and /health."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request, Response

import schemas
from server import openapi
from server.desk import Desk
from speech.operations import OPERATIONS, STREAM_SPEAK, Operation
from speech.reply import Reply
from speech.streaming import events


def router(desk: Desk) -> APIRouter:
    routes = APIRouter()
    for operation in OPERATIONS.values():
        routes.add_api_route(
            operation.path, _endpoint(desk, operation), methods=["POST"], **openapi.describe(operation)
        )

    async def stream_speak(request: Request) -> Response:
        wanted = schemas.parse(schemas.StreamSpeakRequest, await desk.json(request))
        open = functools.partial(STREAM_SPEAK.run, desk.service, wanted)
        if wanted.stream_format == "audio":
            return await desk.audio(request, open, wanted.response_format)
        return await desk.events(request, open, lambda speaking: events(speaking, wanted.response_format))

    routes.add_api_route(STREAM_SPEAK.path, stream_speak, methods=["POST"], **openapi.describe(STREAM_SPEAK))
    routes.add_api_route("/health", desk.service.health, methods=["GET"], summary="What speaks here, and how busy.")
    return routes


def _endpoint(desk: Desk, operation: Operation[Reply]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        raw = await desk.json(request)
        return await desk.reply(request, functools.partial(operation, desk.service, raw))

    endpoint.__name__ = operation.name
    return endpoint
