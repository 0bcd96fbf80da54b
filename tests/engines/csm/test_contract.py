"""The engine contract, asked of CSM: every test of tests/contract, on tiny random weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from speech.engines.csm.engine import CsmConfig, CsmEngine
from tests.contract.test_engines import *  # noqa: F403


@pytest.fixture(scope="module")
def engine(transformers_folder: Path) -> Iterator[CsmEngine]:
    engine = CsmEngine(CsmConfig(weights=str(transformers_folder), device="cpu", slots=3))
    engine.start()
    yield engine
    engine.close()
