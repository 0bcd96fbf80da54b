"""Everything that can go wrong, as one tree; what a caller is told comes from here and nowhere else.

    SpeechError
    ├── InvalidInput       400  the caller's mistake: names the field and what would be right
    ├── Unauthorised       401  no API key, or none that holds; the self-hosted server only
    ├── BodyTooSlow        408  the body did not arrive in time
    ├── BodyTooLarge       413  more bytes than the server reads; a platform's own limit on Chutes
    ├── Busy               429  more callers than places; says when to come back
    ├── RateLimited        429  more requests than this caller may send; says when to come back
    ├── CallerLeft         499  nobody is listening any more; never seen by a caller
    ├── QualityRejected    500  every take failed its checks; says which and how often
    ├── EngineFailed       500  the engine broke on this request; the next one may pass
    ├── OutOfMemory        503  the device has no memory left for this request
    └── NotReady           503  still loading, or shutting down

    StartupError                the operator's mistake: a setting, a weight file, an image; raised before serving

A message never carries a path, a stack trace or another caller's data. On the Chutes platform only 400 and
429 reach the caller as they are, so a caller's mistake is always a 400.
"""

from __future__ import annotations

from typing import Any


class StartupError(Exception):
    """The service cannot start; the message says what the operator should change."""


class SpeechError(Exception):
    """An error with words for the caller.

    `field` is the path of the input at fault (`context[1].audio_b64`), or None where no single one is.
    `retry_after_s` is in seconds, or None where waiting would not help.
    """

    def __init__(self, message: str, *, field: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after_s = retry_after_s


class InvalidInput(SpeechError):
    """The caller's mistake. `problem` says what is wrong, `cure` what would be right."""

    def __init__(self, field: str, problem: str, cure: str) -> None:
        super().__init__(f"{field}: {problem}; {cure}", field=field)


class Unauthorised(SpeechError):
    """No API key came along, or one that does not hold."""


class BodyTooSlow(SpeechError):
    """The body did not arrive in the time it may take."""


class BodyTooLarge(SpeechError):
    """The body has more bytes than the server reads."""


class Busy(SpeechError):
    """All places are taken, or the wait for one took longer than allowed."""


class RateLimited(SpeechError):
    """This caller has used up what it may ask for."""


class CallerLeft(SpeechError):
    """The caller hung up; work for it stops."""

    def __init__(self) -> None:
        super().__init__("the caller left before the answer was ready")


class QualityRejected(SpeechError):
    """No take passed its checks."""


class EngineFailed(SpeechError):
    """The engine failed on this request."""


class OutOfMemory(SpeechError):
    """The device ran out of memory on this request."""


class NotReady(SpeechError):
    """The service is not ready to speak."""


STATUS: dict[type[SpeechError], tuple[int, str]] = {
    InvalidInput: (400, "invalid_input"),
    Unauthorised: (401, "unauthorised"),
    BodyTooSlow: (408, "body_too_slow"),
    BodyTooLarge: (413, "body_too_large"),
    Busy: (429, "busy"),
    RateLimited: (429, "rate_limited"),
    CallerLeft: (499, "caller_left"),
    QualityRejected: (500, "quality_rejected"),
    EngineFailed: (500, "engine_failed"),
    OutOfMemory: (503, "out_of_memory"),
    NotReady: (503, "not_ready"),
}
"""HTTP status and machine-readable code of each error."""


def to_http(error: SpeechError) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, JSON body and headers that tell a caller of `error`; the same on every face."""
    status, code = STATUS[type(error)]
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    return status, {"detail": error.message, "code": code, "field": error.field}, headers
