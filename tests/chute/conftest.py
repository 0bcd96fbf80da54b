"""The Chute in process, in a process of its own, and as a copy that can be built, altered and deployed."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import httpx
import pytest
from chutes.chute import Chute, cord
from starlette.middleware.base import BaseHTTPMiddleware

from speech import release
from speech.engines.registry import choose
from speech.service import Service
from speech.settings import Settings

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

LoadChute = Callable[[bool, type[BaseHTTPMiddleware]], Chute]


def clean_env() -> dict[str, str]:
    """This process's environment without anything that a deployer may have set."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("DUOLOGUE_", "CHUTES_", "PYTHON"))
    }


class Running:
    """A chute that runs in a process of its own. `http` is a client for it, `log` what it has printed."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log_path: Path) -> None:
        self.process = process
        self.http = httpx.Client(base_url=url, timeout=120)
        self._log_path = log_path

    @property
    def log(self) -> str:
        return self._log_path.read_text(encoding="utf-8", errors="replace")

    def until_ready(self, deadline_s: float = 90) -> None:
        give_up_s = time.monotonic() + deadline_s
        while time.monotonic() < give_up_s and self.process.poll() is None:
            try:
                if self.http.get("/health").json()["status"] == "ready":
                    return
            except httpx.TransportError:
                time.sleep(0.1)
        raise AssertionError("the chute did not start:\n" + self.log[-4000:])


@contextmanager
def running(folder: Path, env: dict[str, str], log_path: Path) -> Iterator[Running]:
    """`chutes run --dev` in `folder` with `env` and nothing else, ready to speak; stopped at the end."""
    port, logging_port = _free_ports()
    command = [BIN / "chutes", "run", "my_tts:chute", "--dev", "--host", "127.0.0.1"]
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port), "--logging-port", str(logging_port)],
            cwd=folder,
            env=env | {"CHUTES_EXECUTION_CONTEXT": "REMOTE"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        chute = Running(process, f"http://127.0.0.1:{port}", log_path)
        chute.until_ready()
        yield chute
    finally:
        process.kill()
        process.wait(timeout=30)


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def copy_release(folder: Path) -> Path:
    """The files of a release and my_tts.py, copied into `folder` and stamped."""
    for path in [*release.paths(ROOT), "my_tts.py"]:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, target)
    release.stamp(folder)
    return folder


@pytest.fixture(scope="session")
def load_chute() -> Iterator[LoadChute]:
    """Loads my_tts.py as the SDK does, with hibari, started, behind a middleware."""

    def load(dev: bool, middleware: type[BaseHTTPMiddleware]) -> Chute:
        with pytest.MonkeyPatch.context() as patch:
            for name in set(os.environ) - set(clean_env()):
                patch.delenv(name)
            patch.setenv("CHUTES_EXECUTION_CONTEXT", "REMOTE")
            patch.setenv("CHUTES_DEV_MODE", str(dev).lower())
            patch.setenv("DUOLOGUE_ENGINE", "hibari")
            # test_release.py is about the stamp; here a change under way is no reason to fail.
            patch.setattr(release, "require", lambda stamp, root: None)
            chute = _my_tts().chute
            asyncio.run(chute.initialize())
        chute.add_middleware(middleware)
        cord.init_user_code_executor(chute.concurrency)
        return chute

    yield load


def _my_tts() -> ModuleType:
    spec = importlib.util.spec_from_file_location("my_tts", ROOT / "my_tts.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def kokoro_service() -> Service:
    """A started service with a voice that recordings can change."""
    settings = Settings(engine="kokoro", threads=1)
    service = Service(choose(settings), settings)
    service.start()
    return service
