"""The house stands: imports point down its levels, and heavy packages stay in the rooms that need them."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

LEVELS: list[tuple[str, ...]] = [
    ("speech.errors", "speech.text", "cache", "speech.reply"),
    ("speech.settings", "speech.release", "speech.account", "speech.decoding", "schemas"),
    ("speech.caller",),
    ("speech.encoding",),
    ("audio_utils",),
    (
        "speech.engines.base",
        "speech.engines.graph",
        "speech.engines.eager",
        "speech.quality",
        "speech.watermark",
        "speech.tempo",
    ),
    ("speech.engines.embedded", "speech.sessions", "speech.gate", "speech.voices"),
    ("speech.engines.csm", "speech.engines.kokoro", "speech.engines.hibari", "speech.engines.gateway"),
    ("speech.engines.registry",),
    ("speech.service",),
    ("speech.conversation", "speech.streaming"),
    ("speech.utterance",),
    ("speech.operations",),
    ("speech.event_stream",),
    ("image",),
    ("server", "my_tts", "bench"),
]
"""From the ground up. A room imports from lower levels and from itself, never from a neighbour."""

ONLY_IN: dict[str, tuple[str, ...]] = {
    "chutes": ("my_tts", "image"),
    "fastapi": ("my_tts", "server"),
    "starlette": ("my_tts", "server"),
    "uvicorn": ("server", "bench"),
    "asyncio": ("my_tts", "server", "clients", "speech.engines.gateway"),
    "clients": ("clients", "speech.engines.gateway"),
    "httpx": ("clients", "speech.engines.gateway", "bench"),
    "anyio": ("server",),
    "wyoming": ("server.wyoming",),
    "torch": ("speech.engines.csm", "speech.engines.registry", "speech.watermark", "bench"),
    "transformers": ("speech.engines.csm", "bench"),
    "onnxruntime": ("speech.engines.kokoro", "speech.engines.hibari"),
    "prometheus_client": ("server.metrics",),
    "opentelemetry": ("server.tracing",),
    "hibari": ("speech.engines.embedded", "speech.engines.hibari"),
    "av": ("speech.decoding", "speech.encoding", "speech.tempo"),
}
FORBIDDEN = ("torchaudio", "torchtune", "moshi")


def first_party() -> list[Path]:
    folders = ("speech", "server", "clients", "bench")
    return [*ROOT.glob("*.py"), *(path for folder in folders for path in (ROOT / folder).rglob("*.py"))]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[str]:
    """Every module that `path` imports, lazily or not, by its full name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def inside(module: str, rooms: tuple[str, ...] | str) -> bool:
    rooms = (rooms,) if isinstance(rooms, str) else rooms
    return any(module == room or module.startswith(room + ".") for room in rooms)


def room_and_level(module: str) -> tuple[str, int] | None:
    found = [(room, level) for level, rooms in enumerate(LEVELS) for room in rooms if inside(module, room)]
    return max(found, key=lambda each: len(each[0]), default=None)


@pytest.mark.parametrize("path", first_party(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    module = module_of(path)
    if module in ("speech", "speech.engines") or inside(module, "clients"):
        return
    home = room_and_level(module)
    assert home, f"{module} has no level: give it one in LEVELS"
    for imported in imports(path):
        target = room_and_level(imported)
        if target and target[0] != home[0] and not inside(module, "bench"):
            assert target[1] < home[1], f"{module} imports {imported}"


@pytest.mark.parametrize("path", first_party(), ids=lambda path: str(path.relative_to(ROOT)))
def test_packages_stay_in_their_rooms(path: Path) -> None:
    module = module_of(path)
    for imported in imports(path):
        assert not inside(imported, FORBIDDEN), f"{module} imports {imported}"
        for package, rooms in ONLY_IN.items():
            assert not inside(imported, package) or inside(module, rooms), f"{module} imports {imported}"


def test_the_client_stands_alone() -> None:
    own = {module_of(path).split(".")[0] for path in first_party()} - {"clients"}
    for path in (ROOT / "clients").rglob("*.py"):
        assert not {name.split(".")[0] for name in imports(path)} & own, path.name


def test_serving_imports_no_torch() -> None:
    code = "import sys, server.app, server.__main__, speech.engines.registry, speech.engines.kokoro.engine, clients\n"
    code += (
        "sys.exit(', '.join(sorted({'torch', 'transformers', 'chutes', 'opentelemetry.sdk'} & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
