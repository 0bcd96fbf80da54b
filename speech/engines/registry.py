"""Which engine a name stands for. Each room is imported only when it is chosen."""

from __future__ import annotations

from speech.engines.base import Engine
from speech.settings import Settings


def choose(settings: Settings) -> Engine:
    """The engine that `settings.engine` names, not started. Raises StartupError where it cannot be had."""
    if settings.engine == "hibari":
        from speech.engines.hibari import HibariEngine

        return HibariEngine()
    from speech.engines.kokoro.engine import KokoroEngine

    return KokoroEngine(threads=settings.threads)
