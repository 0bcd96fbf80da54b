"""A mark that cannot be heard, in whole clips: says that a machine spoke, to whoever has the key.

The original marks what it makes with silentcipher (SesameAILabs/csm, watermarking.py); here it is off unless a key is
set, and the key is the operator's own. A mark needs a whole clip: sound that is streamed is not marked, and whoever
offers both must say so. Knows no model of speech. silentcipher brings torch, which is imported where it is used.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from audio_utils import Audio
from speech.errors import StartupError

MODEL_RATE_HZ = 44_100
MESSAGE_SDR_DB = 36
"""How far the mark lies below the speech, as the original has it."""


def read_key(text: str) -> tuple[int, ...]:
    """A key as an operator writes it: five numbers of 0 to 255, `212,211,146,56,201`."""
    try:
        key = tuple(int(part) for part in text.split(","))
    except ValueError:
        key = ()
    if len(key) != 5 or not all(0 <= part <= 255 for part in key):
        raise StartupError(f"watermark key {text!r} will not do; write five numbers of 0 to 255 with commas between")
    return key


class Watermark:
    """Marks clips with `key`, and tells whether a clip has it. model: silentcipher's, loaded where None is given."""

    def __init__(self, key: tuple[int, ...], *, device: str = "cpu", model: Any = None) -> None:
        self._key = list(key)
        if model is None:
            try:
                import silentcipher
            except ImportError as error:
                raise StartupError("a watermark key is set, but the package silentcipher is not installed") from error
            model = silentcipher.get_model(model_type="44.1k", device=device)
        self._model = model

    def mark(self, audio: Audio) -> Audio:
        """`audio` with the mark in it, as long as before and at the same rate."""
        import torch

        with torch.inference_mode():
            samples = torch.from_numpy(audio.resampled(MODEL_RATE_HZ).samples)
            marked, _ = self._model.encode_wav(
                samples, MODEL_RATE_HZ, self._key, calc_sdr=False, message_sdr=MESSAGE_SDR_DB
            )
        wide = Audio(np.asarray(marked, dtype=np.float32).reshape(-1), MODEL_RATE_HZ)
        back = wide.resampled(audio.sample_rate_hz).samples[: len(audio.samples)]
        back = np.pad(back, (0, len(audio.samples) - len(back)))
        return Audio(np.clip(back, -1.0, 1.0), audio.sample_rate_hz)

    def found_in(self, audio: Audio) -> bool:
        """Whether `audio` carries this key."""
        import torch

        with torch.inference_mode():
            samples = torch.from_numpy(audio.resampled(MODEL_RATE_HZ).samples)
            found = self._model.decode_wav(samples, MODEL_RATE_HZ, phase_shift_decoding=True)
        return bool(found["status"]) and list(found["messages"][0]) == self._key
