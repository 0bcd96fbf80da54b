"""Requests as the server reads them, and its answers read. Sends nothing.

Only what the caller set is sent: None means the server's own default, which may change without a new client.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from .errors import UnreadableAnswer
from .retries import Repeat
from .values import Segment, Speech, Turn

MEDIA_TYPES = {
    "wav": "audio/wav",
    "flac": "audio/flac",
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "pcm": "application/octet-stream",
}
"""What a batch, whose answer is JSON, holds for each response_format."""

STREAM_HEADERS = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}
"""A proxy that compressed a stream would hold it back."""


@dataclass(frozen=True)
class Call:
    """One request to be. `body`: its JSON object, or None for a GET. `repeat`: when it may be sent again. `headers`:
    beside those that every request carries.
    """

    path: str
    body: dict[str, Any] | None = None
    repeat: Repeat = "always"
    headers: Mapping[str, str] = field(default_factory=dict)

    def request(self, client: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """The call as a request of `client`. Raises ValueError for what JSON cannot carry (NaN, half a character)."""
        if self.body is None:
            return client.build_request("GET", self.path, headers=self.headers)
        content = json.dumps(self.body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        headers = {"Content-Type": "application/json", **self.headers}
        return client.build_request("POST", self.path, content=content, headers=headers)


def set_fields(**fields: Any) -> dict[str, Any]:
    """Those of `fields` that the caller set."""
    return {name: value for name, value in fields.items() if value is not None}


def context_field(context: Iterable[Segment | Mapping[str, Any]]) -> list[dict[str, Any]] | None:
    """`context` as JSON; None where it is empty. Mappings pass as they are."""
    return [s.to_wire() if isinstance(s, Segment) else dict(s) for s in context] or None


def turns_field(turns: Iterable[Turn | Mapping[str, Any]]) -> list[dict[str, Any]]:
    """`turns` as JSON. Mappings pass as they are."""
    return [t.to_wire() if isinstance(t, Turn) else dict(t) for t in turns]


def read_speech(call: Call, response: httpx.Response) -> Speech:
    """The sound that answers `call`. Raises UnreadableAnswer for an answer that is none."""
    media_type = media_type_of(response) or "audio/wav"
    if not response.content or media_type.startswith("text/") or media_type.endswith("json"):
        raise UnreadableAnswer(f"{call.path} answered with {media_type}, {len(response.content)} bytes, not with sound")
    return _speech(call, response.content, media_type, response.headers)


def media_type_of(response: httpx.Response) -> str:
    """Such as audio/wav; empty where the response does not say."""
    told: str = response.headers.get("Content-Type", "")
    return told.partition(";")[0].strip().lower()


def read_batch(call: Call, response: httpx.Response) -> list[Speech]:
    """The sounds that answer `call`, in its order. Raises UnreadableAnswer."""
    asked = call.body or {}
    media_type = MEDIA_TYPES.get(asked.get("response_format", "wav"), "application/octet-stream")
    items = _json(call, response)
    if not isinstance(items, list) or len(items) != len(asked["texts"]):
        raise UnreadableAnswer(f"{call.path} answered with something else than one sound for each text")
    try:
        sounds = [base64.b64decode(item, validate=True) for item in items]
    except (binascii.Error, TypeError, ValueError) as error:
        raise UnreadableAnswer(f"{call.path} answered with something else than base64") from error
    return [_speech(call, sound, media_type, response.headers) for sound in sounds]


def read_health(call: Call, response: httpx.Response) -> dict[str, Any]:
    """The server's JSON object about itself. Raises UnreadableAnswer."""
    health = _json(call, response)
    if not isinstance(health, dict):
        raise UnreadableAnswer(f"{call.path} answered with something else than a JSON object")
    return health


def _speech(call: Call, audio: bytes, media_type: str, headers: httpx.Headers) -> Speech:
    asked = call.body or {}
    return Speech(
        audio, media_type=media_type, headers=headers, seed=asked.get("seed"), session_id=asked.get("session_id")
    )


def _json(call: Call, response: httpx.Response) -> Any:
    try:
        return json.loads(response.content)
    except ValueError as error:
        raise UnreadableAnswer(f"{call.path} answered with something else than JSON") from error


def checked_base_url(base_url: str | httpx.URL) -> httpx.URL:
    """`base_url` as a URL. Raises ValueError where it is not one of a web server."""
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise ValueError(f"base_url: {base_url!r} is not a URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"base_url: {str(base_url)!r} must start with http:// or https:// and name a host")
    return url


def find_api_key(api_key: str | None, url: httpx.URL) -> str | None:
    """The key to send to `url`, or None: the one given, else DUOLOGUE_API_KEY, else CHUTES_API_KEY from the
    environment. The last pays for things at Chutes, so it goes to hosts of chutes.ai over https and to no other.
    """
    if api_key is None:
        api_key = os.environ.get("DUOLOGUE_API_KEY") or None
    if api_key is None and url.scheme == "https" and (url.host == "chutes.ai" or url.host.endswith(".chutes.ai")):
        api_key = os.environ.get("CHUTES_API_KEY")
    api_key = (api_key or "").strip()
    if not (api_key.isascii() and api_key.isprintable()):
        raise ValueError("api_key: holds characters that a header cannot carry")
    return api_key or None


def default_headers(api_key: str | None) -> dict[str, str]:
    """What every request carries."""
    agent = {"User-Agent": f"duologue-client httpx/{httpx.__version__}"}
    return agent if api_key is None else {**agent, "Authorization": f"Bearer {api_key}"}
