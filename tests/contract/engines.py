"""Every engine, as the contract tests make it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from speech.engines.base import Engine
from speech.engines.hibari import HibariEngine
from speech.engines.kokoro.engine import KokoroEngine

ENGINES: dict[str, Callable[[pytest.TempPathFactory], Engine]] = {
    "kokoro": lambda _: KokoroEngine(threads=1),
    "hibari": lambda _: HibariEngine(),
}
