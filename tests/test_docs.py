"""The documents are true: their commands and code run against a server, their tables name what there is."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import schemas
from audio_utils import Audio
from server.doors.websocket.messages import MESSAGES
from speech.errors import STATUS
from speech.operations import OPERATIONS, STREAM_SPEAK
from speech.settings import PREFIX, Settings
from tests import ears
from tests.conftest import ROOT, Served

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)
DOCUMENTS = ("README.md", "docs/client.md")
DEFAULT_URL = "http://127.0.0.1:8000"


def blocks(document: str) -> list[tuple[str, str]]:
    """Language and text of each block that is meant to be run: bash and python; sh needs more than a test has."""
    found = BLOCK.findall((ROOT / document).read_text(encoding="utf-8"))
    return [(language, text) for language, text in found if language in ("bash", "python")]


def run(language: str, text: str, folder: Path, url: str = "") -> None:
    command = ["bash", "-euo", "pipefail", "-c", text] if language == "bash" else [sys.executable, "-c", text]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = os.environ | {"PYTHONPATH": str(ROOT), "PATH": path, "DUOLOGUE_URL": url}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def made_to_serve() -> Iterator[str]:
    """The README's first command, run as it stands, on a free port."""
    assert blocks("README.md")[0] == ("bash", "make serve\n")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        ["make", "serve", f"PORT={port}"],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1", "DUOLOGUE_ENGINE": "kokoro"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        said = ""
        while "curl" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        yield said
    finally:
        os.killpg(process.pid, 15)
        process.wait(60)


def test_make_serve_prints_a_line_that_works_as_pasted(made_to_serve: str, tmp_path: Path) -> None:
    assert "kokoro" in made_to_serve.lower()
    run("bash", made_to_serve[made_to_serve.index("curl") :], tmp_path)
    audio = ears.sound((tmp_path / "hello.wav").read_bytes())
    assert ears.word_error_rate("Hello. Nice to meet you.", audio) <= 0.2


def test_a_second_run_installs_nothing() -> None:
    done = subprocess.run(["make", "--question", ".venv/test"], cwd=ROOT, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_and_code_run(document: str, made_to_serve: str, tmp_path: Path) -> None:
    address = re.search(r"http://[\d.]+:\d+", made_to_serve)
    assert address
    for language, text in blocks(document):
        if text == "make serve\n":
            continue  # it is what the others talk to
        run(language, text.replace(DEFAULT_URL, address[0]), tmp_path, url=address[0])
    sounds = [path for path in tmp_path.rglob("*.*") if path.suffix in (".wav", ".mp3", ".flac", ".opus")]
    assert len(sounds) >= 5
    for path in sounds:
        assert ears.sound(path.read_bytes()).duration_ms > 300, path.name


def test_every_operation_is_in_the_readme_and_the_reference() -> None:
    for document in ("README.md", "docs/operations.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        for operation in (*OPERATIONS.values(), STREAM_SPEAK):
            assert f"`{operation.path}`" in text, (document, operation.path)


def test_every_field_and_error_is_in_the_reference() -> None:
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    for operation in (*OPERATIONS.values(), STREAM_SPEAK):
        for name in operation.request.model_fields:
            assert f"`{name}`" in text, name
    for model in (schemas.ContextSegment, schemas.Turn):
        assert all(name in text for name in model.model_fields)
    for status, code in STATUS.values():
        assert status == 499 or f"`{code}`" in text, code


def test_every_message_of_the_websocket_is_in_its_page() -> None:
    text = (ROOT / "docs/websocket.md").read_text(encoding="utf-8")
    for kind, model in MESSAGES.items():
        assert all(f"`{name}`" in text for name in (kind, *model.model_fields)), kind


def test_the_websocket_example_runs(made_to_serve: str, tmp_path: Path) -> None:
    url = made_to_serve[made_to_serve.index("http://") :].split(maxsplit=1)[0]
    for language, text in blocks("docs/websocket.md"):
        run(language, text.replace("ws://127.0.0.1:8000", url.replace("http", "ws")), tmp_path)
    audio = Audio(np.fromfile(tmp_path / "story.pcm", "<i2").astype(np.float32) / 32767, 24_000)
    said = "Once upon a time, there was a server. It spoke while others wrote."
    assert ears.word_error_rate(said, audio) <= 0.2


def test_every_setting_is_in_the_table_with_its_default() -> None:
    text = (ROOT / "docs/self-hosting.md").read_text(encoding="utf-8") + (ROOT / "docs/chutes.md").read_text("utf-8")
    rows = dict(re.findall(rf"^\| `{PREFIX}(\w+)` \| (.*?) \|", text, re.M))
    assert {name.lower() for name in rows} == Settings.model_fields.keys()
    for name, info in Settings.model_fields.items():
        if info.default is not None:
            shown = str(info.default).lower() if isinstance(info.default, bool) else str(info.default)
            assert rows[name.upper()].strip("`") == shown, name


def test_links_lead_somewhere() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), (document.name, target)


def test_the_sample_in_the_readme_is_what_its_command_makes(kokoro: Served) -> None:
    request = re.search(r"talk\.mp3 -d '(\{.*?\})'\n", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    assert request
    made = kokoro.http.post("/conversation", content=request[1], headers={"content-type": "application/json"})
    sample = ears.sound((ROOT / "docs/talk.mp3").read_bytes())
    assert abs(ears.sound(made.content).duration_ms - sample.duration_ms) < 100
    assert ears.heard(sample) == ears.heard(ears.sound(made.content))
