"""What an operator sees of this engine: how many lines shared a frame, and under whose id the worker logs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from loguru import logger

from server.app import create_app
from speech.engines.csm.engine import CsmConfig, CsmEngine
from speech.engines.csm.guards import Ending, Verdict
from speech.service import Service
from speech.settings import Settings
from tests.server.test_observing import numbers


@pytest.fixture(scope="module")
def http(transformers_folder: Path) -> Iterator[TestClient]:
    service = Service(CsmEngine(CsmConfig(weights=str(transformers_folder), device="cpu", slots=3)), Settings())
    service.start()
    with TestClient(create_app(service, Settings())) as client:
        yield client
    service.close()


def test_frames_are_counted_by_the_lines_that_share_them(http: TestClient) -> None:
    before = numbers(http)
    answer = http.post("/batch_speak", json={"texts": ["One.", "Two.", "Three."], "max_duration_per_text_ms": 1000})
    assert answer.status_code == 200
    after = numbers(http)
    upto = [
        after[f"batch_size_bucket{{le={size}.0}}"] - before[f"batch_size_bucket{{le={size}.0}}"] for size in (1, 2, 3)
    ]
    frames = after["batch_size_count"] - before["batch_size_count"]
    assert upto[2] == frames > upto[1], "some frames were made for all three"
    lines = after["batch_size_sum"] - before["batch_size_sum"]
    assert lines == upto[0] + 2 * (upto[1] - upto[0]) + 3 * (upto[2] - upto[1])
    assert not [name for name in after if name.startswith("gpu_memory")], "there is none on a processor"


def test_what_the_worker_logs_carries_the_requests_id(http: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[tuple[str, str]] = []
    sink = logger.add(lambda line: lines.append((line.record["extra"].get("request_id", ""), line.record["message"])))
    real, lost = Ending.hear, iter([Verdict.LOST])
    monkeypatch.setattr(Ending, "hear", lambda self, *said, **how: next(lost, None) or real(self, *said, **how))
    try:
        answer = http.post("/speak", json={"text": "Hello."}, headers={"X-Request-Id": "of-the-worker"})
    finally:
        logger.remove(sink)
    assert answer.status_code == 200
    assert ("of-the-worker", "a take stayed silent; take 2 begins") in lines
