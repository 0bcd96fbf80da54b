"""The benchmark runs from end to end; its figures are for a machine of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_script_ends_with_one_json_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.csm_engine", "--tiny", "--threads", "1", "--device", "cpu", "--streams", "1,2",
         "--frames", "2"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    result = json.loads(done.stdout.splitlines()[-1])
    assert all(isinstance(ms, float) for ms in result["transformers_ms"].values()), result["transformers_ms"]
    assert {name: list(times) for name, times in result["engine_ms"].items()} == {
        "bfloat16": ["1", "2"],
        "int8": ["1", "2"],
    }
    assert len(result["first_audio_ms"]) == 6
