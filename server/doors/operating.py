"""For whoever runs the server: /ready and /metrics. /health, which callers read too, is the native door's."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from server.desk import Desk
from server.metrics import MEDIA_TYPE


def router(desk: Desk) -> APIRouter:
    routes = APIRouter()

    def ready() -> Response:
        reason = desk.service.not_ready
        return JSONResponse({"status": reason or "ready"}, 503 if reason else 200)

    def metrics() -> Response:
        return Response(desk.metrics.text(), media_type=MEDIA_TYPE)

    routes.add_api_route(
        "/ready",
        ready,
        methods=["GET"],
        summary="Whether requests should be sent here now.",
        responses={503: {"description": "loading, unable to speak at present, or shutting down"}},
    )
    routes.add_api_route(
        "/metrics",
        metrics,
        methods=["GET"],
        summary="Numbers in Prometheus' text.",
        response_class=PlainTextResponse,
    )
    return routes
