"""The stream as the SDK carries it: few events, errors while there is still a status, listeners who leave."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from chutes.chute import Chute, cord
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pybase64 import b64decode
from starlette.requests import Request

from speech import event_stream
from speech.caller import Caller
from speech.service import Service
from speech.streaming import MAX_EVENTS
from tests.chute.conftest import LoadChute
from tests.chute.fake_engine import RATE_HZ, FakeEngine, fake_service
from tests.chute.test_production import Wrapping, unwrap, wrap

LONGEST_MS = 90_000


def read(events: list[str]) -> list[dict[str, Any]]:
    """What the events hold; each must be one event, as text."""
    assert all(event.startswith("data: {") and event.endswith("}\n\n") for event in events)
    return [json.loads(event.removeprefix("data: ")) for event in events]


def sound(told: list[dict[str, Any]]) -> bytes:
    return b"".join(b64decode(event["audio"], validate=True) for event in told if event["type"] == "speech.audio.delta")


LONG_TEXT = "One sentence of them all. " * 80


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@example(LONG_TEXT, "frame", 5, LONGEST_MS, "opus", None)
@example(LONG_TEXT, "frame", 80, LONGEST_MS, "wav", None)
@example(LONG_TEXT, "frame", 80, LONGEST_MS, "mp3", LONGEST_MS - 100)
@example("A b c. " * 300, "sentence", 5, LONGEST_MS, "pcm", None)
@given(
    text=st.one_of(
        st.text(min_size=1, max_size=200).filter(lambda text: any(char.isalnum() for char in text)),
        st.lists(st.integers(1, 300), min_size=1, max_size=30).map(lambda sizes: ". ".join("w" * n for n in sizes)),
    ),
    grain=st.sampled_from(["frame", "sentence"]),
    chunk_ms=st.sampled_from([5, 20, 79, 80, 81, 333, 1920, 200_000]),
    max_duration_ms=st.sampled_from([500, 10_000, LONGEST_MS]),
    response_format=st.sampled_from(["wav", "flac", "mp3", "opus", "aac", "pcm"]),
    fails_at_ms=st.sampled_from([None, None, None, 1000, 60_000]),
)
def test_no_answer_has_more_events_than_the_sdk_can_hold(  # noqa: PLR0917
    text: str, grain: Any, chunk_ms: float, max_duration_ms: int, response_format: str, fails_at_ms: float | None
) -> None:
    service = fake_service(FakeEngine(chunk_ms, grain, fails_at_ms))
    body = {"text": text, "max_duration_ms": max_duration_ms, "response_format": response_format}
    told = read(list(event_stream.opened(service, body, Caller())))
    assert len(told) <= MAX_EVENTS == 60
    assert told[0]["type"] == "speech.audio.start"
    assert told[-1]["type"] in ("speech.audio.done", "error")
    assert {event["type"] for event in told[1:-1]} == {"speech.audio.delta"}
    if told[-1]["type"] == "error":
        assert fails_at_ms
        assert "/home" not in json.dumps(told[-1])
    elif response_format in ("wav", "pcm"):
        samples = (len(sound(told)) - (44 if response_format == "wav" else 0)) / 2
        assert told[-1]["duration_ms"] == pytest.approx(1000 * samples / RATE_HZ, abs=1)
    else:
        assert sound(told)


@pytest.fixture(scope="module")
def chute(load_chute: LoadChute) -> Chute:
    return load_chute(False, Wrapping)


@pytest.fixture
def instance(chute: Chute) -> Iterator[TestClient]:
    before = chute.state.service
    with TestClient(chute, raise_server_exceptions=False) as client:  # one event loop, as in a server
        yield client
    chute.state.service = before


def test_the_platform_gets_each_event_wrapped_on_a_line_of_its_own(instance: TestClient) -> None:
    answer = instance.post("/stream_speak", json={"text": "Hello there. And more.", "seed": 3})
    assert answer.status_code == 200
    told = read([unwrap(line).decode() for line in answer.text.splitlines()])
    assert [told[0]["type"], told[-1]["type"]] == ["speech.audio.start", "speech.audio.done"]
    assert sound(told).startswith(b"RIFF")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "text"),
        ({"text": ""}, "text"),
        ({"text": "Hello.", "voice": "nobody"}, "voice"),
        ({"text": "Hello.", "stream_format": "audio"}, "stream_format"),
        ({"text": "Hello.", "context": [{"text": "Hi.", "audio_b64": "AAAA"}]}, "context[0].audio_b64"),
    ],
)
def test_a_mistake_is_a_400_and_not_wrapped(instance: TestClient, body: dict[str, Any], field: str) -> None:
    error = instance.post("/stream_speak", json=body)
    assert (error.status_code, error.json()["code"], error.json()["field"]) == (400, "invalid_input", field)


def test_overload_is_a_429(chute: Chute, instance: TestClient) -> None:
    service: Service = chute.state.service
    places = service.engine.info.parallel + 16
    held = [service.place(Caller()) for _ in range(places)]
    for place in held:
        place.__enter__()
    try:
        busy = instance.post("/stream_speak", json={"text": "Hello."})
    finally:
        for place in held:
            place.__exit__(None, None, None)
    assert (busy.status_code, busy.json()["code"]) == (429, "busy")


def test_what_nobody_foresaw_is_a_500_before_the_first_event_and_an_event_after_it(
    chute: Chute, instance: TestClient
) -> None:
    chute.state.service = fake_service(FakeEngine(fails_at_ms=0))
    error = instance.post("/stream_speak", json={"text": "Hello."})
    assert (error.status_code, error.json()["code"]) == (500, "engine_failed")
    assert "/home" not in error.text
    chute.state.service = fake_service(FakeEngine(fails_at_ms=2000))
    answer = instance.post("/stream_speak", json={"text": LONG_TEXT})
    told = read([unwrap(line).decode() for line in answer.text.splitlines()])
    assert (answer.status_code, told[-1]["type"], told[-1]["code"]) == (200, "error", "engine_failed")


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


def request_for(body: dict[str, Any]) -> Request:
    request = Request({"type": "http", "method": "POST", "path": "/stream_speak", "headers": [], "state": {}})
    request.state.decrypted = body
    request.state._encrypt = wrap
    return request


def test_streams_that_nobody_reads_any_more_hold_no_thread(chute: Chute, instance: TestClient) -> None:
    """Of an SDK that tells nobody of the end, as this one does without our middleware: the cord runs on, into a queue
    that nobody empties. More of them than threads, all after their first event."""
    threads = max(4, chute.concurrency + 1)
    engine = FakeEngine(parallel=4)
    chute.state.service = fake_service(engine)
    found = next(each for each in chute.cords if each.path == "/stream_speak")

    async def abandon() -> None:
        body = {"text": LONG_TEXT, "max_duration_ms": LONGEST_MS, "response_format": "pcm"}
        for _ in range(2 * threads):
            response = await found._request_handler(request_for(body))
            await anext(aiter(response.body_iterator))
        executor, together = cord._user_code_executor, threading.Barrier(threads, timeout=60)
        assert executor is not None
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(executor, together.wait) for _ in range(threads)))

    asyncio.run(abandon())
    assert engine.made_ms == pytest.approx(2 * threads * LONGEST_MS, rel=0.01), "each was spoken to its end"
    assert instance.post("/stream_speak", json={"text": "Hello."}).status_code == 200


def test_a_listener_who_leaves_stops_the_engine(chute: Chute, instance: TestClient) -> None:
    """Also one who leaves before the first sound, while another has the engine."""
    engine = FakeEngine(chunk_ms=5)
    service = chute.state.service = fake_service(engine)
    body = json.dumps({"text": LONG_TEXT, "max_duration_ms": LONGEST_MS, "response_format": "opus"}).encode()

    async def listen(left: asyncio.Event, heard: asyncio.Event) -> None:
        asked = False

        async def receive() -> dict[str, Any]:
            nonlocal asked
            if not asked:
                asked = True
                return {"type": "http.request", "body": body}
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                heard.set()

        scope = {"type": "http", "method": "POST", "path": "/stream_speak", "headers": [], "query_string": b""}
        await chute({**scope, "asgi": {"spec_version": "2.1"}}, receive, send)

    async def one_after_the_other() -> None:
        for _ in range(3):
            left, heard, waiter_left = asyncio.Event(), asyncio.Event(), asyncio.Event()
            speaking = asyncio.create_task(listen(left, heard))
            await asyncio.wait_for(heard.wait(), 30)
            waiting = asyncio.create_task(listen(waiter_left, asyncio.Event()))
            await until(lambda: service.gate.waiting == 1)
            waiter_left.set()
            await until(lambda: service.gate.waiting == 0)
            left.set()
            await asyncio.gather(speaking, waiting)
            await until(lambda: service.gate.speaking == 0)

    asyncio.run(asyncio.wait_for(one_after_the_other(), 60))
    assert engine.made_ms < 3 * LONGEST_MS / 2
