"""Which engine a setting gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from speech.engines import registry
from speech.errors import StartupError
from speech.settings import Settings
from tests.conftest import ROOT

TINY = ROOT / "tests" / "data" / "csm_tiny_original"


@pytest.mark.parametrize("name", ["kokoro", "hibari", "csm"])
def test_each_name_gets_its_engine(name: str) -> None:
    settings = Settings.model_validate({"engine": name, "csm_weights": str(TINY), "csm_slots": 3})
    engine = registry.choose(settings)
    assert engine.info.name == name
    if name == "csm":
        assert engine.info.parallel == 3


def test_auto_takes_kokoro_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_cuda", lambda: False)
    assert registry.choose(Settings(engine="auto")).info.name == "kokoro"


def test_auto_takes_kokoro_where_the_weights_cannot_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(registry, "_cuda", lambda: True)
    assert registry.choose(Settings(engine="auto", csm_weights=str(tmp_path))).info.name == "kokoro"


def test_auto_takes_csm_where_there_is_a_gpu_and_the_weights(
    monkeypatch: pytest.MonkeyPatch, transformers_folder: Path
) -> None:
    monkeypatch.setattr(registry, "_cuda", lambda: True)
    assert registry.choose(Settings(engine="auto", csm_weights=str(transformers_folder))).info.name == "csm"


def test_csm_that_cannot_be_had_is_told_where_it_was_asked_for(tmp_path: Path) -> None:
    engine = registry.choose(Settings(engine="csm", csm_weights=str(tmp_path / "nowhere")))
    with pytest.raises(StartupError, match="csm_weights"):
        engine.start()
