"""What the CSM tests share: one thread (the machine is shared), and models that are written once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from tests.engines.csm.tiny import write_original, write_transformers

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def transformers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_transformers(tmp_path_factory.mktemp("csm") / "transformers")


@pytest.fixture(scope="session")
def original_folder(tmp_path_factory: pytest.TempPathFactory, transformers_folder: Path) -> Path:
    return write_original(tmp_path_factory.mktemp("csm") / "original", transformers_folder)
