"""Whose web pages may call: none but the server's own, unless DUOLOGUE_CORS_ORIGINS names them.

Keys travel in headers that a page sets itself. Cookies and a browser's stored passwords mean nothing here, so
credentials in the sense of CORS are never allowed, for any origin.
"""

from __future__ import annotations

from typing import Any

from speech.settings import Settings

EXPOSED = (
    "Content-Disposition",
    "Retry-After",
    "X-Audio-Duration-Ms",
    "X-Cache",
    "X-Chunks",
    "X-First-Audio-Ms",
    "X-Ignored",
    "X-Left-Out",
    "X-Quality-Attempts",
    "X-Quality-Checks",
    "X-Request-Id",
    "X-Seed",
    "X-Session-Id",
    "X-Truncated",
    "X-Voice",
    "X-Voice-Match",
)
"""Headers of an answer that a page may read beside the few that it always may."""


def origins_of(settings: Settings) -> tuple[str, ...]:
    """The origins that `settings` names; `*` is any."""
    return tuple(each.strip() for each in (settings.cors_origins or "").split(",") if each.strip())


def policy(origins: tuple[str, ...]) -> dict[str, Any]:
    """Keywords of Starlette's CORSMiddleware for pages of `origins`."""
    return {
        "allow_origins": origins,
        "allow_methods": ("GET", "HEAD", "POST", "DELETE"),
        "allow_headers": ("*",),  # OpenAI's client sends a dozen of its own
        "allow_credentials": False,
        "allow_private_network": True,  # a page of the internet that was named may reach a server at home
        "expose_headers": EXPOSED,
    }
