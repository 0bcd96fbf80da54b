"""What each method sends, and what it makes of the answer; both clients alike."""

from __future__ import annotations

import asyncio
import base64
import copy
import inspect
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

import schemas
from clients import AsyncTTSClient, Segment, Speech, TTSClient, Turn, UnreadableAnswer
from speech.operations import OPERATIONS

Answer = Callable[[httpx.Request], httpx.Response]
HI = base64.b64encode(b"hi").decode()
CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any], str, dict[str, Any]]] = [
    ("speak", ("Hello",), {}, "/speak", {"text": "Hello"}),
    (
        "speak",
        ("Hello",),
        {
            "speaker": 0,
            "context": [Segment("Before", b"hi", 1), {"text": "Raw", "audio_b64": HI}],
            "max_duration_ms": 900,
            "seed": 0,
            "temperature": 0.0,
            "top_k": 1,
            "voice": "anna",
            "speed": 0.5,
            "response_format": "flac",
        },
        "/speak",
        {
            "text": "Hello",
            "speaker": 0,
            "context": [{"text": "Before", "speaker": 1, "audio_b64": HI}, {"text": "Raw", "audio_b64": HI}],
            "max_duration_ms": 900,
            "seed": 0,
            "temperature": 0.0,
            "top_k": 1,
            "voice": "anna",
            "speed": 0.5,
            "response_format": "flac",
        },
    ),
    ("quality_speak", ("Hello",), {"seed": 3}, "/quality_speak", {"text": "Hello", "seed": 3}),
    ("optimized_speak", ("Hello",), {"seed": None}, "/optimized_speak", {"text": "Hello"}),
    ("robust_speak", ("Hello",), {}, "/robust_speak", {"text": "Hello"}),
    ("cached_speak", ("Hello",), {"speaker": 1}, "/cached_speak", {"text": "Hello", "speaker": 1}),
    ("contextual_speak", ("Hello",), {}, "/contextual_speak", {"text": "Hello"}),
    ("contextual_speak", ("Hello", "s1"), {}, "/contextual_speak", {"text": "Hello", "session_id": "s1"}),
    (
        "clone_voice",
        ("Hello", b"hi", "Ref"),
        {"max_duration_ms": 2000, "speed": 2},
        "/clone_voice",
        {"text": "Hello", "reference_audio_b64": HI, "reference_text": "Ref", "max_duration_ms": 2000, "speed": 2},
    ),
    (
        "generate_conversation",
        ([Turn(0, "Hello", 100), Turn(1, "Hi", voice="anna"), {"speaker": 0, "text": "Well"}],),
        {"max_total_duration_ms": 9000},
        "/conversation",
        {
            "turns": [
                {"speaker": 0, "text": "Hello", "pause_ms": 100},
                {"speaker": 1, "text": "Hi", "voice": "anna"},
                {"speaker": 0, "text": "Well"},
            ],
            "max_total_duration_ms": 9000,
        },
    ),
    (
        "batch_speak",
        (("a", "b"),),
        {"speaker": 0, "voice": "anna", "max_duration_per_text_ms": 1500, "seed": 1},
        "/batch_speak",
        {"texts": ["a", "b"], "speaker": 0, "voice": "anna", "max_duration_per_text_ms": 1500, "seed": 1},
    ),
]


def good(request: httpx.Request) -> httpx.Response:
    if request.url.path == "/batch_speak":
        return httpx.Response(200, json=[HI for _ in json.loads(request.content)["texts"]])
    return httpx.Response(200, content=b"sound", headers={"Content-Type": "audio/flac"})


def call(asynchronous: bool, answer: Answer, method: str, *args: Any, **kwargs: Any) -> Any:
    """The result of one call of either client."""
    transport = httpx.MockTransport(answer)
    if not asynchronous:
        with TTSClient("http://tts", transport=transport, retries=0) as client:
            return getattr(client, method)(*args, **kwargs)

    async def run() -> Any:
        async with AsyncTTSClient("http://tts", transport=transport, retries=0) as client:
            return await getattr(client, method)(*args, **kwargs)

    return asyncio.run(run())


both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


@both
@pytest.mark.parametrize(("method", "args", "kwargs", "path", "body"), CALLS)
def test_only_what_was_set_is_sent(
    *, asynchronous: bool, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], path: str, body: dict[str, Any]
) -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return good(request)

    result = call(asynchronous, answer, method, *args, **kwargs)
    assert result == ([b"hi", b"hi"] if path == "/batch_speak" else b"sound")
    assert (seen[0].method, seen[0].url.path) == ("POST", path)
    assert json.loads(seen[0].content) == body
    schemas.parse(OPERATIONS[path[1:]].request, body)


def test_there_is_a_method_for_every_operation() -> None:
    assert {path for *_, path, _ in CALLS} == {operation.path for operation in OPERATIONS.values()}


@both
def test_health(asynchronous: bool) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert (request.method, request.url.path) == ("GET", "/health")
        return httpx.Response(200, json={"status": "ready"})

    assert call(asynchronous, answer, "health") == {"status": "ready"}


def test_the_two_clients_have_the_same_methods() -> None:
    def public(kind: type) -> set[str]:
        return {name for name, _ in inspect.getmembers(kind, callable) if not name.startswith("_")}

    assert public(TTSClient) - {"close"} == public(AsyncTTSClient) - {"aclose"}


def test_a_speech_is_its_bytes_and_tells_what_the_headers_tell(tmp_path: Path) -> None:
    headers = {
        "Content-Type": "audio/wav; charset=x",
        "X-Seed": "9223372036854775807",
        "X-Session-Id": "s1",
        "X-Truncated": "true",
        "X-Quality-Attempts": "2",
        "X-Quality-Checks": "not silent; loud enough",
        "X-Audio-Duration-Ms": "1200",
        "X-Voice": "anna",
        "X-Cache": "hit",
        "X-Request-Id": "r1",
    }
    speech = call(False, lambda _: httpx.Response(200, content=b"RIFF", headers=headers), "speak", "Hello")
    assert issubclass(type(speech), bytes)
    assert speech == b"RIFF"
    assert type(speech.audio) is bytes
    assert speech.save(tmp_path / "a.wav").read_bytes() == b"RIFF"
    for copied in (speech, pickle.loads(pickle.dumps(speech)), copy.deepcopy(speech)):
        assert (copied.media_type, copied.seed, copied.session_id) == ("audio/wav", 2**63 - 1, "s1")
        assert (copied.truncated, copied.quality_attempts, copied.cache) == (True, 2, "hit")
        assert (copied.quality_checks, copied.request_id) == ("not silent; loud enough", "r1")
        assert (copied.duration_ms, copied.voice) == (1200, "anna")
    assert repr(speech) == f"<Speech audio/wav, 4 bytes, seed {2**63 - 1}>"


def test_without_headers_a_speech_knows_what_was_asked() -> None:
    bare = httpx.Response(200, content=b"sound", headers={"X-Seed": "garbled"})
    speech = call(False, lambda _: bare, "contextual_speak", "Hello", "s1", seed=5)
    assert (speech.seed, speech.session_id, speech.truncated) == (5, "s1", False)
    assert speech.quality_attempts is speech.cache is speech.request_id is speech.duration_ms is None
    assert (Speech(b"").media_type, Speech(b"").seed) == ("audio/wav", None)


def test_a_batch_knows_its_format() -> None:
    speeches = call(False, good, "batch_speak", ["a"], response_format="mp3")
    assert [(s, s.media_type) for s in speeches] == [(b"hi", "audio/mpeg")]


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("speak", httpx.Response(200, html="<h1>Welcome</h1>")),
        ("speak", httpx.Response(200, json={"audio": "…"})),
        ("speak", httpx.Response(200, content=b"", headers={"Content-Type": "audio/wav"})),
        ("speak", httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=httpx.ByteStream(b"not gzip"))),
        ("batch_speak", httpx.Response(200, text="no JSON")),
        ("batch_speak", httpx.Response(200, json=[HI])),
        ("batch_speak", httpx.Response(200, json=[HI, "not base64!"])),
        ("batch_speak", httpx.Response(200, json=[HI, 5])),
        ("batch_speak", httpx.Response(200, json={"a": HI, "b": HI})),
        ("health", httpx.Response(200, json=["ready"])),
        ("health", httpx.Response(200, text="OK")),
    ],
)
def test_a_success_that_is_something_else_is_unreadable(method: str, answer: httpx.Response) -> None:
    arguments: dict[str, tuple[Any, ...]] = {"speak": ("Hello",), "batch_speak": (["a", "b"],), "health": ()}
    with pytest.raises(UnreadableAnswer):
        call(False, lambda _: answer, method, *arguments[method])


def test_what_is_wrong_before_sending() -> None:
    def never(request: httpx.Request) -> httpx.Response:
        raise AssertionError("was sent")

    with pytest.raises(TypeError, match="'sped' is not an option"):
        call(False, never, "speak", "Hello", sped=2)
    with pytest.raises(TypeError, match="'voice' is not an option"):
        call(False, never, "clone_voice", "Hello", b"hi", "Ref", voice="anna")
    with pytest.raises(TypeError, match="not one string"):
        call(False, never, "batch_speak", "Hello")
    with pytest.raises(ValueError):
        call(False, never, "speak", "Hello", temperature=float("nan"))
    with pytest.raises(ValueError):
        call(False, never, "speak", "half a character: \ud800")
    with pytest.raises(FileNotFoundError):
        call(False, never, "clone_voice", "Hello", "no such file.wav", "Ref")
    for url in ("localhost:8000", "", "ftp://host", "http://", "http://a:b"):
        with pytest.raises(ValueError, match="base_url"):
            TTSClient(url)
    with pytest.raises(ValueError, match="api_key"):
        TTSClient("http://tts", api_key="clé")
    with pytest.raises(ValueError, match="retries"):
        TTSClient("http://tts", retries=-1)


def sent_key(url: str, **options: Any) -> str | None:
    keys: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers.get("Authorization"))
        return httpx.Response(200, json={})

    with TTSClient(url, transport=httpx.MockTransport(answer), **options) as client:
        client.health()
    return keys[0]


def test_the_api_key(monkeypatch: pytest.MonkeyPatch) -> None:
    chutes = "https://me-csm-1b-tts.chutes.ai"
    assert sent_key("http://tts") is None
    monkeypatch.setenv("CHUTES_API_KEY", "cpk_env\n")
    assert sent_key(chutes) == "Bearer cpk_env"
    for elsewhere in ("http://tts", "http://me.chutes.ai", "https://chutes.ai.evil.example", "https://xchutes.ai"):
        assert sent_key(elsewhere) is None
    monkeypatch.setenv("DUOLOGUE_API_KEY", "own")
    assert sent_key("http://tts") == sent_key(chutes) == "Bearer own"
    assert sent_key(chutes, api_key="given") == "Bearer given"
    assert sent_key(chutes, api_key="") is None


def test_a_path_in_the_base_url_is_kept() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url == "http://tts/behind/proxy/health"
        return httpx.Response(200, json={})

    with TTSClient("http://tts/behind/proxy/", transport=httpx.MockTransport(answer)) as client:
        client.health()
