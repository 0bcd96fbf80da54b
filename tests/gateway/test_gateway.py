"""The gateway as a server of its own, in front of real ones: the Chute, and servers that die and return."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from pybase64 import b64decode
from websockets.sync.client import connect

from clients import TTSClient
from tests import ears
from tests.chute.conftest import Running, clean_env
from tests.chute.conftest import running as chute_running
from tests.conftest import ROOT, Served, serving
from tests.server.assistant import Answer, Assistant
from tests.server.test_main import free_port

TEXT = "The train to the coast leaves at seven, from the platform beside the old clock tower"
WYOMING_PORT = free_port()


@pytest.fixture(scope="module")
def chute(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    env = clean_env() | {"DUOLOGUE_ENGINE": "hibari", "PYTHONPATH": str(ROOT)}
    with chute_running(ROOT, env, tmp_path_factory.mktemp("chute") / "log") as started:
        yield started


@pytest.fixture(scope="module")
def gateway(chute: Running) -> Iterator[Served]:
    """In front of the Chute, as its command line has it, with every door open."""
    with commanded("--upstream", str(chute.http.base_url), wyoming_port=str(WYOMING_PORT)) as served:
        yield served


@contextmanager
def commanded(*words: str, **settings: str) -> Iterator[Served]:
    told = {f"DUOLOGUE_{name.upper()}": value for name, value in settings.items()}
    process = subprocess.Popen(
        [sys.executable, "-m", "server", *words],
        cwd=ROOT,
        env=clean_env() | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "DUOLOGUE_PORT": "0"} | told,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        address = re.search(r"http://[\d.]+:\d+", process.stdout.readline())
        assert address
        yield Served(process, address[0])
    finally:
        process.terminate()
        process.wait(60)


def test_health_tells_who_speaks(gateway: Served) -> None:
    health = gateway.http.get("/health").json()
    assert (health["status"], health["engine"], health["speakers"]) == ("ready", "hibari", ["af_heart", "af_heart"])
    assert "behind a gateway to 1 server" in health["device"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/speak", {"text": TEXT}),
        ("/speak", {"text": TEXT, "response_format": "flac", "max_duration_ms": 1500}),
        ("/speak", {"text": f"{TEXT}. " * 40, "speed": 4, "max_duration_ms": 90_000}),
        ("/speak", {"text": TEXT, "speed": 1.3}),
        ("/conversation", {"turns": [{"speaker": 0, "text": "Ready?"}, {"speaker": 1, "text": "Yes."}]}),
        ("/contextual_speak", {"text": TEXT}),
        ("/quality_speak", {"text": TEXT}),
        ("/cached_speak", {"text": TEXT}),
        ("/optimized_speak", {"text": TEXT}),
        ("/robust_speak", {"text": "Dr. Smith has 2 cats."}),
        ("/batch_speak", {"texts": ["One.", "Two.", "Three.", "Four.", "Five.", "Six."]}),
    ],
)
def test_an_operation_answers_the_bytes_that_the_chute_answers(
    gateway: Served, chute: Running, path: str, body: dict[str, Any]
) -> None:
    ours, theirs = (face.post(path, json=body | {"seed": 3}) for face in (gateway.http, chute.http))
    assert ours.status_code == theirs.status_code == 200, ours.text
    assert ours.content == theirs.content
    for header in ("X-Seed", "X-Truncated", "X-Voice", "X-Audio-Duration-Ms"):
        assert ours.headers.get(header) == theirs.headers.get(header), header


def test_a_stream_is_the_chutes_own(gateway: Served, chute: Running) -> None:
    text = f"{TEXT}. And then it comes back. Nobody knows when."
    heard = []
    for url in (gateway.url, str(chute.http.base_url)):
        with TTSClient(url) as client:
            stream = client.stream(text, seed=5, response_format="pcm")
            heard.append((stream.collect().audio, stream.truncated, stream.voice, stream.duration_ms))
    assert heard[0] == heard[1]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/speak", {"text": "日本語"}, "text"),
        ("/batch_speak", {"texts": ["One.", "日本語", "Three."]}, "texts[1]"),
        ("/conversation", {"turns": [{"speaker": 0, "text": "日本語"}]}, "turns[0].text"),
        ("/stream_speak", {"text": "日本語"}, "text"),
    ],
)
def test_what_only_the_chute_can_refuse_is_the_callers_mistake(
    gateway: Served, path: str, body: dict[str, Any], field: str
) -> None:
    error = gateway.http.post(path, json=body)
    assert (error.status_code, error.json()["field"]) == (400, field)


def test_openais_door_is_open(gateway: Served) -> None:
    body = {"model": "tts-1", "input": TEXT, "voice": "alloy", "response_format": "wav"}
    answer = gateway.http.post("/v1/audio/speech", json=body)
    assert answer.status_code == 200, answer.text
    assert ears.word_error_rate(TEXT, ears.sound(answer.content)) <= 0.2
    refused = gateway.http.post("/v1/audio/speech", json=body | {"input": "日本語"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/generate", {"text_input": f"[S1] {TEXT}."}),
        ("/tts", {"text": f"{TEXT}."}),
        ("/tts_to_audio/", {"text": TEXT, "speaker_wav": "af_heart", "language": "en"}),
    ],
)
def test_the_other_doors_are_open(gateway: Served, path: str, body: dict[str, Any]) -> None:
    answer = gateway.http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert ears.word_error_rate(TEXT, ears.sound(answer.content)) <= 0.2


def test_sillytavern_streams_and_previews(gateway: Served) -> None:
    streamed = gateway.http.get("/tts_stream", params={"text": TEXT, "speaker_wav": "af_heart", "language": "en"})
    assert ears.word_error_rate(TEXT, ears.sound(streamed.content)) <= 0.2
    (speaker,) = gateway.http.get("/speakers").json()
    assert "how I sound" in ears.heard(ears.sound(gateway.http.get(speaker["preview_url"]).content))


def test_home_assistant_is_answered(gateway: Served) -> None:
    async def ask() -> tuple[Answer, Answer]:
        async with Assistant("127.0.0.1", WYOMING_PORT) as client:
            return await client.whole(f"{TEXT}."), await client.streamed(*re.findall(r".{1,7}", f"{TEXT}."))

    for answer in asyncio.run(ask()):
        assert ears.word_error_rate(TEXT, answer.audio) <= 0.2


@pytest.mark.parametrize("path", ["/v1/models", "/v1/audio/voices", "/voices", "/stats", "/api/health", "/ready"])
def test_what_programs_ask_before_they_speak_is_answered(gateway: Served, path: str) -> None:
    answer = gateway.http.get(path)
    assert answer.status_code == 200, answer.text
    assert answer.json()


def test_the_websocket_is_open(gateway: Served) -> None:
    with connect(gateway.url.replace("http", "ws") + "/ws") as talk:
        assert json.loads(talk.recv())["type"] == "ready"
        talk.send(json.dumps({"type": "text", "text": f"{TEXT}."}))
        talk.send(json.dumps({"type": "end"}))
        sound = b""
        for message in talk:
            if isinstance(message, bytes):
                sound += message
            elif json.loads(message)["type"] in ("done", "error"):
                break
    assert len(sound) > 2 * 24_000


# Several


def spoken(server: Served) -> int:
    """Requests that `server` has answered with sound."""
    lines = re.findall(
        r'^duologue_http_requests_total\{handler="/(?:stream_)?speak",status="200"\} (\S+)$',
        server.http.get("/metrics").text,
        re.MULTILINE,
    )
    return sum(int(float(count)) for count in lines)


def streamed(server: Served, body: dict[str, Any]) -> tuple[bytes, str]:
    """The sound of a stream, and how it ended."""
    sound, end = b"", "cut off"
    with server.http.stream("POST", "/stream_speak", json=body | {"response_format": "pcm"}) as answer:
        if answer.status_code != 200:
            return b"", str(answer.status_code)
        for line in answer.iter_lines():
            event = json.loads(line.removeprefix("data: ")) if line else {"type": ""}
            if event["type"] == "speech.audio.delta":
                sound += b64decode(event["audio"])
            elif event["type"] == "speech.audio.done":
                end = "done"
            elif event["type"] == "error":
                end = event["code"]
    return sound, end


def test_one_of_two_dies_under_load_and_returns(hibari: Served) -> None:
    """Of 30 requests no whole answer is lost, no stream goes on after a break, and none is spoken twice."""
    port = str(free_port())
    text = f"{TEXT}. Nobody has ever seen it late."
    body = {"text": text, "seed": 7}
    whole, (stream, _) = hibari.speak(**body).content, streamed(hibari, body)
    with (
        serving(engine="hibari", port=port) as victim,
        serving(engine="gateway", upstreams=f"{victim.url},{hibari.url}") as gateway,
    ):
        before, answered, done_by_victim = spoken(hibari), itertools.count(1), []

        def ask(number: int) -> tuple[bytes, str]:
            if number % 2:
                answer = gateway.http.post("/speak", json=body)
                told = answer.content, str(answer.status_code)
            else:
                told = streamed(gateway, body)
            if next(answered) == 10:
                done_by_victim.append(spoken(victim))
                victim.process.kill()
            return told

        with ThreadPoolExecutor(8) as pool:
            told = list(pool.map(ask, range(30)))
        (done,) = done_by_victim
        assert done > 0, "the load is spread"
        for number, (sound, end) in enumerate(told):
            if number % 2:
                assert (sound, end) == (whole, "200")
            elif end == "done":
                assert sound == stream
            else:
                assert end == "engine_failed" and sound and stream.startswith(sound)
        lines = 15 + 15 * 2  # a stream is a line for each sentence
        assert spoken(hibari) - before <= lines - done, "what was answered is not asked for again"
        assert [ask(number) for number in (1, 2, 3)][1:] == [(stream, "done"), (whole, "200")]
        with serving(engine="hibari", port=port) as back:
            until(lambda: ask(1)[1] == "200" and spoken(back) > 0)


def until(true: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + 60
    while not true():
        assert time.monotonic() < give_up_s
