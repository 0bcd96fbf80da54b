"""hibari: one voice in 8 MB, a hundred times faster than it speaks on one core."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
from hibari import Hibari

from audio_utils import Audio
from speech.engines import embedded
from speech.engines.base import EngineInfo, Line, Load


class HibariEngine:
    """The fastest embedded engine. Takes `seed`, which changes its breath noise and nothing else."""

    def __init__(self) -> None:
        self.info = EngineInfo(
            name="hibari",
            model="hibari-tts 0.2.1",
            sample_rate_hz=embedded.SAMPLE_RATE_HZ,
            device="cpu",
            voices=(embedded.SPEAKERS[0],),
            context="none",
            takes=False,
            sampling=False,
            grain="sentence",
            parallel=1,
            notes=(
                "English only.",
                "One voice: speaker 0 and speaker 1 sound the same.",
                "context and reference recordings are refused: this engine cannot use them.",
                "seed changes the noise in the sound, not the reading; temperature and top_k change nothing.",
            ),
        )
        self._model: Hibari | None = None

    def start(self) -> None:
        self._model = Hibari(g2p=embedded.phonemizer(british=False))
        embedded.finished(self.speak(Line("Ready.")))

    def voice_of(self, line: Line) -> str | None:
        return self.info.voices[0]

    def speak(self, line: Line) -> Generator[Audio]:
        spoken = embedded.phonemes(line, british=False)
        return self._chunks(spoken, line)

    def _chunks(self, spoken: list[str], line: Line) -> Generator[Audio]:
        assert self._model is not None, "start() comes first"
        noise = np.random.default_rng(line.seed)
        for phoneme_string in spoken:
            line.caller.check()
            ids = embedded.token_ids(phoneme_string)
            yield embedded.chunk(self._model.from_ids(ids, rng=noise))

    def load(self) -> Load:
        return Load()

    def trim(self) -> None:
        """Nothing is kept between lines."""

    def close(self) -> None:
        self._model = None
