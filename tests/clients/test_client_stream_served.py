"""Streams from a real server: what is heard, and what the server does when nobody hears it any more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from clients import AsyncTTSClient, InvalidRequest, TTSClient
from tests import ears
from tests.conftest import Served

STORY = "The hallway smelt of boiled cabbage and old rag mats. Nobody was there to meet him. "


def test_every_word_is_heard(hibari: Served) -> None:
    with TTSClient(hibari.url) as client, client.stream(STORY, seed=3) as stream:
        assert (stream.seed, stream.media_type, stream.sample_rate_hz) == (3, "audio/wav", 24_000)
        assert stream.first_audio_s > 0
        speech = stream.collect()
    assert ears.word_error_rate(STORY, ears.sound(speech)) <= 0.2
    assert stream.duration_ms == pytest.approx(ears.sound(speech).duration_ms, abs=1)
    assert (stream.truncated, stream.complete) == (False, True)
    assert 0 < stream.first_audio_ms < 1000 * stream.first_audio_s
    assert stream.usage.keys() == {"input_tokens", "output_tokens", "total_tokens"}
    assert speech.duration_ms == stream.duration_ms


def test_a_stream_is_the_same_for_threads_and_for_asyncio(hibari: Served) -> None:
    wanted: Any = {"seed": 3, "speed": 1.5, "response_format": "pcm"}
    with TTSClient(hibari.url) as client:
        whole = client.stream("Nobody was there.", **wanted).collect()
        assert len(client.speak("Nobody was there.", **wanted)) == pytest.approx(len(whole), rel=0.15)

        async def collected() -> bytes:
            async with AsyncTTSClient(hibari.url) as quick, quick.stream("Nobody was there.", **wanted) as stream:
                return b"".join([sound async for sound in stream])

        assert asyncio.run(collected()) == whole


def test_leaving_early_frees_the_server(hibari: Served) -> None:
    with TTSClient(hibari.url) as client:
        with client.stream(STORY * 50, max_duration_ms=90_000) as stream:
            next(stream)
        while (health := client.health())["speaking"] or health["queue_length"]:
            time.sleep(0.02)  # for ever, where it is not freed
    assert not stream.complete


def test_a_server_without_a_place_is_asked_again(serve: Callable[..., Served]) -> None:
    served = serve(engine="hibari", queue="0")
    waits: list[float] = []
    with TTSClient(served.url) as first, first.stream(STORY * 50, max_duration_ms=90_000) as long:

        def wait(seconds: float) -> None:
            waits.append(seconds)
            long.close()
            time.sleep(0.05)

        with TTSClient(served.url, sleep=wait, retries=1000) as second:
            assert second.stream("Nobody was there.", max_duration_ms=9000).collect().duration_ms > 500
    assert waits


def test_a_conversation_that_is_heard_as_it_goes(hibari: Served) -> None:
    with TTSClient(hibari.url) as client:
        conversation = client.conversation()
        for text in ("Shall we begin?", "Whenever you like."):
            with conversation.stream(text) as stream:
                assert b"".join(stream)[:4] == b"fLaC"
    assert conversation.segments[-1].text == "Whenever you like."


def test_a_voice_that_is_not_there(hibari: Served) -> None:
    with TTSClient(hibari.url) as client, pytest.raises(InvalidRequest) as caught:
        client.stream("Hello.", voice="nobody").collect()
    assert caught.value.field == "voice"
