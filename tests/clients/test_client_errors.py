"""Every status and every failure of the network as its exception, with the server's words."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import httpx
import pytest

import clients
from clients import (
    APIStatusError,
    AuthenticationFailed,
    Busy,
    ConnectionFailed,
    InvalidRequest,
    ServerFailed,
    TimedOut,
    TTSClient,
    TTSError,
    UnreadableAnswer,
)
from speech.errors import STATUS, CallerLeft, InvalidInput, SpeechError, to_http


def failure(answer: httpx.Response | Exception) -> TTSError:
    """What `speak` raises when `answer` is what comes."""

    def handler(request: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    client = TTSClient("http://user:secret@tts:8000", transport=httpx.MockTransport(handler), retries=0)
    with client, pytest.raises(TTSError) as caught:
        client.speak("Hello")
    return caught.value


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (302, APIStatusError),
        (400, InvalidRequest),
        (401, AuthenticationFailed),
        (403, AuthenticationFailed),
        (404, APIStatusError),
        (405, APIStatusError),
        (409, APIStatusError),
        (413, InvalidRequest),
        (422, InvalidRequest),
        (429, Busy),
        (499, APIStatusError),
        (500, ServerFailed),
        (502, ServerFailed),
        (503, ServerFailed),
        (504, ServerFailed),
        (599, ServerFailed),
    ],
)
def test_each_status(status: int, kind: type[APIStatusError]) -> None:
    body = {"detail": "in so many words", "code": "some_code", "field": "context[1].audio_b64"}
    error = failure(httpx.Response(status, json=body, headers={"X-Request-Id": "r1", "Retry-After": "2"}))
    assert type(error) is kind
    assert isinstance(error, APIStatusError)
    for one in (error, pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (str(one), one.message, one.status) == ("in so many words", "in so many words", status)
        assert (one.code, one.field) == ("some_code", "context[1].audio_b64")
        assert (one.request_id, one.retry_after_s) == ("r1", 2.0)


@pytest.mark.parametrize("kind", STATUS, ids=lambda kind: kind.__name__)
def test_each_error_of_the_server_is_told_in_its_own_words(kind: type[SpeechError]) -> None:
    if kind is InvalidInput:
        told: SpeechError = InvalidInput("text", "is missing", "send one")
    else:
        told = CallerLeft() if kind is CallerLeft else kind("just so", retry_after_s=2)
    status, body, headers = to_http(told)
    error = failure(httpx.Response(status, json=body, headers=headers))
    assert isinstance(error, APIStatusError)
    assert (error.message, error.status, error.code, error.field) == (told.message, *STATUS[kind], told.field)
    assert error.retry_after_s == told.retry_after_s


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (httpx.Response(502), "HTTP 502 Bad Gateway"),
        (httpx.Response(502, html="<html><h1>Bad</h1></html>"), "HTTP 502 Bad Gateway"),
        (httpx.Response(500, text="Internal Server Error"), "HTTP 500 Internal Server Error"),
        (httpx.Response(500, text="upstream\n  died"), "HTTP 500 Internal Server Error: upstream died"),
        (httpx.Response(500, text="x" * 999), "HTTP 500 Internal Server Error: " + "x" * 200),
        (httpx.Response(500, content=b"\xff\xfe{"), None),
        (httpx.Response(500, json="plain"), "HTTP 500 Internal Server Error: plain"),
        (httpx.Response(500, json=[1]), "HTTP 500 Internal Server Error: [1]"),
        (httpx.Response(500, json={}), "HTTP 500 Internal Server Error"),
        (httpx.Response(500, json={"detail": None}), "HTTP 500 Internal Server Error"),
        (httpx.Response(500, json={"detail": {"a": 1}}), 'HTTP 500 Internal Server Error: {"a": 1}'),
        (httpx.Response(404, json={"detail": "Not Found"}), "Not Found"),
        (httpx.Response(799), "HTTP 799"),
        (
            httpx.Response(422, json={"detail": [{"loc": ["body", "text"], "msg": "Field required"}, "odd"]}),
            "body.text: Field required; odd",
        ),
        (
            httpx.Response(307, headers={"Location": "https://tts/speak"}),
            "HTTP 307 Temporary Redirect: redirected to https://tts/speak; use that address",
        ),
    ],
)
def test_other_bodies(answer: httpx.Response, words: str | None) -> None:
    error = failure(answer)
    assert words is None or str(error) == words
    assert isinstance(error, APIStatusError)
    assert error.code is error.field is None


def test_the_shape_of_openai() -> None:
    body = {"error": {"message": "no such voice", "type": "invalid_request_error", "param": "voice", "code": "v"}}
    error = failure(httpx.Response(400, json=body))
    assert isinstance(error, InvalidRequest)
    assert (error.message, error.code, error.field) == ("no such voice", "v", "voice")


@pytest.mark.parametrize(
    ("cause", "kind", "words"),
    [
        (httpx.ConnectError("refused"), ConnectionFailed, "cannot connect to http://tts:8000: refused"),
        (httpx.ReadError(""), ConnectionFailed, "the connection to http://tts:8000 broke: ReadError"),
        (httpx.WriteError("pipe"), ConnectionFailed, "the connection to http://tts:8000 broke: pipe"),
        (httpx.CloseError("x"), ConnectionFailed, "the connection to http://tts:8000 broke: x"),
        (httpx.ProxyError("407"), ConnectionFailed, "the connection to http://tts:8000 broke: 407"),
        (httpx.RemoteProtocolError("gone"), ConnectionFailed, "the connection to http://tts:8000 broke: gone"),
        (httpx.LocalProtocolError("bad"), ConnectionFailed, "the connection to http://tts:8000 broke: bad"),
        (httpx.ConnectTimeout(""), TimedOut, "no connection to http://tts:8000 in time"),
        (httpx.ReadTimeout(""), TimedOut, "http://tts:8000 did not answer in time; a longer timeout may help"),
        (httpx.WriteTimeout(""), TimedOut, "http://tts:8000 did not answer in time; a longer timeout may help"),
        (httpx.PoolTimeout(""), TimedOut, "http://tts:8000 did not answer in time; a longer timeout may help"),
        (httpx.DecodingError("zip"), UnreadableAnswer, "the answer of http://tts:8000 cannot be decoded: zip"),
    ],
)
def test_each_failure_of_the_network(cause: httpx.RequestError, kind: type[TTSError], words: str) -> None:
    error = failure(cause)
    assert (type(error), str(error), error.__cause__) == (kind, words, cause)


def test_the_tree_is_as_drawn() -> None:
    drawing = clients.errors.__doc__ or ""
    for name in dir(clients.errors):
        kind: Any = getattr(clients.errors, name)
        if isinstance(kind, type) and issubclass(kind, TTSError):
            assert name in drawing
            assert getattr(clients, name) is kind


@pytest.mark.parametrize("times", [1, 2])
def test_what_the_gateway_of_chutes_wraps_up_is_unwrapped(times: int) -> None:
    status, body, _ = to_http(InvalidInput("voice", "is not a voice here", "ask for {one} of them"))
    error = failure(httpx.Response(status, json={"detail": "Invalid request: " * times + json.dumps(body)}))
    assert isinstance(error, InvalidRequest)
    assert (error.message, error.code, error.field) == (body["detail"], "invalid_input", "voice")


@pytest.mark.parametrize("detail", ["Invalid request: {", "Invalid request: {}", 'x {"detail": "y"}', "{1}"])
def test_what_only_looks_like_it_is_left_as_it_is(detail: str) -> None:
    assert failure(httpx.Response(400, json={"detail": detail})).message == detail
