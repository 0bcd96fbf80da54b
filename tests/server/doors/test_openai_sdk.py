"""OpenAI's own SDK against the server: what it gets, what it raises, and when it tries again."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from tests import ears
from tests.conftest import ROOT, Served
from tests.server.conftest import Guarded

TEXT = "Nobody expected the ferry to arrive so early."
WOMAN = ROOT / "tests" / "data" / "recordings" / "psx__austen_f.wav"


class Counted(openai.OpenAI):
    """A client that counts the answers it gets, and can be told of each."""

    def __init__(self, served: Served | Guarded, key: str = "none", **options: Any) -> None:
        self.statuses: list[int] = []
        self.heard: Callable[[], None] = lambda: None
        http = httpx2.Client(event_hooks={"response": [self._count]})
        super().__init__(base_url=f"{served.url}/v1", api_key=key, http_client=http, **options)

    def _count(self, response: httpx2.Response) -> None:
        self.statuses.append(response.status_code)
        self.heard()


@pytest.fixture
def sdk(hibari: Served) -> Iterator[Counted]:
    with Counted(hibari) as sdk:
        yield sdk


def test_a_file_is_written_and_says_the_words(sdk: Counted, tmp_path: Path) -> None:
    speech = sdk.audio.speech.create(model="gpt-4o-mini-tts", voice="coral", input=TEXT, instructions="Cheerful.")
    speech.write_to_file(tmp_path / "speech.mp3")
    assert ears.word_error_rate(TEXT, ears.sound((tmp_path / "speech.mp3").read_bytes())) <= 0.15


def test_a_stream_comes_in_pieces_and_is_the_same(sdk: Counted, tmp_path: Path) -> None:
    wanted: Any = {
        "model": "tts-1",
        "voice": "nova",
        "input": TEXT,
        "extra_body": {"seed": 3},
        "response_format": "wav",
    }
    with sdk.audio.speech.with_streaming_response.create(**wanted) as response:
        response.stream_to_file(tmp_path / "speech.wav")
    whole = sdk.audio.speech.create(**wanted).content
    assert (tmp_path / "speech.wav").read_bytes() == whole
    assert ears.sound(whole).duration_ms > 1500


def test_events_of_the_asynchronous_client(hibari: Served) -> None:
    async def listen() -> tuple[bytes, dict[str, int], bytes]:
        async with openai.AsyncOpenAI(base_url=f"{hibari.url}/v1", api_key="none") as sdk:
            wanted: Any = {"model": "tts-1", "voice": "alloy", "input": TEXT, "extra_body": {"seed": 3}}
            wanted |= {"response_format": "pcm"}
            sound, usage = b"", {}
            streamed = sdk.audio.speech.with_streaming_response.create(**wanted, stream_format="sse")
            async with streamed as response:
                async for line in response.iter_lines():
                    event = json.loads(line.removeprefix("data: ")) if line else {"type": "none"}
                    if event["type"] == "speech.audio.delta":
                        sound += base64.b64decode(event["audio"])
                    elif event["type"] == "speech.audio.done":
                        usage = event["usage"]
            whole = await sdk.audio.speech.create(**wanted, stream_format="audio")
            return sound, usage, await whole.aread()

    sound, usage, whole = asyncio.run(listen())
    assert sound == whole
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 2


def test_models(sdk: Counted) -> None:
    assert {"hibari", "tts-1", "tts-1-hd", "gpt-4o-mini-tts"} == {model.id for model in sdk.models.list()}
    assert sdk.models.retrieve("tts-1").id == "tts-1"
    with pytest.raises(openai.NotFoundError, match="no such model"):
        sdk.models.retrieve("gpt-5")


def test_a_mistake_is_told_once(sdk: Counted) -> None:
    with pytest.raises(openai.BadRequestError, match="speed") as raised:
        sdk.audio.speech.create(model="tts-1", voice="alloy", input=TEXT, speed=40)
    assert (raised.value.param, raised.value.code) == ("speed", "invalid_input")
    assert raised.value.request_id
    assert sdk.statuses == [400]


def test_a_full_server_is_asked_again_when_it_said(serve: Callable[..., Served]) -> None:
    served = serve(engine="hibari", queue="0")
    story = "A long story, told at length. " * 300
    with (
        Counted(served) as other,
        Counted(served, max_retries=0) as hasty,
        Counted(served, max_retries=5) as patient,
        other.audio.speech.with_streaming_response.create(model="tts-1", voice="alloy", input=story) as speaking,
    ):
        with pytest.raises(openai.RateLimitError) as raised:
            hasty.audio.speech.create(model="tts-1", voice="alloy", input="Hi.")
        patient.heard = speaking.close  # so there is a place by the time it tries again
        assert patient.audio.speech.create(model="tts-1", voice="alloy", input="Hi.").content
    assert (raised.value.code, hasty.statuses) == ("busy", [429])
    assert int(raised.value.response.headers["retry-after"]) >= 1
    assert (patient.statuses[0], patient.statuses[-1]) == (429, 200)


def test_keys(guarded: Guarded, key: str) -> None:
    with Counted(guarded, key) as sdk:
        assert sdk.audio.speech.create(model="tts-1", voice="alloy", input="Hi.").content
    with Counted(guarded, "wrong") as sdk:
        with pytest.raises(openai.AuthenticationError) as raised:
            sdk.audio.speech.create(model="tts-1", voice="alloy", input="Hi.")
        assert raised.value.code == "invalid_api_key"
        assert sdk.statuses == [401]
        with pytest.raises(openai.AuthenticationError):
            sdk.audio.voices.create(name="jane", consent="yes", audio_sample=WOMAN)


def test_a_voice_of_one_s_own(kokoro: Served) -> None:
    with Counted(kokoro) as sdk:
        voice = sdk.audio.voices.create(name="sdk jane", consent="cons_1", audio_sample=WOMAN)
        assert (voice.name, voice.object, voice.type) == ("sdk jane", "audio.voice", "audio_sample")
        said = sdk.audio.speech.create(model="tts-1", voice={"id": voice.id}, input="Hello.")
        assert said.response.headers["x-voice"].startswith("match:")
        deleted = sdk.audio.voices.delete(voice.id)
        assert (deleted.id, deleted.deleted) == (voice.id, True)
        with pytest.raises(openai.NotFoundError):
            sdk.audio.voices.delete(voice.id)
