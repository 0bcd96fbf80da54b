"""When a failed request is sent again, and after how long. Knows nothing of sending.

A request is sent again when it cannot have been answered: no connection, or a refusal (429, 503). It is also sent
again when the connection broke or a gateway gave up (502, 504), because speaking twice costs time and does no other
harm; a call that a session would remember twice is spared that (`if_refused`). It is never sent again after the
answer timed out: the server is slow, and may still be at work on the first one.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from itertools import count
from typing import Literal

import httpx

from .errors import APIStatusError, TTSError, from_response, from_transport

REFUSED = frozenset({429, 503})
UNCERTAIN = frozenset({502, 504})
Repeat = Literal["always", "if_refused", "never"]
NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


Outcome = httpx.Response | httpx.RequestError | APIStatusError
"""What came of a sending: a response, the network's failure, or an error in place of a stream's first sound."""


@dataclass(frozen=True)
class Retries:
    """How often and how long to try. Waits double from `first_wait_s` to `longest_wait_s`, less up to half by chance.

    count: how many times a request is sent again; 0 for never.
    total_s: no retry starts later than this many seconds after the first attempt, whatever Retry-After asks.
    """

    count: int = 3
    first_wait_s: float = 0.5
    longest_wait_s: float = 20.0
    total_s: float = 120.0

    def __post_init__(self) -> None:
        if min(self.count, self.first_wait_s, self.longest_wait_s, self.total_s) < 0:
            raise ValueError("retries: counts and waits are not negative")

    def wait_s(
        self,
        retry: int,
        *,
        elapsed_s: float,
        retry_after_s: float | None = None,
        chance: Callable[[], float] = random.random,
    ) -> float | None:
        """Seconds to wait before the retry-th retry (1, 2, …), or None where trying ends.

        Retry-After is a floor; chance adds up to a tenth to it, so that those sent away together do not all come
        back together. `chance` draws from [0, 1).
        """
        if retry > self.count:
            return None
        wait = min(self.longest_wait_s, self.first_wait_s * 2 ** min(retry - 1, 30)) * (1 - chance() / 2)
        if retry_after_s is not None:
            wait = max(wait, retry_after_s * (1 + chance() / 10))
        return wait if elapsed_s + wait <= self.total_s else None


def attempts(
    retries: Retries, *, repeat: Repeat, clock: Callable[[], float] = time.monotonic
) -> Generator[float, Outcome, httpx.Response]:
    """The course of one call, without the sending: yields the seconds to wait before each sending, is given what
    came of it, returns the successful response. Raises the TTSError of the last outcome when trying ends.

    repeat: `always`; `if_refused`, for a request that must not be acted on twice; `never`.
    An error response must have been read before it is given.
    """
    started = clock()
    wait: float | None = 0.0
    for retry in count(1):
        assert wait is not None
        outcome = yield wait
        if isinstance(outcome, httpx.Response) and outcome.is_success:
            return outcome
        error = _error(outcome)
        cause = outcome if isinstance(outcome, httpx.RequestError) else None
        if not _worth_a_retry(error, cause, repeat):
            raise error from cause
        asked = error.retry_after_s if isinstance(error, APIStatusError) else None
        wait = retries.wait_s(retry, elapsed_s=clock() - started, retry_after_s=asked)
        if wait is None:
            raise error from cause
    raise AssertionError("count() never ends")


def _error(outcome: Outcome) -> TTSError:
    if isinstance(outcome, httpx.Response):
        return from_response(outcome)
    return from_transport(outcome) if isinstance(outcome, httpx.RequestError) else outcome


def _worth_a_retry(error: TTSError, cause: httpx.RequestError | None, repeat: Repeat) -> bool:
    if repeat == "never":
        return False
    if isinstance(error, APIStatusError):
        return error.status in REFUSED or (repeat == "always" and error.status in UNCERTAIN)
    if isinstance(cause, NEVER_SENT):
        return True
    broke = isinstance(cause, httpx.NetworkError | httpx.RemoteProtocolError | httpx.ProxyError)
    return broke and repeat == "always"


def as_retries(retries: int | Retries) -> Retries:
    """`retries` as a Retries; a number is its count. Raises ValueError where it is negative."""
    return retries if isinstance(retries, Retries) else Retries(count=retries)
