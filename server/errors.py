"""How a caller is told of an error on a path of the HTTP face, in one place: OpenAI's shape on OpenAI's paths, ours
elsewhere.

Knows nothing of what went wrong; status, code and words come from speech/errors.py.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from speech.errors import SpeechError, to_http

OPENAI_PATHS = "/v1/"

_NOTHING_HERE = "there is nothing at this path; /docs lists what there is"
_UNFORESEEN = "something failed on the server; its log says what"
_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_OPENAI_CODES = {"unauthorised": "invalid_api_key", "rate_limited": "rate_limit_exceeded"}
"""Our codes that have a name there; the others keep ours."""


def error_response(path: str, error: Exception) -> Response:
    """The answer to a request for `path` that ended with `error`: a SpeechError, an HTTPException of the framework, or
    anything else, of which the caller learns nothing but that it happened."""
    status, body, headers = _told(error)
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="duologue"'
    if status == 408:
        headers["Connection"] = "close"  # the rest of the body is not waited for
    return JSONResponse(shaped(path, status, body), status, headers)


def shaped(path: str, status: int, body: dict[str, Any]) -> dict[str, Any]:
    """`body` (detail, code, field) as the clients of `path` read it."""
    if not path.startswith(OPENAI_PATHS):
        return body
    kind = _OPENAI_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    code = _OPENAI_CODES.get(body["code"], body["code"])
    return {"error": {"message": body["detail"], "type": kind, "param": body["field"], "code": code}}


def _told(error: Exception) -> tuple[int, dict[str, Any], dict[str, str]]:
    if isinstance(error, SpeechError):
        return to_http(error)
    if isinstance(error, HTTPException):
        code = "not_found" if error.status_code == 404 else "http_error"
        bare = error.detail == HTTPStatus.NOT_FOUND.phrase  # as the router says it, where no path fits
        detail = _NOTHING_HERE if bare else error.detail
        headers = dict(error.headers or {})
        if "Allow" in headers:
            detail = f"this path takes another method: {headers['Allow']}"
        return error.status_code, {"detail": detail, "code": code, "field": None}, headers
    return 500, {"detail": _UNFORESEEN, "code": "internal", "field": None}, {}
