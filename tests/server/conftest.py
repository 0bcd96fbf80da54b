"""A server that asks for keys, with small bounds, whose log is kept."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.conftest import ROOT
from tests.server.observed import Collector, Logged, collecting, logging_to
from tests.server.test_main import started

BODY_WAIT_S = 3
PAGE = "https://page.example"


@dataclass
class Guarded:
    """A running server, its file of keys and its log. `shown`: every key there ever was."""

    url: str
    keys: Path
    log: Path
    shown: list[str] = field(default_factory=list)

    def manage(self, *words: str) -> subprocess.CompletedProcess[str]:
        """What `python -m server.keys` does of `words`."""
        command = [sys.executable, "-m", "server.keys", "--file", str(self.keys), *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    def add(self, *words: str) -> str:
        done = self.manage("add", *words)
        assert done.returncode == 0, done.stderr
        self.shown.append(done.stdout.strip())
        return self.shown[-1]

    def http(self, key: str | None = None, **headers: str) -> httpx.Client:
        if key:
            headers["Authorization"] = f"Bearer {key}"
        return httpx.Client(base_url=self.url, headers=headers, timeout=60)


@pytest.fixture(scope="package")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    guarded = Guarded("", folder / "keys.json", folder / "log")
    guarded.add("first")
    with started(
        guarded.log,
        subprocess.PIPE,
        engine="hibari",
        port="0",
        keys_file=str(guarded.keys),
        log_level="DEBUG",
        max_body_mb="1",
        bodies_mb="1",
        body_wait_s=str(BODY_WAIT_S),
        connections="40",
        cors_origins=f"{PAGE},https://other.example",
    ) as process:
        assert process.stdout
        address = re.search(r"http://[\d.]+:\d+", process.stdout.readline().decode())
        assert address, guarded.log.read_text()
        guarded.url = address[0]
        yield guarded


@pytest.fixture(scope="package")
def key(guarded: Guarded) -> str:
    """A key without limits."""
    return guarded.add("unbounded")


@pytest.fixture(scope="package")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="package")
def logged(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Logged]:
    with logging_to(tmp_path_factory.mktemp("logged") / "log", collector) as logged:
        yield logged
