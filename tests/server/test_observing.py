"""What an operator sees of the server: its numbers, its log, its readiness."""

from __future__ import annotations

import json
import re
import signal
import socket
import time
from collections.abc import Callable, Generator, Iterator

import httpx
import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from websockets.sync.client import connect

from audio_utils import Audio
from server.app import create_app
from speech.account import Account
from speech.caller import Caller
from speech.engines.base import Line, Load
from speech.service import Service
from speech.settings import Settings
from speech.streaming import Part, Speaking
from tests import ears
from tests.conftest import ROOT, Served
from tests.server.observed import Logged
from tests.server.test_load import LONG, until
from tests.speech.test_operations import GOOD, RATE_HZ, Scripted

Numbers = dict[str, float]


def numbers(http: httpx.Client) -> Numbers:
    """Every sample of /metrics, as `name{label=value,...}` without our prefix."""
    answer = http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[sample.name.removeprefix("duologue_") + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


def grown(before: Numbers, after: Numbers) -> Numbers:
    """What has changed, without the buckets, of which there are many."""
    changed = {name: value - before.get(name, 0) for name, value in after.items() if value != before.get(name, 0)}
    return {name: value for name, value in changed.items() if "_bucket" not in name and not name.startswith("process_")}


def test_known_requests_give_known_numbers(logged: Logged) -> None:
    http = logged.http
    before = numbers(http)
    whole = [http.post("/speak", json={"text": "Count me once.", "seed": 1}) for _ in range(2)]
    whole.append(http.post("/speak", json={"text": "Somewhat longer than that.", "max_duration_ms": 500, "seed": 1}))
    whole.append(http.post("/cached_speak", json={"text": "Once made, twice sent.", "seed": 1}))
    assert http.post("/cached_speak", json={"text": "Once made, twice sent.", "seed": 1}).headers["x-cache"] == "hit"
    stream = http.post("/stream_speak", json={"text": "One. Two.", "stream_format": "audio", "seed": 1})
    assert [http.post("/speak", json=body).status_code for body in ({}, {"text": "Hi.", "voice": "nobody"})] == [
        400,
        400,
    ]
    assert (http.get("/no/such/place").status_code, http.get("/speak").status_code) == (404, 405)
    assert http.head("/health").status_code == 200
    change = grown(before, numbers(http))

    heard_s = sum(ears.sound(each.content).duration_ms for each in whole) / 1000
    assert change.pop("audio_duration_seconds_sum{delivery=whole}") == pytest.approx(heard_s, abs=0.002)
    heard_s = ears.sound(stream.content).duration_ms / 1000
    assert change.pop("audio_duration_seconds_sum{delivery=stream}") == pytest.approx(heard_s, abs=0.002)
    measured = ("time_to_first_audio_seconds", "e2e_request_latency_seconds", "audio_rtf")
    for delivery in ("whole", "stream"):
        first, in_all, rtf = (change.pop(f"{name}_sum{{delivery={delivery}}}") for name in measured)
        assert 0 < first <= in_all
        assert rtf > 0
    change.pop("request_queue_time_seconds_sum")
    assert change.pop("cache_bytes") == len(whole[-1].content)
    assert change == {
        "http_requests_total{handler=/speak,status=200}": 3,
        "http_requests_total{handler=/speak,status=400}": 2,
        "http_requests_total{handler=/speak,status=405}": 1,
        "http_requests_total{handler=/cached_speak,status=200}": 2,
        "http_requests_total{handler=/stream_speak,status=200}": 1,
        "http_requests_total{handler=/health,status=200}": 1,
        "http_requests_total{handler=/metrics,status=200}": 1,
        "http_requests_total{handler=none,status=404}": 1,
        "answers_total{delivery=whole,finished_reason=stop}": 3,
        "answers_total{delivery=whole,finished_reason=length}": 1,
        "answers_total{delivery=whole,finished_reason=invalid_input}": 1,
        "answers_total{delivery=stream,finished_reason=stop}": 1,
        "request_queue_time_seconds_count": 5,
        "audio_underrun_seconds_count": 1,
        "cache_queries_total": 2,
        "cache_hits_total": 1,
        "cache_entries": 1,
    } | {f"{name}_count{{delivery=whole}}": 4 for name in (*measured, "audio_duration_seconds")} | {
        f"{name}_count{{delivery=stream}}": 1 for name in (*measured, "audio_duration_seconds")
    }  # fmt: skip


def test_who_speaks_is_seen_and_who_leaves_is_told(logged: Logged) -> None:
    before = numbers(logged.http)
    body = {"text": LONG * 40, "max_duration_ms": 90_000, "stream_format": "audio"}
    with logged.http.stream("POST", "/stream_speak", json=body) as answer:
        request_id = answer.headers["x-request-id"]
        # It gives its turn up between sentences.
        assert any(numbers(logged.http)["num_requests_running"] == 1 for _ in answer.iter_bytes(1000))
    logged.line(request_id, "POST /stream_speak")
    after = numbers(logged.http)
    assert grown(before, after)["answers_total{delivery=stream,finished_reason=caller_left}"] == 1
    assert (after["num_requests_running"], after["num_requests_waiting"], after["stream_buffer_bytes"]) == (0, 0, 0)
    spoke = logged.line(request_id, "spoke ")
    assert spoke["finished_reason"] == "caller_left"


def test_the_time_to_the_first_sound_is_in_the_header_the_log_and_the_numbers(logged: Logged) -> None:
    before = numbers(logged.http)
    answer = logged.http.post("/stream_speak", json={"text": "How soon is now? Sooner than that."})
    line = logged.line(answer.headers["x-request-id"], "spoke ")
    change = grown(before, numbers(logged.http))
    first_ms = float(answer.headers["x-first-audio-ms"])
    assert line["first_audio_ms"] == first_ms > 0
    assert 1000 * change["time_to_first_audio_seconds_sum{delivery=stream}"] == pytest.approx(first_ms, abs=0.1)
    assert line["audio_ms"] == pytest.approx(1000 * change["audio_duration_seconds_sum{delivery=stream}"], abs=0.1)
    assert line["took_ms"] >= first_ms and 0 < line["rtf"] < 10 and line["underruns"] >= 0 and line["queue_ms"] >= 0
    assert (
        line["level"] == "INFO" and line["time"].endswith("+00:00") and f"{line['audio_ms']:.0f} ms" in line["message"]
    )


@pytest.mark.parametrize(
    ("own", "path", "body", "status"),
    [
        ("my.own_id-1", "/speak", {"text": "Mine."}, 200),
        ("my.own_id-2", "/stream_speak", {"text": "Mine."}, 200),
        ("my.own_id-3", "/speak", {}, 400),
        ("my.own_id-4", "/speak", {"text": "?!"}, 400),
        ("x" * 64, "/v1/nothing", {}, 404),
    ],
)
def test_a_request_keeps_its_own_id(logged: Logged, own: str, path: str, body: dict, status: int) -> None:
    answer = logged.http.post(path, json=body, headers={"X-Request-Id": own})
    assert (answer.status_code, answer.headers.get_list("x-request-id")) == (status, [own])
    line = logged.line(own, f"POST {path} {status}")
    assert (line["method"], line["path"], line["status"]) == ("POST", path, status)
    if status == 200:
        logged.line(own, "spoke ")


@pytest.mark.parametrize("given", ["", "x" * 65, "two words", "a;b", 'quo"te', "caf\u00e9".encode()])
def test_an_id_that_will_not_do_is_replaced(logged: Logged, given: str | bytes) -> None:
    answer = logged.http.get("/ready", headers={"X-Request-Id": given})
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


def test_a_websocket_has_an_id_too(logged: Logged) -> None:
    before = numbers(logged.http)
    url = logged.url.replace("http", "ws") + "/ws"
    with connect(url, additional_headers={"X-Request-Id": "a-socket"}) as talk:
        assert talk.response and talk.response.headers["x-request-id"] == "a-socket"
        talk.send(json.dumps({"type": "text", "text": "Said on a socket."}))
        talk.send(json.dumps({"type": "end"}))
        while (told := talk.recv(30)) and (isinstance(told, bytes) or '"done"' not in told):
            pass
    logged.line("a-socket", "spoke ")
    assert logged.line("a-socket", "WS /ws")["status"] == 101
    change = grown(before, numbers(logged.http))
    assert change["http_requests_total{handler=/ws,status=101}"] == 1
    assert change["answers_total{delivery=stream,finished_reason=stop}"] == 1


def test_a_log_for_machines_holds_objects_and_nothing_that_was_said(logged: Logged) -> None:
    logged.http.post("/speak?text=Zanzibarquery", json={"text": "Zanzibartext."}, headers={"X-API-Key": "Zanzibarkey"})
    logged.http.post("/speak", json={"text": "?!", "voice": "Zanzibarvoice"})
    logged.http.post("/speak", content=b'{"text": "Zanzibarbroken')
    lines = logged.lines()
    assert len(lines) > 5
    assert all({"time", "level", "message"} <= line.keys() for line in lines)
    assert "zanzibar" not in logged.log.read_text().lower()


def test_what_uvicorn_warns_of_is_an_object_too(logged: Logged) -> None:
    host, port = logged.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"no HTTP at all\r\n\r\n")
        assert b"400" in connection.recv(1000)
    assert until(lambda: any(line["level"] == "WARNING" for line in logged.lines()))


def test_every_number_is_in_the_documents_and_no_other() -> None:
    page = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(duologue_\w+)` \| (\w+) \| (.*?) \|", page, re.M)
    http = TestClient(create_app(Service(Plain([]), Settings()), Settings()))
    told = re.findall(r"^# TYPE (duologue_\w+) (\w+)", http.get("/metrics").text, re.M)
    assert {(name, kind) for name, kind, _ in rows} == set(told)
    assert len(rows) == len(told)


class Plain(Scripted):
    def load(self) -> Load:
        return Load(batches=(0, 3, 0, 2), memory={"allocated": 5, "total": 9})


class Halting(Plain):
    """Says 20 ms, then nothing for `pauses_s`, and so on."""

    pauses_s = (0.1, 0.1)

    def _chunks(self, entry: Audio | Exception) -> Generator[Audio]:
        yield Audio(GOOD.samples[: RATE_HZ // 50], RATE_HZ)
        for pause_s in self.pauses_s:
            time.sleep(pause_s)
            yield Audio(GOOD.samples[: RATE_HZ // 50], RATE_HZ)


def test_a_listener_who_runs_out_of_sound_is_counted() -> None:
    service = Service(Halting([GOOD] * 2), Settings())
    service.start()
    http = TestClient(create_app(service, Settings()))
    assert http.post("/stream_speak", json={"text": "Hello."}).status_code == 200
    counted = numbers(http)
    assert counted["audio_underruns_total"] == 2
    assert counted["audio_underrun_seconds_sum"] >= 2 * (0.1 - 0.02)
    assert http.post("/speak", json={"text": "Hello."}).status_code == 200
    assert numbers(http)["audio_underruns_total"] == 2, "nobody listens to a clip before it is whole"


def test_a_text_that_comes_late_is_no_underrun() -> None:
    service = Service(Scripted([Audio(GOOD.samples[: RATE_HZ // 50], RATE_HZ)] * 3), Settings())
    service.start()
    told: list[Account] = []
    service.watchers.append(told.append)

    def parts() -> Iterator[Part]:
        for text in ("One.", "Two.", "Three."):
            yield Part(text)
            time.sleep(0.1)

    caller = Caller()
    speaking = Speaking.open(service, caller, lambda: lambda: Line("", caller=caller), parts())
    assert len(list(speaking)) == 3
    assert [(account.late, account.finished_reason) for account in told] == [(0, "stop")]


def test_frames_and_memory_are_told_where_an_engine_has_them() -> None:
    http = TestClient(create_app(Service(Plain([]), Settings()), Settings()))
    told = numbers(http)
    assert [told[f"batch_size_bucket{{le={size}.0}}"] for size in (1, 2, 3)] == [3, 3, 5]
    assert (told["batch_size_bucket{le=+Inf}"], told["batch_size_count"], told["batch_size_sum"]) == (5, 5, 9)
    assert (told["gpu_memory_bytes{kind=allocated}"], told["gpu_memory_bytes{kind=total}"]) == (5, 9)


def test_ready_says_no_while_it_loads_and_once_it_is_closed() -> None:
    service = Service(Scripted([]), Settings())
    http = TestClient(create_app(service, Settings()))

    def told() -> tuple[int, str]:
        answer = http.get("/ready")
        assert http.get("/health").status_code == 200
        return answer.status_code, answer.json()["status"]

    assert told() == (503, "loading")
    service.start()
    assert told() == (200, "ready")
    service.close()
    assert told() == (503, "shutting down")


def test_sigterm_is_told_before_the_door_is_shut(serve: Callable[..., Served]) -> None:
    served = serve(engine="hibari", drain_s="60")
    assert served.http.get("/ready").status_code == 200
    served.process.send_signal(signal.SIGTERM)
    assert until(lambda: served.http.get("/ready").status_code == 503)
    assert served.speak(text="Still here.").status_code == 200
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(30) == 0
