"""What a stream yields and tells, what it raises and when, what is sent again; both clients alike."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clients import (
    APIStatusError,
    Busy,
    ConnectionFailed,
    InvalidRequest,
    ServerFailed,
    TimedOut,
    TTSError,
    UnreadableAnswer,
)
from clients.errors import STATUS_OF_CODE
from speech.errors import STATUS
from tests.clients.streams import (
    DONE,
    START,
    Answer,
    Answers,
    Pieces,
    Streaming,
    delta,
    failed,
    streaming,
    written,
)

Open = Callable[..., tuple[Answers, Streaming]]
WHOLE = written(START, delta(b"one"), delta(b"two"), DONE)


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def on(request: pytest.FixtureRequest) -> Iterator[Open]:
    """`stream` of a client, on the answers given."""
    with ExitStack() as running:

        def on(*answers: Answer, **options: Any) -> tuple[Answers, Streaming]:
            all_of_them = Answers(*answers)
            return all_of_them, running.enter_context(streaming(request.param, all_of_them, **options))

        yield on


def test_the_sound_as_it_comes_and_what_is_told(on: Open) -> None:
    pieces = Pieces(written(START, delta(b"one")), written(delta(b"two")), written(DONE))
    answers, stream = on(pieces)
    with stream("Hello", seed=3, voice="anna", speed=1.5, session_id="s1") as speech:
        assert pieces.read == 1
        told = (speech.media_type, speech.response_format, speech.sample_rate_hz, speech.seed, speech.voice)
        assert told == ("audio/mpeg", "mp3", 24_000, 9, "anna")
        assert 0 <= speech.first_audio_s < 60
        assert (speech.duration_ms, speech.first_audio_ms, speech.usage, speech.complete) == (None, None, None, False)
        assert next(speech) == b"one"
        assert (pieces.read, speech.received_bytes) == (1, 3)
        assert list(speech) == [b"two"]
        assert (speech.duration_ms, speech.first_audio_ms, speech.truncated) == (1200, 45.2, True)
        assert (speech.usage["total_tokens"], speech.complete, speech.received_bytes) == (18, True, 6)
        assert (speech.session_id, speech.headers["X-Request-Id"]) == ("s1", "r1")
        assert list(speech) == []
    assert pieces.closed
    (request,) = answers.requests
    assert (request.method, request.url.path, request.headers["Accept"]) == (
        "POST",
        "/stream_speak",
        "text/event-stream",
    )
    assert json.loads(request.content) == {
        "text": "Hello",
        "seed": 3,
        "voice": "anna",
        "speed": 1.5,
        "session_id": "s1",
    }


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(0, len(WHOLE)), max_size=8).map(sorted))
def test_the_bytes_are_the_same_however_the_network_divides_them(cuts: list[int]) -> None:
    pieces = [WHOLE[start:end] for start, end in zip([0, *cuts], [*cuts, len(WHOLE)], strict=True)]
    with streaming(False, Answers(Pieces(*pieces))) as stream:
        assert list(stream("Hello")) == [b"one", b"two"]


def test_nothing_is_sent_before_it_is_wanted(on: Open) -> None:
    answers, stream = on(Pieces(WHOLE))
    speech = stream("Hello", seed=3, response_format="flac")
    assert (answers.requests, speech.seed, speech.media_type, speech.first_audio_s) == ([], 3, "audio/flac", None)
    assert list(speech) == [b"one", b"two"]
    with pytest.raises(TypeError, match="'sped' is not an option"):
        stream("Hello", sped=2)


def test_collected_it_is_a_speech(on: Open) -> None:
    _, stream = on(Pieces(WHOLE), Pieces(WHOLE), Pieces(written(START | {"voice": "Zoë"}, delta(b"x"), DONE)))
    speech = stream("Hello").collect()
    assert speech == b"onetwo"
    assert (speech.media_type, speech.seed, speech.voice) == ("audio/mpeg", 9, "anna")
    assert (speech.duration_ms, speech.truncated, speech.request_id) == (1200, True, "r1")
    with stream("Hello") as open_stream:
        assert open_stream.collect() == b"onetwo"
        with pytest.raises(ValueError, match="taken already"):
            open_stream.collect()
    assert stream("Hello").collect().voice == "Zoë"


def test_a_collected_wav_has_its_true_sizes(on: Open) -> None:
    form = struct.pack("<HHIIHH", 1, 1, 24_000, 48_000, 2, 16)
    head = b"RIFF\xff\xff\xff\xffWAVEfmt " + struct.pack("<I", len(form)) + form + b"data\xff\xff\xff\xff"
    _, stream = on(Pieces(written(START, delta(head + b"ab"), delta(b"cd"), DONE)))
    speech = stream("Hello").collect()
    assert speech[-4:] == b"abcd"
    assert struct.unpack_from("<I", speech, 4) == (len(speech) - 8,)
    assert struct.unpack_from("<I", speech, len(speech) - 8) == (4,)


def test_what_nobody_knows_is_passed_over(on: Open) -> None:
    noise = b": ping\r\n\r\nevent: ping\ndata: 12:00\n\n" + written(
        {"type": "later.version"}, {"no": "type"}, delta(b"")
    )
    _, stream = on(
        Pieces(noise + WHOLE.replace(b'"type": "speech.audio.done"', b'"new": 1, "type": "speech.audio.done"'))
    )
    assert stream("Hello").collect() == b"onetwo"


def test_odd_facts_are_no_facts(on: Open) -> None:
    odd = {"type": "speech.audio.start", "seed": "9", "voice": None, "sample_rate_hz": [], "response_format": 5}
    _, stream = on(Pieces(written(odd, delta(b"x"), {"type": "speech.audio.done", "usage": "much"})))
    with stream("Hello", seed=3, voice="anna") as speech:
        assert list(speech) == [b"x"]
        assert (speech.seed, speech.voice, speech.sample_rate_hz, speech.response_format) == (None, None, None, "wav")
        assert (speech.usage, speech.duration_ms, speech.truncated) == (None, None, False)


AGAIN: list[Callable[[], Answer]] = [
    lambda: httpx.Response(429, headers={"Retry-After": "1"}),
    lambda: httpx.Response(502),
    lambda: httpx.Response(503),
    lambda: httpx.ConnectError(""),
    lambda: httpx.ReadError(""),
    lambda: Pieces(written(START, failed("busy", "full"))),
    lambda: Pieces(written(failed("not_ready", "loading"))),
    lambda: Pieces(written(START), httpx.ReadError("")),
    lambda: Pieces(written(START)),
    Pieces,
]
"""What comes before the first sound, and is no reason to give up."""


@pytest.mark.parametrize("answer", AGAIN, ids=range(len(AGAIN)))
def test_sent_again_before_the_first_sound(on: Open, answer: Any) -> None:
    first = answer()
    answers, stream = on(first, Pieces(WHOLE))
    assert stream("Hello").collect() == b"onetwo"
    assert len(answers.waits) == 1
    assert not isinstance(first, Pieces) or first.closed


@pytest.mark.parametrize("answer", [AGAIN[1], AGAIN[4], AGAIN[7], AGAIN[8]], ids=range(4))
def test_a_session_is_not_told_twice(on: Open, answer: Any) -> None:
    answers, stream = on(answer(), Pieces(WHOLE))
    with pytest.raises(TTSError):
        stream("Hello", session_id="s1").collect()
    assert len(answers.requests) == 1


@pytest.mark.parametrize("answer", [AGAIN[0], AGAIN[2], AGAIN[3], AGAIN[5], AGAIN[6]], ids=range(5))
def test_a_session_refused_is_asked_again(on: Open, answer: Any) -> None:
    _, stream = on(answer(), Pieces(WHOLE))
    assert stream("Hello", session_id="s1").collect() == b"onetwo"


REFUSED: list[tuple[Callable[[], Answer], type[TTSError], str]] = [
    (lambda: httpx.Response(400, json={"detail": "text: no"}), InvalidRequest, "text: no"),
    (lambda: httpx.Response(500, json={"detail": "broke"}), ServerFailed, "broke"),
    (lambda: httpx.ReadTimeout(""), TimedOut, "did not answer in time"),
    (lambda: Pieces(written(failed("invalid_input", "text: no", "text"))), InvalidRequest, "text: no"),
    (lambda: Pieces(written(failed("engine_failed", "broke"))), ServerFailed, "broke"),
    (lambda: Pieces(written({"error": {"message": "upstream", "code": "x"}})), ServerFailed, "upstream"),
    (lambda: Pieces(written({"error": "upstream"})), ServerFailed, "upstream"),
    (lambda: Pieces(b"event: error\ndata: {}\n\n"), ServerFailed, "HTTP 500"),
    (lambda: Pieces(b"data: [DONE]\n\n"), UnreadableAnswer, "no JSON object"),
    (lambda: Pieces(b"data: " + b"[" * 100_000 + b"\n\n"), UnreadableAnswer, "no JSON object"),
    (lambda: Pieces(written(START, {"type": "speech.audio.delta", "audio": "?"})), UnreadableAnswer, "base64"),
    (lambda: Pieces(written(START, {"type": "speech.audio.delta"})), UnreadableAnswer, "base64"),
    (lambda: Pieces(written(START, DONE)), UnreadableAnswer, "without any sound"),
    (lambda: Pieces(*[b"x" * (1 << 20)] * 40), UnreadableAnswer, "larger than"),
    (lambda: httpx.Response(200, json={"audio": "…"}), UnreadableAnswer, "application/json, not with events"),
    (lambda: httpx.Response(200, content=b"RIFF"), UnreadableAnswer, "no type, not with events"),
]


@pytest.mark.parametrize(("answer", "kind", "words"), REFUSED, ids=range(len(REFUSED)))
def test_refused_before_the_first_sound(on: Open, answer: Any, kind: type[TTSError], words: str) -> None:
    only = answer()
    answers, stream = on(only)
    speech = stream("Hello")
    with pytest.raises(kind, match=words):
        speech.__enter__()
    with pytest.raises(kind, match=words):  # and not a quiet end
        next(speech)
    assert len(answers.requests) == 1
    assert not isinstance(only, Pieces) or only.closed


def test_the_last_refusal_is_raised(on: Open) -> None:
    answers, stream = on(*[Pieces(written(failed("busy", "full"))) for _ in range(3)], retries=2)
    with pytest.raises(Busy, match="full") as caught:
        stream("Hello").collect()
    assert (caught.value.status, caught.value.code, caught.value.request_id) == (429, "busy", "r1")
    assert (len(answers.requests), caught.value.__cause__) == (3, None)


BROKEN: list[tuple[bytes | Exception, type[TTSError], str]] = [
    (b"", ConnectionFailed, "the stream broke off after 3 bytes: the answer ended before the sound did"),
    (b"data: half", ConnectionFailed, "broke off after 3 bytes"),
    (httpx.ReadError(""), ConnectionFailed, "broke off after 3 bytes: ReadError"),
    (httpx.RemoteProtocolError("gone"), ConnectionFailed, "broke off after 3 bytes: gone"),
    (httpx.ReadTimeout(""), TimedOut, "stood still after 3 bytes"),
    (httpx.DecodingError("zip"), UnreadableAnswer, "cannot be decoded"),
    (written(failed("engine_failed", "the engine broke")), ServerFailed, "the engine broke"),
    (written(failed("busy", "full")), Busy, "full"),
    (b"data: [1]\n\n", UnreadableAnswer, "no JSON object"),
    (written(START, delta(b"one"), DONE), UnreadableAnswer, "began anew after 3 bytes"),
]


@pytest.mark.parametrize(("piece", "kind", "words"), BROKEN, ids=range(len(BROKEN)))
def test_broken_after_the_first_sound(on: Open, piece: Any, kind: type[TTSError], words: str) -> None:
    pieces = Pieces(written(START, delta(b"one")), piece)
    answers, stream = on(pieces)
    with stream("Hello") as speech:
        assert next(speech) == b"one"
        for _ in range(2):
            with pytest.raises(kind, match=words):
                next(speech)
        assert not speech.complete
    assert (len(answers.requests), answers.waits, pieces.closed) == (1, [], True)


def test_sound_before_an_error_in_the_same_piece_is_heard(on: Open) -> None:
    _, stream = on(Pieces(written(START, delta(b"one"), delta(b"two"), failed("busy", "full"))))
    speech = stream("Hello")
    assert [next(speech), next(speech)] == [b"one", b"two"]
    with pytest.raises(Busy):
        next(speech)


def test_left_early_it_is_closed_and_says_so(on: Open) -> None:
    pieces = Pieces(written(START, delta(b"one")), written(delta(b"two")), written(DONE))
    _, stream = on(pieces)
    with stream("Hello") as speech:
        pass
    assert (pieces.closed, pieces.read) == (True, 1)
    with pytest.raises(ConnectionFailed, match="closed after 3 bytes"):
        next(speech)
    never = stream("Hello")
    never.close()
    with pytest.raises(ConnectionFailed, match="closed after 0 bytes"):
        next(never)


@pytest.mark.parametrize("rest", [httpx.ReadError(""), WHOLE], ids=["broken", "more"])
def test_what_comes_after_the_end_changes_nothing(on: Open, rest: Any) -> None:
    pieces = Pieces(WHOLE, rest, *[b"x"] * 1000)
    _, stream = on(pieces)
    with stream("Hello") as speech:
        assert list(speech) == [b"one", b"two"]
        assert (speech.received_bytes, pieces.closed) == (6, True)
        assert pieces.read < 100


def test_the_codes_have_the_statuses_of_the_server() -> None:
    for status, code in STATUS.values():
        if status not in (499, 500):  # those that are nobody's, and the default
            assert STATUS_OF_CODE[code] == status
    assert all(code in {code for _, code in STATUS.values()} for code in STATUS_OF_CODE)


def test_an_error_told_in_a_stream_is_the_error_of_an_answer(on: Open) -> None:
    _, stream = on(Pieces(written(failed("invalid_input", "voice: no such", "voice"))))
    with pytest.raises(APIStatusError) as caught:
        stream("Hello").collect()
    assert (caught.value.status, caught.value.code, caught.value.field) == (400, "invalid_input", "voice")
