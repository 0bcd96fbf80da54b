"""What docs/other-doors.md shows runs as it stands, and its tables name every field."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from server.doors import dia, library
from tests import ears
from tests.conftest import ROOT, Served

PAGE = (ROOT / "docs" / "other-doors.md").read_text(encoding="utf-8")


def test_its_commands_run(hibari: Served, tmp_path: Path) -> None:
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE, re.M | re.S)
    script = "\n".join(blocks).replace("http://127.0.0.1:8000", hibari.url)
    done = subprocess.run(["bash", "-euc", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["chunks"] == ["One sentence.", "And another."]
    for name in ("talk.mp3", "dia.wav"):
        assert ears.sound((tmp_path / name).read_bytes()).duration_ms > 1000


def test_every_field_is_in_it() -> None:
    for model in (library.TtsRequest, library.AnalyzeRequest, dia.GenerateRequest, dia.AudioPrompt):
        assert all(f"`{name}`" in PAGE for name in model.model_fields)
