"""Real servers for the tests: `python -m server` in a process of its own, on a port of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parent.parent


class Served:
    """A running server. `http` is a client for it."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url
        self.http = httpx.Client(base_url=url, timeout=120)

    def speak(self, path: str = "/speak", **body: object) -> httpx.Response:
        """The answer to a request that is expected to succeed."""
        response = self.http.post(path, json=body)
        assert response.status_code == 200, response.text
        return response


@contextmanager
def serving(**settings: str) -> Iterator[Served]:
    """A server with these settings, ready to speak; stopped at the end."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DUOLOGUE_")}
    env = clean | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "DUOLOGUE_PORT": "0"}
    env |= {"DUOLOGUE_THREADS": "1"}  # two tests at a time share two cores
    env |= {f"DUOLOGUE_{name.upper()}": value for name, value in settings.items()}
    process = subprocess.Popen(
        [sys.executable, "-m", "server"],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        first_line = process.stdout.readline()
        address = re.search(r"http://[\d.]+:\d+", first_line)
        assert address, f"the server did not start: {first_line!r}"
        yield Served(process, address[0])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


@pytest.fixture(scope="session")
def kokoro() -> Iterator[Served]:
    with serving(engine="kokoro") as served:
        yield served


@pytest.fixture(scope="session")
def hibari() -> Iterator[Served]:
    with serving(engine="hibari") as served:
        yield served


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """Starts servers for one test."""
    with ExitStack() as running:
        yield lambda **settings: running.enter_context(serving(**settings))
