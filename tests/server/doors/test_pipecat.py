"""Pipecat's OpenAI service in a pipeline of its own: raw 24 kHz PCM, OpenAI's voices only."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from pipecat.frames.frames import ErrorFrame, Frame, TTSAudioRawFrame, TTSSpeakFrame, TTSStoppedFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.services.openai.tts import VALID_VOICES, OpenAITTSService
from pipecat.tests.utils import run_test

from audio_utils import Audio
from speech.voices.catalogue import ALIASES
from tests import ears
from tests.conftest import Served

TEXT = "The library closes in ten minutes."


def frames(served: Served, voice: str, speed: float | None = None) -> list[Frame]:
    async def run() -> list[Frame]:
        settings = OpenAITTSService.Settings(voice=voice, speed=speed)
        service = OpenAITTSService(
            api_key="none",
            base_url=f"{served.url}/v1",
            settings=settings,
            stop_frame_timeout_s=60,  # else it gives up after 3 s without sound, which a busy test machine may need
        )
        down, up = await run_test(Pipeline([service]), frames_to_send=[TTSSpeakFrame(TEXT)])
        return [*down, *up]

    return asyncio.run(run())


def sound(heard: list[Frame]) -> Audio:
    pieces = [frame for frame in heard if isinstance(frame, TTSAudioRawFrame)]
    assert {(piece.sample_rate, piece.num_channels) for piece in pieces} == {(24_000, 1)}
    pcm = b"".join(piece.audio for piece in pieces)
    return Audio(np.frombuffer(pcm, "<i2").astype(np.float32) / 32768, 24_000)


def test_a_pipeline_says_the_words(hibari: Served) -> None:
    heard = frames(hibari, "sage")
    assert not any(isinstance(frame, ErrorFrame) for frame in heard)
    assert any(isinstance(frame, TTSStoppedFrame) for frame in heard)
    assert ears.word_error_rate(TEXT, sound(heard)) <= 0.2


def test_its_speed_is_kept(hibari: Served) -> None:
    usual, fast = sound(frames(hibari, "alloy")), sound(frames(hibari, "alloy", speed=2))
    assert fast.duration_ms / usual.duration_ms == pytest.approx(0.5, abs=0.1)


def test_every_voice_it_allows_is_here() -> None:
    assert set(VALID_VOICES) == set(ALIASES)
