"""The face itself: what it logs, and what it tells where something fails that nobody foresaw."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from loguru import logger
from starlette.types import Message

from server.app import create_app
from speech.service import Service
from speech.settings import Settings
from tests.speech.test_operations import GOOD, Scripted


@pytest.fixture
def service() -> Service:
    service = Service(Scripted([GOOD] * 50), Settings())
    service.start()
    return service


@pytest.fixture
def log() -> Iterator[list[str]]:
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(str(line)), format="{extra} {message}", diagnose=False)
    yield lines
    logger.remove(sink)


def test_the_unforeseen_is_logged_under_the_id_that_the_caller_was_told(
    service: Service, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(caller: object) -> None:
        raise ValueError("what only the log tells")

    monkeypatch.setattr(service, "place", broken)
    answer = TestClient(create_app(service, Settings())).post("/speak", json={"text": "Hello."})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    request_id = answer.headers["x-request-id"]
    assert any(request_id in line and "what only the log tells" in line for line in log)
    assert any("POST /speak 500 in" in line for line in log)


def test_a_path_writes_no_line_of_its_own_into_the_log(service: Service, log: list[str]) -> None:
    TestClient(create_app(service, Settings())).get("/x%0A12:00:00 ERROR all is lost")
    told = next(line for line in log if " 404 in " in line)
    assert told.count("\n") == 1 and "/x%0A12" in told


def test_a_caller_who_hangs_up_while_sending_is_no_failure(service: Service, log: list[str]) -> None:
    heard: list[Message] = [{"type": "http.request", "body": b'{"te', "more_body": True}, {"type": "http.disconnect"}]
    sent: list[Message] = []

    async def receive() -> Message:
        return heard.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/speak",
        "raw_path": b"/speak",
        "query_string": b"",
        "headers": [],
        "http_version": "1.1",
    }
    asyncio.run(create_app(service, Settings())(scope, receive, send))
    assert not any("Traceback" in line for line in log)
    assert any(" 499 in " in line for line in log)


def test_a_body_of_millions_of_values_is_refused_before_it_is_parsed(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    http = TestClient(create_app(service, Settings()))
    longest = {"turns": [{"speaker": 0, "text": "a" + "," * 9999, "pause_ms": 0}] * 50}
    assert http.post("/conversation", json=longest).status_code != 400
    with monkeypatch.context() as patched:
        patched.setattr("json.loads", lambda _: pytest.fail("parsed"))
        answer = http.post("/speak", content=b"[" + b"[]," * 1_000_000 + b"[]]")
    assert (answer.status_code, answer.json()["field"]) == (400, "body")
