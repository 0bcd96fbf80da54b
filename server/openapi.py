"""What the published schema says of a route: the request, every answer, every error."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fastapi import FastAPI

import schemas
from audio_utils import MEDIA_TYPES
from speech.errors import STATUS
from speech.operations import Operation

BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
AUDIO: dict[str, Any] = {media_type: BINARY for media_type in MEDIA_TYPES.values()}
EVENTS: dict[str, Any] = {"text/event-stream": {"schema": {"type": "string"}}}
WAV = {"audio/wav": AUDIO["audio/wav"]}
JSON: dict[str, Any] = {"application/json": {"schema": {}}}
"""Content of an answer, for `route`."""

_ERROR_SCHEMA = {
    "type": "object",
    "required": ["detail", "code", "field"],
    "properties": {
        "detail": {"type": "string", "description": "What went wrong and what would be right."},
        "code": {"type": "string"},
        "field": {"type": ["string", "null"], "description": "The input at fault, as in context[1].audio_b64."},
    },
}


_OPENAI_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string", "description": "What went wrong and what would be right."},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"], "description": "The input at fault."},
                "code": {"type": "string"},
            },
        }
    },
}


def describe(operation: Operation[Any]) -> dict[str, Any]:
    """Keywords for the route that serves `operation`."""
    return route(operation.run.__doc__ or "", body=operation.request, answer=_answer(operation))


def route(
    about: str,
    *,
    answer: dict[str, Any],
    body: type[schemas.Model] | None = None,
    query: type[schemas.Model] | None = None,
    path: Collection[str] = (),
) -> dict[str, Any]:
    """Keywords for a route. about: its summary, and after a line more. answer: content by media type. query: a model
    with a field for each parameter. path: names in the path, of what may not be there."""
    summary, _, description = about.partition("\n")
    parameters = [*map(_path_parameter, path), *(_parameters(query) if query else ())]
    return {
        "summary": summary,
        "description": description,
        "responses": _errors(_ERROR_SCHEMA, {404: ["not_found"]} if path else None)
        | {200: {"description": "The answer.", "content": answer}},
        "response_model": None,
        "openapi_extra": {"parameters": parameters} | (_body(_schema(body), "application/json") if body else {}),
    }


def describe_openai(
    about: str,
    *,
    answer: dict[str, Any] = JSON,
    body: type[schemas.Model] | None = None,
    file: str | None = None,
) -> dict[str, Any]:
    """Keywords for a route of OpenAI's, as for `route`. file: the name of the file in a body that is a form."""
    described = route(about, answer=answer, body=body)
    described["responses"] |= _errors(_OPENAI_ERROR_SCHEMA, {404: ["not_found"]})
    if body and file:
        schema = _schema(body)
        schema["properties"][file] = {"type": "string", "format": "binary"}
        schema["required"] = [*schema.get("required", ()), file]
        described["openapi_extra"] = _body(schema, "multipart/form-data")
    return described


def ask_for_key(app: FastAPI) -> None:
    """Have the schema of `app`, whose routes are all there, say that a key is needed: so /docs can send one."""
    schema = app.openapi()
    schema.setdefault("components", {})["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    schema["security"] = [{"key": []}]


def _errors(schema: dict[str, Any], further: dict[int, list[str]] | None = None) -> dict[int | str, dict[str, Any]]:
    codes: dict[int, list[str]] = {status: list(names) for status, names in (further or {}).items()}
    for status, code in STATUS.values():
        codes.setdefault(status, []).append(code)
    codes.pop(499)  # nobody is left to see it
    return {
        status: {"description": ", ".join(names), "content": {"application/json": {"schema": schema}}}
        for status, names in codes.items()
    }


def _body(schema: dict[str, Any], media_type: str) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {media_type: {"schema": schema}}}}


def _answer(operation: Operation[Any]) -> dict[str, Any]:
    if operation.answers == "json":
        return {"application/json": {"schema": {"type": "array", "items": {"type": "string", "format": "byte"}}}}
    if operation.answers == "stream":
        return EVENTS | AUDIO
    return AUDIO


def _parameters(query: type[schemas.Model]) -> list[dict[str, Any]]:
    schema = _schema(query)
    required = schema.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "schema": field}
        for name, field in schema["properties"].items()
    ]


def _path_parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _schema(model: type[schemas.Model]) -> dict[str, Any]:
    """The JSON schema of `model`, whole: what pydantic puts aside under $defs stands where it is referred to."""
    schema = model.model_json_schema()
    aside = schema.pop("$defs", {})

    def inlined(node: Any) -> Any:
        if isinstance(node, list):
            return [inlined(each) for each in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return inlined(aside[node["$ref"].rpartition("/")[2]])
        return {name: inlined(value) for name, value in node.items()}

    return inlined(schema)
