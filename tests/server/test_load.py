"""Many callers at once, callers that leave, memory over time, and the end of the server."""

from __future__ import annotations

import base64
import json
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil

from tests.conftest import Served

LONG = "Somebody will hang up before this sentence, which goes on and on about nothing in particular, has ended. "


def until(condition: Callable[[], bool], within_s: float = 30) -> bool:
    """Whether `condition` came true; the bound only keeps a broken test from hanging."""
    give_up = time.monotonic() + within_s
    while not condition() and time.monotonic() < give_up:
        time.sleep(0.02)
    return condition()


def hang_up_during(served: Served, body: dict[str, object], when: Callable[[], bool]) -> None:
    """Send a request and close the connection once `when` holds, without reading the answer."""
    host, port = served.url.removeprefix("http://").split(":")
    payload = json.dumps(body).encode()
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /speak HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        connection.sendall(head.encode() + f"Content-Length: {len(payload)}\r\n\r\n".encode() + payload)
        assert until(when)


def test_fifty_callers_on_a_queue_of_eight(serve: Callable[..., Served]) -> None:
    served = serve(engine="hibari", queue="8", queue_wait_s="20")
    texts = [f"Caller number {count} wants to hear exactly this, and nothing else. " * 8 for count in range(50)]
    alone = {text: served.speak(text=text, seed=1, max_duration_ms=60_000).content for text in texts}
    together = threading.Barrier(50)

    def call(text: str) -> httpx.Response:
        with httpx.Client(base_url=served.url, timeout=120) as http:
            together.wait(60)
            return http.post("/speak", json={"text": text, "seed": 1, "max_duration_ms": 60_000})

    with ThreadPoolExecutor(50) as pool:
        answers = dict(zip(texts, pool.map(call, texts), strict=True))
    served_texts = [text for text, answer in answers.items() if answer.status_code == 200]
    for text in served_texts:
        assert answers[text].content == alone[text], "everyone gets their own audio"
    refused = [answer for answer in answers.values() if answer.status_code != 200]
    assert len(served_texts) >= 9, "one speaking and eight waiting"
    assert refused, "fifty are more than nine"
    assert {answer.status_code for answer in refused} == {429}
    assert all(int(answer.headers["retry-after"]) >= 1 and answer.json()["code"] == "busy" for answer in refused)
    health = served.http.get("/health").json()
    assert (health["queue_length"], health["speaking"]) == (0, 0)


def test_nobody_waits_past_the_deadline(serve: Callable[..., Served]) -> None:
    served = serve(engine="kokoro", queue="8", queue_wait_s="0.2")
    speaking = lambda: served.http.get("/health").json()["speaking"] == 1  # noqa: E731
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(served.speak, text=LONG * 3, max_duration_ms=60_000)
        assert until(speaking)
        late = served.http.post("/speak", json={"text": "Late."})
        assert not first.done(), "the refusal came while the first was still speaking"
        assert late.status_code == 429
        assert "0.2 s" in late.json()["detail"]
        assert first.result().status_code == 200


def test_a_caller_that_hangs_up_frees_the_engine(kokoro: Served) -> None:
    health = lambda: kokoro.http.get("/health").json()  # noqa: E731
    hang_up_during(kokoro, {"text": LONG * 40, "max_duration_ms": 90_000}, when=lambda: health()["speaking"] == 1)
    assert until(lambda: health()["speaking"] == 0, within_s=5), "ninety seconds of speech were not spoken to the end"
    assert kokoro.speak(text="Next, please.").status_code == 200


def test_a_caller_that_hangs_up_leaves_the_queue(kokoro: Served) -> None:
    health = lambda: kokoro.http.get("/health").json()  # noqa: E731
    with ThreadPoolExecutor(1) as pool:
        speaking = pool.submit(kokoro.speak, text=LONG * 2, max_duration_ms=60_000)
        assert until(lambda: health()["speaking"] == 1)
        hang_up_during(kokoro, {"text": LONG}, when=lambda: health()["queue_length"] == 1)
        assert until(lambda: health()["queue_length"] == 0)
        assert not speaking.done(), "it left the queue while the first was still speaking"
        assert speaking.result().status_code == 200


def test_memory_does_not_grow(serve: Callable[..., Served]) -> None:
    served = serve(engine="hibari", sessions="5", cache_entries="5")
    process = psutil.Process(served.process.pid)
    recording = base64.b64encode(served.speak(text="A recording to send along.").content).decode()

    def requests(count: int, offset: int) -> int:
        for number in range(offset, offset + count):
            text = f"Number {number}. " * (1 + number % 3)
            paths = ("/speak", "/cached_speak", "/contextual_speak", "/batch_speak", "/robust_speak")
            path = paths[number % len(paths)]
            body = {"texts": [text]} if path == "/batch_speak" else {"text": text}
            response_format = ("wav", "mp3", "opus", "aac", "flac")[number // 5 % 5]
            served.speak(path, **body, response_format=response_format)
            if number % 10 == 0:
                bad = {"text": "x", "context": [{"text": "y", "audio_b64": recording}]}
                assert served.http.post("/speak", json=bad).status_code == 400
        return int(process.memory_info().rss)

    after_200 = requests(200, 0)  # by then everything that is loaded on first use is there
    after_500 = requests(300, 200)
    assert after_500 <= 1.02 * after_200


def test_sigterm_lets_running_requests_finish(serve: Callable[..., Served]) -> None:
    served = serve(engine="kokoro")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(served.speak, text=LONG, max_duration_ms=60_000)
        assert until(lambda: served.http.get("/health").json()["speaking"] == 1)
        served.process.send_signal(signal.SIGTERM)
        assert running.result().status_code == 200
    assert served.process.wait(30) == 0


def test_sigterm_waits_no_longer_than_it_may(serve: Callable[..., Served]) -> None:
    served = serve(engine="kokoro", shutdown_s="1")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(served.http.post, "/speak", json={"text": LONG * 40, "max_duration_ms": 90_000})
        assert until(lambda: served.http.get("/health").json()["speaking"] == 1)
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(30) is not None
        try:
            answer = running.result()
        except httpx.HTTPError:
            return
        assert answer.status_code == 503
        assert answer.json()["code"] == "not_ready"
