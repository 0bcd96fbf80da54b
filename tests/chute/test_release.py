"""The code that runs is the code that was deployed, or it does not run."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from speech import release
from speech.errors import StartupError
from tests.chute.conftest import ROOT, copy_release


def test_the_stamp_in_my_tts_is_current() -> None:
    stamped = re.findall(r'^RELEASE = "(.+)"$', (ROOT / "my_tts.py").read_text(), re.MULTILINE)
    assert stamped == [release.release_of(ROOT)], "run make release"


def test_stamping_changes_one_line_and_no_release(tmp_path: Path) -> None:
    tree = copy_release(tmp_path)
    before = (tree / "my_tts.py").read_text().splitlines()
    (tree / "speech" / "reply.py").write_text("changed = True\n")
    stamped = release.stamp(tree)
    after = (tree / "my_tts.py").read_text().splitlines()
    assert [line for line in after if line not in before] == [f'RELEASE = "{stamped}"']
    assert release.stamp(tree) == stamped, "my_tts.py is no part of what is hashed"


def test_any_change_in_the_image_is_another_release(tmp_path: Path) -> None:
    tree = copy_release(tmp_path)
    seen = {release.release_of(tree)}
    for path in ("audio_utils.py", "requirements/gpu.txt", "speech/gate.py", "speech/engines/kokoro/data/voices.npz"):
        with (tree / path).open("ab") as file:
            file.write(b"\n")
        seen.add(release.release_of(tree))
    (tree / "speech" / "gate.py").rename(tree / "speech" / "gates.py")
    seen.add(release.release_of(tree))
    assert len(seen) == 6


def test_what_python_leaves_behind_is_no_change(tmp_path: Path) -> None:
    tree = copy_release(tmp_path)
    before = release.release_of(tree)
    (tree / "speech" / "__pycache__").mkdir()
    (tree / "speech" / "__pycache__" / "gate.cpython-312.pyc").write_bytes(b"\0")
    assert release.release_of(tree) == before


def test_half_a_release_is_refused(tmp_path: Path) -> None:
    tree = copy_release(tmp_path)
    (tree / "schemas.py").unlink()
    with pytest.raises(StartupError, match=r"schemas\.py"):
        release.release_of(tree)


def test_an_instance_refuses_and_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHUTES_DEV_MODE", raising=False)
    monkeypatch.setenv("CHUTES_EXECUTION_CONTEXT", "REMOTE")
    with pytest.raises(StartupError, match="build and deploy again"):
        release.require("0.0.0-other", ROOT)


def test_a_deployer_is_told_to_stamp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHUTES_DEV_MODE", raising=False)
    monkeypatch.delenv("CHUTES_EXECUTION_CONTEXT", raising=False)
    with pytest.raises(StartupError, match="run `make release`"):
        release.require("0.0.0-other", ROOT)


def test_a_developers_own_machine_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHUTES_DEV_MODE", "true")
    monkeypatch.setenv("CHUTES_EXECUTION_CONTEXT", "REMOTE")
    release.require("0.0.0-other", ROOT)


def test_a_package_that_took_our_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = ModuleType("cache")
    theirs.__file__ = "/usr/lib/python3/site-packages/cache.py"
    monkeypatch.setitem(sys.modules, "cache", theirs)
    with pytest.raises(StartupError, match=r"cache was imported from .*PYTHONPATH"):
        release.require(release.release_of(ROOT), ROOT)
