"""clients/ can be copied into another project: it imports httpx, tqdm and the standard library."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CLIENTS = Path(__file__).parents[2] / "clients"
ALLOWED = {"httpx", "tqdm", *sys.stdlib_module_names}


@pytest.mark.parametrize("file", sorted(CLIENTS.rglob("*.py")), ids=lambda file: file.name)
def test_imports_nothing_of_ours(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            assert {alias.name.partition(".")[0] for alias in node.names} <= ALLOWED
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert (node.module or "").partition(".")[0] in ALLOWED
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 1, "out of the folder"


def test_only_the_command_line_needs_tqdm() -> None:
    users = [file.name for file in CLIENTS.rglob("*.py") if "tqdm" in file.read_text()]
    assert sorted(users) == ["__init__.py", "cli.py"]  # the first only says so
    code = "import sys, clients; sys.exit('tqdm' in sys.modules or 'argparse' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=CLIENTS.parent, check=False).returncode == 0


def test_a_copy_under_another_name_runs(tmp_path: Path) -> None:
    shutil.copytree(CLIENTS, tmp_path / "voice", ignore=shutil.ignore_patterns("__pycache__"))
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "voice", "speak", "Hello"]
    done = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr[:34]) == (2, "python -m voice: say where the sou")
