"""The image: every module that my_tts.py can reach is in it, with the settings it was built with."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from chutes.chute import Chute
from chutes.entrypoint.run import DevMiddleware

from image import APP, baked, image_of
from speech import release
from speech.errors import StartupError
from speech.settings import Settings
from tests.chute.conftest import ROOT, LoadChute

MINE = Settings(username="somebody")


def modules_of(path: str) -> set[str]:
    """Every module that the file names in an import, wherever in it, as dotted names; of `from a import b`, a.b too."""
    named = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            named.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import, which this test does not follow"
            named.add(node.module or "")
            named.update(f"{node.module}.{alias.name}" for alias in node.names)
    return named


def files_of(module: str) -> set[str]:
    """The first-party files that importing `module` runs: itself and the packages it is in."""
    parts = module.split(".")
    prefixes = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    candidates = [candidate for prefix in prefixes for candidate in (f"{prefix}.py", f"{prefix}/__init__.py")]
    return {candidate for candidate in candidates if (ROOT / candidate).is_file()}


def reachable(start: str) -> set[str]:
    found, new = {start}, {start}
    while new:
        new = {file for path in new for module in modules_of(path) for file in files_of(module)} - found
        found |= new
    return found


def test_every_module_in_reach_is_in_the_image() -> None:
    in_reach = reachable("my_tts.py") - {"my_tts.py"}
    assert {"speech/engines/hibari.py", "speech/engines/kokoro/engine.py"} <= in_reach, "lazy imports are followed"
    assert in_reach <= set(release.paths(ROOT))


def test_every_data_file_of_the_product_is_in_the_image() -> None:
    beside = {"", ".py", ".pyc", ".md"}
    data = {path.relative_to(ROOT).as_posix() for path in (ROOT / "speech").rglob("*") if path.suffix not in beside}
    assert data <= set(release.paths(ROOT))


def test_nothing_else_is_in_the_image() -> None:
    assert {path.partition("/")[0] for path in release.paths(ROOT)} == {
        *("audio_utils.py", "cache.py", "image.py", "schemas.py"),
        *("requirements", "speech"),
    }


def test_each_file_is_added_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    image = image_of(MINE, "1-a")
    context = {Path(path).as_posix() for directive in image._directives for path in directive._build_context}
    assert context == set(release.paths(ROOT))
    for source, destination in re.findall(r"^ADD (\S+) (\S+)$", str(image), re.MULTILINE):
        assert destination == f"{APP}/{source.rpartition('/')[0]}/".replace("//", "/")


def test_everything_installed_is_pinned() -> None:
    assert "pip install --no-cache-dir -r /app/requirements/gpu.txt" in str(image_of(MINE, "1-a"))
    for name in ("gpu.txt", "csm.txt", "serve.txt", "lock.txt"):
        for line in (ROOT / "requirements" / name).read_text().splitlines():
            assert re.fullmatch(r"(#.*|-r (serve|csm)\.txt|-c lock\.txt|[\w.-]+==[\w.]+)?", line), f"{name}: {line}"


def test_torchaudio_is_built_for_the_torch_beside_it() -> None:
    pins = dict(re.findall(r"^(\w+)==(.+)$", (ROOT / "requirements/gpu.txt").read_text(), re.MULTILINE))
    assert pins["torchaudio"] == pins["torch"]


def test_what_was_set_is_baked_and_what_was_not_is_not() -> None:
    settings = Settings.from_env({"DUOLOGUE_USERNAME": "somebody", "DUOLOGUE_QUEUE": "20", "PORT": "9000"})
    assert baked(settings) == {
        "DUOLOGUE_CHUTE": "csm-1b-tts",
        "DUOLOGUE_QUEUE": "20",
        "DUOLOGUE_USERNAME": "somebody",
    }
    assert Settings.from_env(baked(settings)).queue == 20


@pytest.mark.parametrize("name", ["engine", "queue", "concurrency", "scaling_threshold", "log_level"])
def test_a_setting_tells_an_image_apart(name: str) -> None:
    given = {"engine": "hibari", "queue": 3, "concurrency": 3, "scaling_threshold": 0.5, "log_level": "ERROR"}
    tag = image_of(Settings(username="somebody", **{name: given[name]}), "1-a").tag
    assert tag.startswith("1-a-")
    assert tag != image_of(MINE, "1-a").tag == "1-a"


def test_a_name_does_not_tell_an_image_apart() -> None:
    assert image_of(Settings(username="somebody", chute="other"), "1-a").uid == image_of(MINE, "1-a").uid


def test_a_value_that_would_change_the_dockerfile_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("image._username", lambda settings: 'a"\nRUN rm')
    with pytest.raises(StartupError, match="DUOLOGUE_USERNAME"):
        baked(MINE)


def test_the_chute_asks_for_one_gpu_of_24_gb(load_chute: LoadChute) -> None:
    """Of the selector that was built: a misspelt field passes in silence."""
    chute: Chute = load_chute(True, DevMiddleware)
    assert chute.node_selector.model_dump(exclude_none=True) == {"gpu_count": 1, "min_vram_gb_per_gpu": 24}
