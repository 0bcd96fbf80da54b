"""LiveKit's OpenAI plugin against the server: it reads each answer by its Content-Type."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from livekit.agents import APIConnectOptions, APIStatusError
from livekit.plugins import openai

from audio_utils import Audio
from tests import ears
from tests.conftest import Served

TEXT = "Please leave a message after the tone."


def heard(served: Served, text: str = TEXT, **options: str) -> Audio:
    """What its agents would play."""

    async def listen() -> Audio:
        tts = openai.TTS(base_url=f"{served.url}/v1", api_key="none", **options)
        try:
            async with tts.synthesize(text, conn_options=APIConnectOptions(max_retry=0)) as stream:
                frames = [event.frame async for event in stream]
        finally:
            await tts.aclose()
        samples = np.concatenate([np.frombuffer(frame.data, np.int16) for frame in frames])
        assert {frame.num_channels for frame in frames} == {1}
        return Audio(samples.astype(np.float32) / 32768, frames[0].sample_rate)

    return asyncio.run(listen())


@pytest.mark.parametrize(
    "options",
    [
        {"response_format": "pcm"},
        {"response_format": "wav"},
        {"response_format": "opus"},
        {"model": "tts-1"},
        {"model": "tts-1-hd", "response_format": "pcm"},
        {"model": "tts-1", "response_format": "flac"},
        {"model": "tts-1", "response_format": "aac"},
    ],
    ids=str,
)
def test_every_way_it_asks(hibari: Served, options: dict[str, str]) -> None:
    usual = ears.sound(hibari.speak(text=TEXT).content)
    audio = heard(hibari, **options)
    assert audio.sample_rate_hz == 24_000
    assert audio.duration_ms == pytest.approx(usual.duration_ms, abs=150)


def test_what_it_asks_for_unless_told_says_the_words(hibari: Served) -> None:
    assert ears.word_error_rate(TEXT, heard(hibari)) <= 0.15


def test_a_mistake_reaches_it(hibari: Served) -> None:
    with pytest.raises(APIStatusError) as raised:
        heard(hibari, voice="nobody")
    assert raised.value.status_code == 400
    assert not raised.value.retryable
