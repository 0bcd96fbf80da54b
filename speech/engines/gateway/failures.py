"""What a client's error means: to the line that met it, and to the upstream it came from."""

from __future__ import annotations

import httpx

from clients import (
    APIStatusError,
    AuthenticationFailed,
    Busy,
    ConnectionFailed,
    InvalidRequest,
    TTSError,
)
from speech import errors
from speech.engines.base import Line
from speech.engines.gateway.request import refused


def mistake(error: TTSError, line: Line) -> errors.InvalidInput | None:
    """The caller's own mistake, where `error` tells of one: no other upstream would take the line either."""
    if not isinstance(error, InvalidRequest):
        return None
    if error.status == 413:
        return errors.InvalidInput("context", "is more than the server behind this gateway takes", "send less of it")
    return refused(error.message, error.field, line)


def is_alive(error: TTSError) -> bool:
    """Whether the upstream is well, and has only turned this line away."""
    return isinstance(error, Busy | InvalidRequest)


def is_broken_connection(error: TTSError) -> bool:
    """Whether a connection broke that had been made: it may have been an old one that the upstream had closed."""
    return isinstance(error, ConnectionFailed) and not isinstance(error.__cause__, httpx.ConnectError)


def told(error: TTSError | None, *, begun: bool = False, retry_after_s: float = 1.0) -> errors.SpeechError:
    """What the caller is told where no upstream could say the line, the last for this reason; None: there was nobody
    to ask. begun: its first sound had been handed over."""
    if isinstance(error, Busy):
        words = "every server behind this gateway has all its places taken; try again later"
        return errors.Busy(words, retry_after_s=error.retry_after_s or retry_after_s)
    if isinstance(error, APIStatusError) and error.code in _OWN_WORDS:
        return _OWN_WORDS[error.code](error.message)
    if begun:
        return errors.EngineFailed("the server that was speaking broke off; send the request again")
    if isinstance(error, AuthenticationFailed) or (isinstance(error, APIStatusError) and error.status == 500):
        return errors.EngineFailed("the servers behind this gateway turn this request away; its log says why")
    words = "no server behind this gateway answers; try again soon"
    return errors.NotReady(words, retry_after_s=retry_after_s)


_OWN_WORDS: dict[str | None, type[errors.SpeechError]] = {
    "engine_failed": errors.EngineFailed,
    "out_of_memory": errors.OutOfMemory,
}
"""Failures that an upstream tells of in words of ours."""
