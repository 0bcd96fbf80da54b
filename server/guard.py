"""Who may come in, and how much: API keys, their limits, and whose web pages may open a WebSocket.

Stands before every door, for HTTP and WebSockets alike. Knows nothing of what is asked for beyond its path.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import error_response
from server.keys import Key, Keys
from speech.errors import Busy, RateLimited, SpeechError, Unauthorised

OPEN_PATHS = frozenset(
    {
        "/health",
        "/ready",
        "/api/health",
        # What clients ask for before they have a key, or without ever sending it.
        "/v1/models",
        "/v1/audio/models",
        "/v1/audio/voices",
        "/voices",
        "/speakers",
        "/speakers_list",
        "/languages",
        # The page to try things at cannot send a key while it loads, and tells what the source tells.
        "/docs",
        "/docs/oauth2-redirect",
        "/openapi.json",
    }
)
"""Read (GET and HEAD) without a key, whoever asks."""

SAMPLES = "/sample/"
"""So are the voices' samples below it: a page plays them by their address alone. Each is spoken once and kept."""

GRANT = "duologue.grant"
"""Where a scope has its `Grant`."""

MAX_ADDRESSES = 10_000
MAX_HEAD_BYTES = 64 << 10


class Bucket:
    """How many requests are left of so many a minute; a minute's worth may come at once."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._left = float(per_minute)
        self._at_s = time.monotonic()

    def take(self) -> None:
        """Count one request. Raises RateLimited."""
        now_s = time.monotonic()
        per_s = self.per_minute / 60
        self._left = min(self.per_minute, self._left + (now_s - self._at_s) * per_s)
        self._at_s = now_s
        if self._left < 1:
            raise RateLimited(
                f"that is more than {self.per_minute} requests a minute; send it again later",
                retry_after_s=math.ceil((1 - self._left) / per_s),
            )
        self._left -= 1


class Addresses:
    """A bucket for each address that asks; the longest unused is forgotten first. per_minute: 0 for any number."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def bucket_of(self, host: str) -> Bucket | None:
        if not self._per_minute:
            return None
        network = _network(host)
        self._buckets[network] = bucket = self._buckets.pop(network, None) or Bucket(self._per_minute)
        if len(self._buckets) > MAX_ADDRESSES:
            self._buckets.popitem(last=False)
        return bucket


@dataclass
class Usage:
    """What one key has in use."""

    bucket: Bucket | None = None
    open: int = 0


@dataclass(frozen=True)
class Grant:
    """What one connection was let in with. A door that serves several requests on one connection spends for each."""

    guard: Guard
    key: Key | None = None
    buckets: tuple[Bucket, ...] = field(default=(), repr=False)

    @property
    def name(self) -> str | None:
        """Whose key it is; None where none was asked for."""
        return self.key.name if self.key else None

    def spend(self) -> None:
        """Count one request more. Raises RateLimited, or Unauthorised once the key has been revoked."""
        self.guard.check(self.key)
        for bucket in self.buckets:
            bucket.take()


class Guard:
    """Lets in who may come in. Refuses with 401, 403, 429 or 431 before anything of the body is read."""

    def __init__(
        self, app: ASGIApp, *, keys: Keys | None, rate_per_minute: int, origins: tuple[str, ...], max_websockets: int
    ) -> None:
        """max_websockets: open at once, of all callers."""
        self._app = app
        self._keys = keys
        self._origins = origins
        self._max_websockets = max_websockets
        self._websockets = 0
        self._usage: dict[str, Usage] = {}
        self._addresses = Addresses(rate_per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        try:
            usage = self._admit(scope)
        except (SpeechError, HTTPException) as error:
            return await error_response(scope["path"], error)(scope, receive, send)
        is_websocket = scope["type"] == "websocket"
        self._websockets += is_websocket
        try:
            await self._app(scope, receive, send)
        finally:
            self._websockets -= is_websocket
            usage.open -= 1

    def check(self, key: Key | None) -> None:
        """Raises Unauthorised where `key` holds no more."""
        if self._keys is not None and key and not self._keys.holds(key):
            raise Unauthorised("the API key was revoked; ask the server's operator for another")

    def _admit(self, scope: Scope) -> Usage:
        """Let the request in: its use of its key, counted. Raises HTTPException, Unauthorised, RateLimited or Busy."""
        _check_head(scope)
        if _is_open(scope):
            return Usage(open=1)
        self._check_origin(scope)
        if scope["type"] == "websocket" and self._websockets >= self._max_websockets:
            raise Busy("as many WebSockets are open as there may be; try again later", retry_after_s=5)
        scope[GRANT] = grant = self._grant(scope)
        return self._enter(grant)

    def _grant(self, scope: Scope) -> Grant:
        if self._keys is None:
            bucket = self._addresses.bucket_of((scope.get("client") or ("", 0))[0])
            return Grant(self, buckets=(bucket,) if bucket else ())
        presented = _presented(scope)
        if not presented:
            raise Unauthorised("this server asks for an API key; send it as Authorization: Bearer KEY, or as X-API-Key")
        found = [key for key in map(self._keys.find, presented) if key]
        if not found:
            raise Unauthorised("the API key is wrong or was revoked; ask the server's operator for one")
        key = found[0]
        usage = self._usage_of(key)
        return Grant(self, key, (usage.bucket,) if usage.bucket else ())

    def _enter(self, grant: Grant) -> Usage:
        """Count a request of `grant` as open. Raises RateLimited."""
        usage = self._usage_of(grant.key) if grant.key else Usage()
        if grant.key and grant.key.at_once and usage.open >= grant.key.at_once:
            raise RateLimited(
                f"this key may have {grant.key.at_once} requests open at once; wait for one to end", retry_after_s=1
            )
        for bucket in grant.buckets:
            bucket.take()
        usage.open += 1
        return usage

    def _usage_of(self, key: Key) -> Usage:
        usage = self._usage.setdefault(key.sha256, Usage())
        if (usage.bucket and usage.bucket.per_minute) != key.per_minute:
            usage.bucket = Bucket(key.per_minute) if key.per_minute else None
        return usage

    def _check_origin(self, scope: Scope) -> None:
        """A WebSocket is not held to its page's origin by the browser, as other requests are. Any page somebody has
        open could talk to the server on their machine."""
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if scope["type"] != "websocket" or origin is None or "*" in self._origins or origin in self._origins:
            return
        if urlsplit(origin).netloc not in (headers.get("host"), headers.get("x-forwarded-host")):
            cure = "the server's operator can allow it, by DUOLOGUE_CORS_ORIGINS"
            raise HTTPException(403, f"pages of this origin may not connect; {cure}")


def _check_head(scope: Scope) -> None:
    """uvicorn bounds a head that is not whole; one that arrives in few pieces may be several times that."""
    path_bytes = len(scope.get("raw_path") or b"") + len(scope.get("query_string", b""))
    if path_bytes + sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEAD_BYTES:
        raise HTTPException(431, f"address and headers are larger than {MAX_HEAD_BYTES >> 10} KB together; send less")


def _is_open(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
        return False
    return scope["path"] in OPEN_PATHS or scope["path"].startswith(SAMPLES)


def _presented(scope: Scope) -> list[str]:
    """The keys that came along: at most one of each way to send it."""
    headers = Headers(scope=scope)
    scheme, _, token = headers.get("authorization", "").partition(" ")
    found = [token if scheme.lower() == "bearer" else "", headers.get("x-api-key", "")]
    if scope["type"] == "websocket":  # a browser cannot set headers there
        query = parse_qsl(scope.get("query_string", b"").decode("latin-1"))
        found.append(dict(query).get("api_key", ""))
    return [each.strip() for each in found if each.strip()]


def _network(host: str) -> str:
    """The address; of IPv6 the /64, of which every caller has all."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return str(host)[:64]
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else str(address)
