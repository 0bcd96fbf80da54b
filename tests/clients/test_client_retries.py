"""What is sent again, after how long, and when trying ends. Nothing here sleeps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import httpx
import pytest

from clients import AsyncTTSClient, Busy, ConnectionFailed, Retries, ServerFailed, TimedOut, TTSClient, TTSError
from clients.errors import retry_after_s
from clients.retries import attempts

Outcome = httpx.Response | httpx.RequestError
GOOD = 200


class Script:
    """A transport that answers with the given outcomes in turn; counts the requests and notes the waits."""

    def __init__(self, *outcomes: int | Outcome) -> None:
        self.outcomes = list(outcomes)
        self.requests = 0
        self.waits: list[float] = []

    def __call__(self, _: httpx.Request) -> httpx.Response:
        outcome = self.outcomes[self.requests]
        self.requests += 1
        if isinstance(outcome, Exception):
            raise outcome
        return outcome if isinstance(outcome, httpx.Response) else httpx.Response(outcome, content=b"sound")

    def run(self, call: Callable[[TTSClient], Any], **options: Any) -> Any:
        with TTSClient("http://tts", transport=httpx.MockTransport(self), sleep=self.waits.append, **options) as client:
            return call(client)

    def run_async(self, call: Callable[[AsyncTTSClient], Any], **options: Any) -> Any:
        async def sleep(wait_s: float) -> None:
            self.waits.append(wait_s)

        async def run() -> Any:
            transport = httpx.MockTransport(self)
            async with AsyncTTSClient("http://tts", transport=transport, sleep=sleep, **options) as client:
                return await call(client)

        return asyncio.run(run())


def speak(client: Any) -> Any:
    return client.speak("Hello")


AGAIN: list[int | Outcome] = [
    429,
    502,
    503,
    504,
    httpx.ConnectError(""),
    httpx.ConnectTimeout(""),
    httpx.PoolTimeout(""),
    httpx.ReadError(""),
    httpx.WriteError(""),
    httpx.RemoteProtocolError(""),
    httpx.ProxyError(""),
]
NOT_AGAIN: list[int | Outcome] = [
    302,
    400,
    401,
    404,
    413,
    500,
    501,
    httpx.ReadTimeout(""),
    httpx.WriteTimeout(""),
    httpx.DecodingError(""),
    httpx.LocalProtocolError(""),
]


@pytest.mark.parametrize("outcome", AGAIN, ids=repr)
@pytest.mark.parametrize("way", [Script.run, Script.run_async], ids=["sync", "async"])
def test_sent_again(way: Callable[..., Any], outcome: int | Outcome) -> None:
    script = Script(outcome, outcome, GOOD)
    assert way(script, speak) == b"sound"
    assert script.requests == 3
    assert 0.25 <= script.waits[0] <= 0.5 <= script.waits[1] <= 1.0


@pytest.mark.parametrize("outcome", NOT_AGAIN, ids=repr)
@pytest.mark.parametrize("way", [Script.run, Script.run_async], ids=["sync", "async"])
def test_not_sent_again(way: Callable[..., Any], outcome: int | Outcome) -> None:
    script = Script(outcome, GOOD)
    with pytest.raises(TTSError):
        way(script, speak)
    assert (script.requests, script.waits) == (1, [])


@pytest.mark.parametrize("outcome", [502, 504, httpx.ReadError(""), httpx.RemoteProtocolError("")], ids=repr)
def test_what_a_session_would_remember_twice_is_not_sent_again(outcome: int | Outcome) -> None:
    script = Script(outcome, GOOD)
    with pytest.raises(TTSError):
        script.run(lambda client: client.contextual_speak("Hello", "s1"))
    assert script.requests == 1
    assert Script(outcome, GOOD).run(lambda client: client.contextual_speak("Hello")) == b"sound"


@pytest.mark.parametrize("outcome", [429, 503, httpx.ConnectError("")], ids=repr)
def test_a_session_refused_is_sent_again(outcome: int | Outcome) -> None:
    assert Script(outcome, GOOD).run(lambda client: client.contextual_speak("Hello", "s1")) == b"sound"


def test_health_is_asked_once() -> None:
    script = Script(503, GOOD)
    with pytest.raises(ServerFailed):
        script.run(lambda client: client.health())
    assert script.requests == 1


@pytest.mark.parametrize(("retries", "requests"), [(0, 1), (1, 2), (3, 4), (Retries(count=2), 3)])
def test_the_number_is_bounded(retries: int | Retries, requests: int) -> None:
    script = Script(*[429] * 10)
    with pytest.raises(Busy):
        script.run(speak, retries=retries)
    assert script.requests == requests


def test_the_last_error_is_the_one_raised() -> None:
    with pytest.raises(ConnectionFailed):
        Script(429, 503, httpx.ConnectError("")).run(speak, retries=2)
    with pytest.raises(TimedOut):
        Script(429, httpx.ReadTimeout("")).run(speak)


def test_retry_after_is_obeyed() -> None:
    script = Script(httpx.Response(429, headers={"Retry-After": "5"}), GOOD)
    script.run(speak)
    assert 5 <= script.waits[0] <= 5.5


def test_a_retry_after_beyond_the_total_ends_at_once() -> None:
    script = Script(httpx.Response(503, headers={"Retry-After": "500"}), GOOD)
    with pytest.raises(ServerFailed) as caught:
        script.run(speak)
    assert (script.requests, script.waits, caught.value.retry_after_s) == (1, [], 500)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": ""}, None),
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": " 1.5 "}, 1.5),
        ({"Retry-After": "0"}, 0),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "."}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "Wed, 01 Jan 2020 00:00:30 GMT", "Date": "Wed, 01 Jan 2020 00:00:00 GMT"}, 30),
        ({"Retry-After": "Wed, 01 Jan 2020 00:00:30 GMT"}, 0),
        ({"Retry-After": "Wed, 99 Jan 2020 00:00:30 GMT"}, None),
    ],
)
def test_reading_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(httpx.Headers(headers)) == seconds


def test_a_date_without_a_date_counts_from_now() -> None:
    seconds = retry_after_s(httpx.Headers({"Retry-After": formatdate(time.time() + 60, usegmt=True)}))
    assert seconds is not None
    assert 55 < seconds <= 60


def test_waits_double_up_to_the_longest() -> None:
    retries = Retries(count=99, first_wait_s=1, longest_wait_s=8, total_s=1000)
    waits = [retries.wait_s(n, elapsed_s=0, chance=lambda: 0.0) for n in (1, 2, 3, 4, 5, 99)]
    assert waits == [1, 2, 4, 8, 8, 8]
    assert retries.wait_s(3, elapsed_s=0, chance=lambda: 1.0) == 2
    assert retries.wait_s(1, elapsed_s=0, retry_after_s=10, chance=lambda: 1.0) == 11
    assert retries.wait_s(100, elapsed_s=0) is None


def test_no_retry_starts_after_the_total() -> None:
    now = iter([0.0, 1.0, 4.8])
    steps = attempts(Retries(count=9, first_wait_s=0.5, total_s=5), repeat="always", clock=lambda: next(now))
    assert next(steps) == 0
    assert 0 < steps.send(httpx.Response(429)) <= 0.5
    with pytest.raises(Busy):
        steps.send(httpx.Response(429))


@pytest.mark.parametrize("name", ["count", "first_wait_s", "longest_wait_s", "total_s"])
def test_negative_settings_are_refused(name: str) -> None:
    with pytest.raises(ValueError):
        Retries(**{name: -1})
