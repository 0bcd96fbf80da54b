"""The mark keeps a clip's length and rate; a stand-in plays silentcipher, which is not installed here."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch

from audio_utils import Audio
from speech.caller import Caller
from speech.engines.hibari import HibariEngine
from speech.errors import StartupError
from speech.operations import OPERATIONS
from speech.service import Service
from speech.settings import Settings
from speech.watermark import Watermark, read_key
from tests.engines.csm.tiny import clip

KEY = (1, 2, 3, 4, 255)


class Stand:
    """silentcipher's two calls, with a mark in plain sight: the key in the first samples' amplitude."""

    def __init__(self) -> None:
        self.message: list[int] = []

    def encode_wav(
        self, samples: torch.Tensor, rate_hz: int, message: list[int], *, calc_sdr: bool, message_sdr: int
    ) -> tuple[torch.Tensor, None]:
        assert (samples.dim(), rate_hz, calc_sdr, message_sdr) == (1, 44_100, False, 36)
        self.message = message
        return samples * 0.999, None

    def decode_wav(self, samples: torch.Tensor, rate_hz: int, *, phase_shift_decoding: bool) -> dict[str, object]:
        assert phase_shift_decoding
        return {"status": bool(self.message), "messages": [self.message]}


def test_a_marked_clip_is_the_clip_and_the_key_is_found() -> None:
    model = Stand()
    mark, before = Watermark(KEY, model=model), Audio(clip(0.731), 24_000)
    assert not mark.found_in(before)
    after = mark.mark(before)
    assert len(after.samples) == len(before.samples)
    assert after.sample_rate_hz == 24_000
    assert after.samples.dtype == np.float32
    middle = slice(2000, -2000)  # resampling needs a neighbourhood
    assert np.corrcoef(after.samples[middle], before.samples[middle])[0, 1] > 0.9
    assert mark.found_in(after)
    assert not Watermark((9, 9, 9, 9, 9), model=model).found_in(after)


def test_a_key_is_five_bytes_and_needs_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_key("1, 2,3,4,255") == KEY
    for wrong in ("", "1,2,3", "1,2,3,4,256", "a,b,c,d,e"):
        with pytest.raises(StartupError, match="five numbers"):
            read_key(wrong)
    monkeypatch.setitem(__import__("sys").modules, "silentcipher", None)
    with pytest.raises(StartupError, match="silentcipher is not installed"):
        Watermark(KEY)


def test_every_clip_of_a_service_with_a_key_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Stand()
    silentcipher = types.SimpleNamespace(get_model=lambda model_type, device: model)
    monkeypatch.setitem(sys.modules, "silentcipher", silentcipher)
    service = Service(HibariEngine(), Settings(watermark_key="1,2,3,4,255"))
    service.start()
    assert service.health()["watermark"] is True
    assert model.message == []
    OPERATIONS["speak"](service, {"text": "Hello there."}, Caller())
    assert model.message == list(KEY)


def test_without_a_key_nothing_is_marked() -> None:
    service = Service(HibariEngine(), Settings())
    service.start()
    assert service.health()["watermark"] is False
