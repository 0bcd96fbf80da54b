"""Everything a call can raise, as one tree. Messages are the server's own words where it said any.

    TTSError
    ├── APIStatusError            the server answered with an error status
    │   ├── InvalidRequest        400, 413, 422  the request is at fault; `field` names the input where one is
    │   ├── AuthenticationFailed  401, 403       the API key is missing or wrong
    │   ├── Busy                  429            no place is free; `retry_after_s` says when to come back
    │   └── ServerFailed          5xx            the server broke, or is not ready yet
    ├── UnreadableAnswer          a success whose body is not what was asked for: often another kind of server
    ├── ConnectionFailed          no connection, or it broke before the answer was whole: a stream, midway
    └── TimedOut                  the server took longer than `timeout`

What the caller got wrong before anything was sent (a base_url without http://, a NaN) is a ValueError, and a
reference recording that cannot be opened is the OSError it always was.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import httpx


class TTSError(Exception):
    """Any failure of a call. `message` is one sentence for a person."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class APIStatusError(TTSError):
    """The server answered, with an error status.

    status: the HTTP status. code: the server's machine-readable name for the error (`busy`), or None.
    field: the input at fault (`context[1].audio_b64`), or None. request_id: what to quote to the operator, or
    None. retry_after_s: seconds the server asks to wait, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str | None = None,
        field: str | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.field = field
        self.request_id = request_id
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception is copied and pickled by its positional arguments alone, and ours has named ones.
        return _rebuild, (type(self), self.message), self.__dict__


class InvalidRequest(APIStatusError):
    """The request is at fault; the same request will fail again."""


class AuthenticationFailed(APIStatusError):
    """The API key is missing, wrong, or not allowed to do this."""


class Busy(APIStatusError):
    """The server has no free place, or the caller has used up an allowance."""


class ServerFailed(APIStatusError):
    """The server, or a gateway before it, failed."""


class UnreadableAnswer(TTSError):
    """The server said success and sent something else than was asked for."""


class ConnectionFailed(TTSError):
    """No connection, or one that broke before the answer was whole."""


class TimedOut(TTSError):
    """Nothing came within `timeout`."""


def _rebuild(kind: type[APIStatusError], message: str) -> APIStatusError:
    return kind(message, status=0)


_KINDS: dict[int, type[APIStatusError]] = {
    400: InvalidRequest,
    413: InvalidRequest,
    422: InvalidRequest,
    401: AuthenticationFailed,
    403: AuthenticationFailed,
    429: Busy,
}


STATUS_OF_CODE = {
    "invalid_input": 400,
    "unauthorised": 401,
    "body_too_slow": 408,
    "body_too_large": 413,
    "busy": 429,
    "rate_limited": 429,
    "out_of_memory": 503,
    "not_ready": 503,
}
"""The status that each code of the server's has where it comes as an answer of its own; 500 for the others."""


WRAPPED = "Invalid request: "


def from_event(event: Mapping[str, Any], headers: httpx.Headers) -> APIStatusError:
    """The error that an event of a stream tells of. headers: of the answer that the stream is."""
    told = {name: headers[name] for name in ("X-Request-Id",) if name in headers}
    return from_response(httpx.Response(STATUS_OF_CODE.get(str(event.get("code")), 500), json=event, headers=told))


def from_response(response: httpx.Response) -> APIStatusError:
    """The error that a response without a success status stands for; its body must have been read."""
    status = response.status_code
    kind = _KINDS.get(status, ServerFailed if status >= 500 else APIStatusError)
    message, code, field = _words(response)
    return kind(
        message,
        status=status,
        code=code,
        field=field,
        request_id=response.headers.get("X-Request-Id"),
        retry_after_s=retry_after_s(response.headers),
    )


def from_transport(error: httpx.RequestError) -> TTSError:
    """The error that a request without a response stands for."""
    where = _where(error)
    words = str(error) or type(error).__name__
    if isinstance(error, httpx.ConnectTimeout):
        return TimedOut(f"no connection to {where} in time")
    if isinstance(error, httpx.TimeoutException):
        return TimedOut(f"{where} did not answer in time; a longer timeout may help")
    if isinstance(error, httpx.DecodingError):
        return UnreadableAnswer(f"the answer of {where} cannot be decoded: {words}")
    if isinstance(error, httpx.ConnectError):
        return ConnectionFailed(f"cannot connect to {where}: {words}")
    return ConnectionFailed(f"the connection to {where} broke: {words}")


def _where(error: httpx.RequestError) -> str:
    """The server's address, without path or credentials."""
    try:
        url = error.request.url
    except RuntimeError:  # httpx's way of saying that the error came without its request
        return "the server"
    return f"{url.scheme}://{url.netloc.decode('ascii')}"


def retry_after_s(headers: httpx.Headers) -> float | None:
    """Seconds that Retry-After asks to wait (it may hold seconds or a date), or None where it is absent or garbled.

    A date is compared with the answer's own Date where there is one, so that a wrong clock here does no harm.
    """
    asked = headers.get("Retry-After", "").strip()
    if asked.isascii() and asked.replace(".", "", 1).isdigit():
        return float(asked)
    until = _timestamp(asked)
    if until is None:
        return None
    now = _timestamp(headers.get("Date", ""))
    return max(0.0, until - (time.time() if now is None else now))


def _timestamp(http_date: str) -> float | None:
    try:
        return parsedate_to_datetime(http_date).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def _words(response: httpx.Response) -> tuple[str, str | None, str | None]:
    """Message, code and field as the body tells them: ours, OpenAI's shape, FastAPI's own, or no JSON at all."""
    try:
        body = json.loads(response.content)
    except ValueError:
        return _status_line(response, response.text), None, None
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        inner = body["error"]
        body = {"detail": inner.get("message"), "code": inner.get("code"), "field": inner.get("param")}
    if not isinstance(body, dict):
        return _status_line(response, str(body)), None, None
    detail = body.get("detail") or body.get("error")
    if isinstance(detail, list):
        detail = "; ".join(_complaint(item) for item in detail)
    if not isinstance(detail, str) or not detail:
        detail = _status_line(response, json.dumps(detail) if detail else "")
    inner = _unwrapped(detail)
    if inner:
        detail, body = inner["detail"], inner
    return detail, _text_or_none(body.get("code")), _text_or_none(body.get("field"))


def _unwrapped(detail: str) -> dict[str, Any] | None:
    """What a server said, where the gateway of Chutes tells it as `Invalid request: {…}`, once or twice over."""
    head, brace, rest = detail.partition("{")
    if not brace or head.replace(WRAPPED, ""):
        return None
    try:
        said = json.loads(brace + rest)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) and isinstance(said.get("detail"), str) else None


def _complaint(item: Any) -> str:
    """One entry of FastAPI's list of complaints as `body.text: Field required`."""
    if not isinstance(item, dict):
        return str(item)
    return ".".join(str(part) for part in item.get("loc", ())) + f": {item.get('msg', 'is not valid')}"


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _status_line(response: httpx.Response, body: str) -> str:
    """`HTTP 502 Bad Gateway: upstream…` for an answer that says nothing better; 200 characters of it at most."""
    line = f"HTTP {response.status_code} {response.reason_phrase}".strip()
    if response.is_redirect:
        return f"{line}: redirected to {response.headers.get('Location')}; use that address"
    said = " ".join(body.split())
    if said in ("", response.reason_phrase) or "<html" in said[:200].lower():
        return line
    return f"{line}: {said[:200]}"
