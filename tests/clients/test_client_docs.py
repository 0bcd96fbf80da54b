"""Every example of docs/client.md runs as it stands, against a server on the loopback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from clients import errors

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "client.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.M | re.S)


def test_the_python_examples(server: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for code in blocks("python"):
        exec(compile(code.replace("http://127.0.0.1:8000", server.url), "docs/client.md", "exec"), {})
    written = {path.name for path in tmp_path.iterdir()}
    assert {"hello.wav", "talk.wav", "0.mp3", "1.mp3", "turn-1.flac", "turn-2.flac", "stream.mp3"} == written


def test_the_shell_examples(server: Any, tmp_path: Path) -> None:
    (script,) = blocks("bash")
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "NO_PROXY": "*",
    }
    script = "set -euo pipefail\n" + script.replace("http://127.0.0.1:8000", server.url)
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    for name in ("hello.wav", "piped.wav", "stream.wav", "talk.mp3", "same.wav", "lines/0001.flac", "lines/0002.flac"):
        assert (tmp_path / name).stat().st_size > 44


def test_the_tree_is_the_one_of_the_code() -> None:
    for line in (errors.__doc__ or "").splitlines():
        name = re.search(r"[├└]── (\w+)", line)
        assert name is None or name[1] in PAGE
