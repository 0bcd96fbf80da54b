"""An engine that makes noise in chunks of any size, in no time: what streams are made of, without a voice."""

from __future__ import annotations

from collections.abc import Generator
from typing import Literal

import numpy as np

from audio_utils import Audio
from speech.engines.base import EngineInfo, Line, Load
from speech.service import Service
from speech.settings import Settings

RATE_HZ = 8000
MS_PER_CHAR = 60


class FakeEngine:
    """Says MS_PER_CHAR of noise for each character, `chunk_ms` at a time. fails_at_ms: breaks there, in a way that no
    engine should."""

    def __init__(
        self,
        chunk_ms: float = 80,
        grain: Literal["frame", "sentence"] = "frame",
        fails_at_ms: float | None = None,
        parallel: int = 1,
    ) -> None:
        self.chunk_ms = chunk_ms
        self.fails_at_ms = fails_at_ms
        self.made_ms = 0.0
        self.info = EngineInfo(
            name="fake",
            model="fake",
            sample_rate_hz=RATE_HZ,
            device="cpu",
            voices=(),
            context="none",
            takes=True,
            sampling=True,
            grain=grain,
            parallel=parallel,
        )

    def start(self) -> None:
        pass

    def voice_of(self, line: Line) -> str | None:
        return None

    def speak(self, line: Line) -> Generator[Audio]:
        return self._chunks(line, MS_PER_CHAR * len(line.text))

    def _chunks(self, line: Line, duration_ms: float) -> Generator[Audio]:
        noise = np.random.default_rng(line.seed)
        said_ms = 0.0
        while said_ms < duration_ms:
            if self.fails_at_ms is not None and said_ms >= self.fails_at_ms:
                raise RuntimeError("in /home/somebody/engine.py")
            line.caller.check()
            length = max(1, round(RATE_HZ * min(self.chunk_ms, duration_ms - said_ms) / 1000))
            yield Audio(noise.uniform(-0.3, 0.3, length).astype(np.float32), RATE_HZ)
            said_ms += 1000 * length / RATE_HZ
            self.made_ms += 1000 * length / RATE_HZ

    def load(self) -> Load:
        return Load()

    def trim(self) -> None:
        pass

    def close(self) -> None:
        pass


def fake_service(engine: FakeEngine) -> Service:
    """A started service over `engine`."""
    service = Service(engine, Settings())
    service.start()
    return service
