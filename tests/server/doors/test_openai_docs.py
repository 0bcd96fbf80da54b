"""What docs/openai.md shows runs as it stands, one block after the other."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests import ears
from tests.conftest import ROOT, Served

PAGE = (ROOT / "docs" / "openai.md").read_text(encoding="utf-8")
RECORDING = ROOT / "tests" / "data" / "recordings" / "psx__austen_f.wav"


def test_its_examples_run(kokoro: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(RECORDING, "jane.wav")
    names: dict[str, object] = {}
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    assert len(blocks) == 5
    for block in blocks:
        exec(compile(block.replace("http://127.0.0.1:8000", kokoro.url), "docs/openai.md", "exec"), names)
    kokoro.http.delete(f"/v1/audio/voices/{names['voice'].id}").raise_for_status()  # type: ignore[attr-defined]
    assert ears.word_error_rate("Hello there. Nice to meet you.", ears.sound(Path("hello.mp3").read_bytes())) <= 0.2
    assert ears.sound(Path("jane.mp3").read_bytes()).duration_ms > 1000
