"""What the published schema says of an operation: the request, every answer, every error."""

from __future__ import annotations

from typing import Any

from audio_utils import MEDIA_TYPES
from speech.errors import STATUS
from speech.operations import Operation

_AUDIO: dict[str, Any] = {
    media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in MEDIA_TYPES.values()
}
_ERROR_SCHEMA = {
    "type": "object",
    "required": ["detail", "code", "field"],
    "properties": {
        "detail": {"type": "string", "description": "What went wrong and what would be right."},
        "code": {"type": "string"},
        "field": {"type": ["string", "null"], "description": "The input at fault, as in context[1].audio_b64."},
    },
}


def describe(operation: Operation) -> dict[str, Any]:
    """Keywords for the route that serves `operation`."""
    codes: dict[int, list[str]] = {}
    for status, code in STATUS.values():
        codes.setdefault(status, []).append(code)
    codes.pop(499)  # nobody is left to see it
    responses: dict[int | str, dict[str, Any]] = {
        status: {"description": ", ".join(names), "content": {"application/json": {"schema": _ERROR_SCHEMA}}}
        for status, names in codes.items()
    }
    responses[200] = {"description": "The answer.", "content": _answer(operation)}
    schema = operation.request.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    summary, _, description = (operation.run.__doc__ or "").partition("\n")
    return {
        "summary": summary,
        "description": description,
        "responses": responses,
        "response_model": None,
        "openapi_extra": {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}},
    }


def _answer(operation: Operation) -> dict[str, Any]:
    if operation.answers == "json":
        return {"application/json": {"schema": {"type": "array", "items": {"type": "string", "format": "byte"}}}}
    if operation.answers == "stream":
        return {"text/event-stream": {"schema": {"type": "string"}}} | _AUDIO
    return _AUDIO
