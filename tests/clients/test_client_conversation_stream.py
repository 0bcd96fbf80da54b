"""A turn that is heard while it is made is remembered when it was heard to its end, and only then."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import suppress
from typing import Any

import httpx
import pytest

from clients import AsyncTTSClient, Busy, InvalidRequest, TTSClient
from tests.clients.streams import DONE, START, Answer, Answers, Pieces, delta, failed, written

ONE = written(START, delta(b"o"), delta(b"ne"), DONE)


def context(request: httpx.Request) -> list[tuple[str, int, bytes]]:
    given = json.loads(request.content).get("context", [])
    return [(s["text"], s["speaker"], base64.b64decode(s["audio_b64"])) for s in given]


def client(answers: Answers) -> TTSClient:
    return TTSClient("http://tts", transport=httpx.MockTransport(answers), retries=0)


def test_a_turn_that_was_heard_is_context_for_the_next() -> None:
    answers = Answers(Pieces(ONE), Pieces(ONE))
    conversation = client(answers).conversation()
    with conversation.stream("one", speaker=0, seed=3, voice="anna") as stream:
        assert [*stream] == [b"o", b"ne"]
        assert stream.seed == 9
    assert json.loads(answers.requests[0].content) == {
        "text": "one",
        "speaker": 0,
        "seed": 3,
        "voice": "anna",
        "response_format": "flac",
    }
    with conversation.stream("two") as stream:
        assert stream.collect() == b"one"
    assert context(answers.requests[1]) == [("one", 0, b"one")]
    assert [(s.text, s.speaker, s.audio) for s in conversation.segments] == [("one", 0, b"one"), ("two", 1, b"one")]
    with pytest.raises(ValueError, match="pcm"), conversation.stream("three", response_format="pcm"):
        pass


def test_what_was_not_heard_to_its_end_is_not_remembered() -> None:
    broken = written(START, delta(b"one"), failed("busy", "full"))
    answers = Answers(Pieces(ONE), Pieces(broken), httpx.Response(429), Pieces(ONE))
    conversation = client(answers).conversation()
    with conversation.stream("left early") as stream:
        next(stream)
    with pytest.raises(Busy), conversation.stream("broken off") as stream:
        list(stream)
    with pytest.raises(Busy), conversation.stream("refused"):
        pass
    assert conversation.segments == ()
    with suppress(KeyError), conversation.stream("heard, and then the caller's own mistake") as stream:
        list(stream)
        raise KeyError
    assert len(conversation.segments) == 1


def test_the_servers_own_sound_refused_as_context_is_left_out() -> None:
    refusal = {"detail": "context[0].audio_b64: is too short", "field": "context[0].audio_b64"}
    told = failed("invalid_input", "context[0].audio_b64: is too short", "context[0].audio_b64")
    second: list[Answer] = [httpx.Response(400, json=refusal), Pieces(written(told))]
    for answer in second:
        answers = Answers(Pieces(ONE), answer, Pieces(ONE), httpx.Response(400, json={"field": "text"}))
        conversation = client(answers).conversation()
        for text in ("one", "two"):
            with conversation.stream(text) as stream:
                list(stream)
        assert context(answers.requests[2]) == []
        assert [s.text for s in conversation.segments] == ["two"]
        with pytest.raises(InvalidRequest), conversation.stream("three"):
            pass


def test_asynchronous() -> None:
    refusal: dict[str, Any] = {"detail": "no", "field": "context[0].audio_b64"}
    answers = Answers(Pieces(ONE), Pieces(ONE), httpx.Response(400, json=refusal), Pieces(ONE), httpx.Response(429))

    async def talk() -> None:
        async with AsyncTTSClient("http://tts", transport=httpx.MockTransport(answers), retries=0) as client:
            conversation = client.conversation()
            async with conversation.stream("one", speaker=0) as stream:
                assert [sound async for sound in stream] == [b"o", b"ne"]
            async with conversation.stream("left early") as stream:
                await anext(stream)
            assert [s.text for s in conversation.segments] == ["one"]
            async with conversation.stream("two") as stream:
                assert await stream.collect() == b"one"
            assert [s.text for s in conversation.segments] == ["two"]
            with pytest.raises(Busy):
                async with conversation.stream("three"):
                    pass

    asyncio.run(talk())
    assert context(answers.requests[1]) == [("one", 0, b"one")]
