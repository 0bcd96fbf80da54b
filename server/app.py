"""The HTTP application: every door of the service under one roof.

Knows nothing of what a door does; tells what went wrong.
"""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from loguru import logger
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from server import openapi, tracing
from server.bodies import Bodies
from server.cors import origins_of, policy
from server.desk import Desk
from server.doors import dia, library, native, openai, operating, sillytavern, websocket
from server.errors import error_response
from server.guard import Guard
from server.heads import Heads
from server.keys import Keys, keys_of
from server.request_log import RequestLog, logged_path
from speech.errors import SpeechError
from speech.release import VERSION
from speech.service import Service
from speech.settings import Settings

DOORS = (native, openai, library, dia, sillytavern, websocket, operating)


def create_app(service: Service, settings: Settings, keys: Keys | None = None) -> FastAPI:
    """The application over a service that has been started. `keys`: those of `settings`, where they were read already.
    Raises StartupError where they cannot be."""
    keys = keys or keys_of(settings)
    app = FastAPI(title="Duologue", version=VERSION, summary="Text in, conversation out.", telemetry=tracing.OF_FASTAPI)
    app.state.desk = desk = Desk(service, settings)
    for door in DOORS:
        app.include_router(door.router(desk))
    if keys:
        openapi.ask_for_key(app)
    app.add_exception_handler(SpeechError, _error)
    app.add_exception_handler(HTTPException, _error)
    # The last one added stands outermost.
    app.add_middleware(Heads)
    app.add_middleware(
        Bodies,
        each_bytes=settings.max_body_mb << 20,
        all_bytes=settings.bodies_mb << 20,
        within_s=settings.body_wait_s,
    )
    origins = origins_of(settings)
    app.add_middleware(
        Guard,
        keys=keys,
        rate_per_minute=settings.rate_per_minute,
        origins=origins,
        max_websockets=settings.connections // 2,  # uvicorn counts them too: plain requests keep the other half
    )
    app.add_middleware(RequestLog, metrics=desk.metrics)
    if origins:
        app.add_middleware(CORSMiddleware, **policy(origins))
    return app


async def _error(request: Request, error: Exception) -> Response:
    response = error_response(request.scope["path"], error)
    if isinstance(error, SpeechError) and response.status_code >= 500:
        logger.warning("{} {}: {}", logged_path(request.scope), response.status_code, error.message)
    return response
