"""`python -m server`: how it starts and ends where its surroundings are odd."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from server import keys
from server.__main__ import _bind
from tests.conftest import ROOT


@contextmanager
def started(
    stderr: Path, stdout: int | None = subprocess.DEVNULL, **settings: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A server's process, not waited for; ended here where it still runs."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("DUOLOGUE_")}
    env |= {f"DUOLOGUE_{name.upper()}": value for name, value in settings.items()} | {"PYTHONPATH": str(ROOT)}
    with stderr.open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "server"], cwd=ROOT, env=env, stdout=stdout, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def health(process: subprocess.Popen[bytes], url: str) -> str:
    while process.poll() is None:
        try:
            return str(httpx.get(f"{url}/health").json()["status"])
        except httpx.ConnectError:
            time.sleep(0.1)
    return f"ended with {process.returncode}"


def test_serves_though_nobody_takes_its_output(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    port = free_port()
    with started(tmp_path / "log", writer, engine="hibari", port=str(port)) as process:
        os.close(writer)
        assert health(process, f"http://127.0.0.1:{port}") == "ready"
    assert process.returncode == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_the_address_told_can_be_pasted(tmp_path: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with started(tmp_path / "log", subprocess.PIPE, engine="hibari", host="::1", port="0") as process:
        assert process.stdout
        told = process.stdout.readline().decode() + process.stdout.readline().decode()
        url = told.split("listens on ")[1].split()[0]
        assert f"curl -s {url}/speak" in told
        assert health(process, url) == "ready"


@pytest.mark.parametrize("guarded", [False, True])
def test_the_command_told_works_where_keys_are_asked_and_where_none_are(tmp_path: Path, guarded: bool) -> None:
    key = keys.add(tmp_path / "keys.json", "ann")
    asked = {"keys_file": str(tmp_path / "keys.json")} if guarded else {}
    with started(tmp_path / "log", subprocess.PIPE, engine="hibari", port="0", **asked) as process:
        assert process.stdout
        process.stdout.readline()
        command = process.stdout.readline().decode()
        env = os.environ | ({"DUOLOGUE_API_KEY": key} if guarded else {})
        subprocess.run(["bash", "-c", command], cwd=tmp_path, env=env, check=True)
    assert (tmp_path / "hello.wav").read_bytes()[:4] == b"RIFF"
    assert ("Authorization" in command) is guarded
    assert key not in command


def test_a_port_that_is_taken_is_told_in_a_line(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        started(tmp_path / "log", engine="hibari", port=str(taken.getsockname()[1])) as process,
    ):
        assert process.wait(30) == 1
    log = (tmp_path / "log").read_text()
    assert log.startswith("duologue cannot start: cannot listen at DUOLOGUE_HOST=127.0.0.1, DUOLOGUE_PORT=")
    assert "address already in use" in log and "Traceback" not in log
    assert len(log.splitlines()) == 1, "nothing was loaded for it"


def test_ctrl_c_while_loading_leaves_no_trace(tmp_path: Path) -> None:
    program = (
        "import time, server.__main__ as main\n"
        "def load(settings):\n    print('loading', flush=True)\n    time.sleep(30)\n"
        "main.choose = load\nmain.main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "loading\n"
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert (process.returncode, told) == (0, "")


def test_small_answers_do_not_wait_for_more_to_send() -> None:
    """asyncio turns Nagle's algorithm off on connections whose socket says that it is TCP, and on no others."""
    with _bind("127.0.0.1", "PORT", 0) as bound:
        assert bound.proto == socket.IPPROTO_TCP
