"""What a conversation carries from turn to turn, and what it forgets."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from clients import AsyncTTSClient, InvalidRequest, Segment, ServerFailed, TTSClient
from clients.conversation import Memory
from clients.values import Speech


class Echo:
    """Answers each text with its own bytes as sound, and keeps the bodies. Refuses sounds it cannot hear."""

    def __init__(self, deaf_to: bytes = b"") -> None:
        self.bodies: list[dict[str, Any]] = []
        self.deaf_to = deaf_to

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        self.bodies.append(body)
        if body["text"] == "CRASH":
            return httpx.Response(500, json={"detail": "broke"})
        for index, segment in enumerate(body.get("context", [])):
            if base64.b64decode(segment["audio_b64"]) == self.deaf_to:
                field = f"context[{index}].audio_b64"
                return httpx.Response(400, json={"detail": f"{field}: is too short", "field": field})
        return httpx.Response(200, content=body["text"].encode(), headers={"Content-Type": "audio/flac"})

    def context(self) -> list[tuple[str, int, bytes]]:
        """That of the last request."""
        given = self.bodies[-1].get("context", [])
        return [(s["text"], s["speaker"], base64.b64decode(s["audio_b64"])) for s in given]

    def client(self) -> TTSClient:
        return TTSClient("http://tts", transport=httpx.MockTransport(self), retries=0)


def test_each_turn_carries_those_before_it() -> None:
    echo = Echo()
    conversation = echo.client().conversation()
    assert conversation.say("one", speaker=0, seed=3, max_duration_ms=900) == b"one"
    assert echo.bodies[0] == {
        "text": "one",
        "speaker": 0,
        "seed": 3,
        "max_duration_ms": 900,
        "response_format": "flac",
    }
    conversation.heard("two", 1, b"recorded")
    assert conversation.say("three").media_type == "audio/flac"
    assert echo.bodies[1]["speaker"] == 1
    assert echo.context() == [("one", 0, b"one"), ("two", 1, b"recorded")]
    assert [s.text for s in conversation.segments] == ["one", "two", "three"]


def test_the_oldest_is_forgotten_first_and_the_reference_never(tmp_path: Path) -> None:
    reference = tmp_path / "ref.wav"
    reference.write_bytes(b"voice")
    echo = Echo()
    conversation = echo.client().conversation(max_segments=3, reference=Segment("ref", reference, 1))
    for text in ("one", "two", "three", "four"):
        conversation.say(text)
    assert echo.context() == [("ref", 1, b"voice"), ("two", 1, b"two"), ("three", 1, b"three")]


def test_the_bytes_are_bounded() -> None:
    echo = Echo()
    conversation = echo.client().conversation(max_bytes=9, reference=[Segment("ref", b"voi", 0)])
    for text in ("aaa", "bbb", "ccc"):
        conversation.say(text)
    assert [s.text for s in conversation.segments] == ["ref", "bbb", "ccc"]
    conversation.heard("too long to keep", 0, b"1234567")
    assert [s.text for s in conversation.segments] == ["ref"]


def test_references_over_the_bounds_are_refused() -> None:
    client = Echo().client()
    with pytest.raises(ValueError, match="reference"):
        client.conversation(max_segments=1, reference=[Segment("a", b"a"), Segment("b", b"b")])
    with pytest.raises(ValueError, match="reference"):
        client.conversation(max_bytes=3, reference=Segment("a", b"long"))
    with pytest.raises(FileNotFoundError):
        client.conversation(reference=Segment("a", "no such file.wav"))


def test_sound_without_a_header_is_refused() -> None:
    client = Echo().client()
    with pytest.raises(ValueError, match="pcm"):
        client.conversation(response_format="pcm")
    with pytest.raises(ValueError, match="pcm"):
        client.conversation().say("Hello", response_format="pcm")


def test_another_format_for_one_turn() -> None:
    echo = Echo()
    conversation = echo.client().conversation(response_format="wav")
    conversation.say("one", response_format="mp3")
    conversation.say("two")
    assert [body["response_format"] for body in echo.bodies] == ["mp3", "wav"]


def test_a_turn_that_failed_is_not_remembered() -> None:
    conversation = Echo().client().conversation()
    conversation.say("one")
    with pytest.raises(ServerFailed):
        conversation.say("CRASH")
    assert [s.text for s in conversation.segments] == ["one"]


def test_the_servers_own_sound_refused_as_context_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    echo = Echo(deaf_to=b"Yes.")
    conversation = echo.client().conversation(reference=Segment("ref", b"voice"))
    for text in ("one", "Yes.", "three"):
        conversation.say(text)
    assert echo.context() == [("ref", 0, b"voice"), ("one", 1, b"one")]
    assert [s.text for s in conversation.segments] == ["ref", "one", "three"]
    assert "'Yes.': context[2].audio_b64: is too short" in caplog.text


@pytest.mark.parametrize("given", ["reference", "heard"])
def test_the_callers_own_sound_refused_is_the_callers_to_mend(given: str) -> None:
    client = Echo(deaf_to=b"garbled").client()
    conversation = client.conversation(reference=Segment("ref", b"garbled") if given == "reference" else ())
    if given == "heard":
        conversation.heard("what", 0, b"garbled")
    for _ in range(2):
        with pytest.raises(InvalidRequest):
            conversation.say("one")
    assert len(conversation.segments) == 1


@pytest.mark.parametrize("field", [None, "text", "context", "context[9].audio_b64", "context[1].audio_b64"])
def test_other_refusals_forget_nothing(field: str | None) -> None:
    memory = Memory(5, 100, (), "flac")
    memory.remember(Segment("one", Speech(b"one")))
    assert not memory.forget_refused(InvalidRequest("no", status=400, field=field))
    assert len(memory.segments) == 1


def test_asynchronous() -> None:
    echo = Echo(deaf_to=b"Yes.")

    async def talk() -> None:
        async with AsyncTTSClient("http://tts", transport=httpx.MockTransport(echo), retries=0) as client:
            conversation = client.conversation(max_segments=2)
            await conversation.say("one", speaker=0)
            await conversation.say("Yes.")
            conversation.heard("two", 0, b"recorded")
            assert (await conversation.say("three")) == b"three"
            with pytest.raises(InvalidRequest):
                conversation.heard("bad", 0, b"Yes.")
                await conversation.say("four")

    asyncio.run(talk())
    assert ("two", 0, b"recorded") not in echo.context()
    assert echo.context() == [("three", 1, b"three"), ("bad", 0, b"Yes.")]
