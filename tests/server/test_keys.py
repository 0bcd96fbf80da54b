"""Who may come in, and how much: keys, their limits, web pages; and no key in any log."""

from __future__ import annotations

import json
import re
import stat
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from server.app import create_app
from server.guard import OPEN_PATHS
from server.keys import Keys, add
from speech.errors import StartupError
from speech.service import Service
from speech.settings import Settings
from tests.conftest import ROOT, Served
from tests.server.conftest import PAGE, Guarded
from tests.server.test_load import until
from tests.server.test_main import started
from tests.speech.test_operations import GOOD, Scripted
from tests.test_docs import DEFAULT_URL, blocks, run

HELLO = {"text": "Hello."}
WRONG = [
    {},
    {"Authorization": "Bearer"},
    {"Authorization": "Bearer duo_wrong"},
    {"Authorization": "Bearer " + "x" * 10_000},
    {"Authorization": "duo_wrong"},
    {"Authorization": "Basic YW5uOmFubg=="},
    {"X-API-Key": "duo_wrong"},
    {"X-API-Key": b"\xff\xfe"},
]


@pytest.mark.parametrize("headers", WRONG, ids=lambda headers: str(headers)[:40])
def test_without_a_key_that_holds_nothing_is_done(guarded: Guarded, headers: dict) -> None:
    with guarded.http() as http:
        answer = http.post("/speak", json=HELLO, headers=headers)
        unknown = http.get("/nothing", headers=headers)
        openai = http.post("/v1/audio/speech", json={}, headers=headers)
    assert (answer.status_code, answer.json()["code"], unknown.status_code) == (401, "unauthorised", 401)
    assert answer.headers["www-authenticate"].startswith("Bearer")
    told = openai.json()["error"]
    assert openai.status_code == 401
    assert (told["type"], told["code"], told["param"]) == ("authentication_error", "invalid_api_key", None)
    assert told["message"]


def test_a_key_is_taken_from_either_header(guarded: Guarded, key: str) -> None:
    with guarded.http() as http:
        for headers in (
            {"Authorization": f"Bearer {key}"},
            {"authorization": f"bearer  {key}"},
            {"X-API-Key": key},
            {"X-API-Key": key, "Authorization": "Bearer sk-whatever-the-client-was-born-with"},
        ):
            assert http.post("/speak", json=HELLO, headers=headers).status_code == 200, headers
        assert http.post(f"/speak?api_key={key}", json=HELLO).status_code == 401, "an address ends up in logs"


def test_what_clients_read_without_a_key_stays_readable(guarded: Guarded) -> None:
    with guarded.http() as http:
        assert (http.get("/health").status_code, http.head("/health").status_code) == (200, 200)
        schema = http.get("/openapi.json").json()
        assert schema["components"]["securitySchemes"][next(iter(schema["security"][0]))]["scheme"] == "bearer"
        for path in OPEN_PATHS:
            assert http.get(path).status_code != 401, path
            assert http.post(path, json={}).status_code == 401, path
        for path in ("/health/../speak", "//health", "/health/x", "/health%2f", "/HEALTH", "/v1/models/x", "/metrics"):
            assert http.get(path).status_code == 401, path


def test_keys_come_and_go_while_the_server_runs(guarded: Guarded) -> None:
    with guarded.http(guarded.add("shortlived")) as http:
        assert http.post("/speak", json=HELLO).status_code == 200
        assert "shortlived" in guarded.manage("list").stdout
        assert guarded.manage("revoke", "shortlived").returncode == 0
        answer = http.post("/speak", json=HELLO)
        assert answer.status_code == 401
        assert "revoked" in answer.json()["detail"]
    assert "shortlived" not in guarded.manage("list").stdout


def test_a_broken_file_revokes_nobody_and_lets_nobody_in(guarded: Guarded, key: str) -> None:
    good = guarded.keys.read_bytes()
    with guarded.http(key) as http, guarded.http("duo_wrong") as stranger:
        for broken in (b"{", b"", b"[]", b'{"keys": [{"name": "x"}]}', None):
            guarded.keys.unlink() if broken is None else guarded.keys.write_bytes(broken)
            assert http.post("/speak", json=HELLO).status_code == 200
            assert stranger.post("/speak", json=HELLO).status_code == 401
        guarded.keys.write_bytes(good)
        assert http.post("/speak", json=HELLO).status_code == 200
    log = guarded.log.read_text()
    assert log.count("the keys read before are kept") == 5
    assert "Traceback" not in log


def test_a_minute_s_worth_and_no_more(guarded: Guarded) -> None:
    with guarded.http(guarded.add("hasty", "--per-minute", "3")) as http:
        statuses = [http.post("/speak", json=HELLO).status_code for _ in range(3)]
        late = http.post("/speak", json=HELLO)
        assert http.get("/health").status_code == 200
        openai = http.post("/v1/audio/speech", json={})
    assert statuses == [200, 200, 200]
    assert (late.status_code, late.json()["code"]) == (429, "rate_limited")
    assert 1 <= int(late.headers["retry-after"]) <= 20
    told = openai.json()["error"]
    assert (openai.status_code, told["type"], told["code"]) == (429, "rate_limit_error", "rate_limit_exceeded")


def test_where_no_keys_are_asked_an_address_has_a_limit() -> None:
    settings = Settings(rate_per_minute=2)
    service = Service(Scripted([GOOD] * 9), settings)
    service.start()
    app = create_app(service, settings)

    def statuses(address: str, count: int) -> list[int]:
        http = TestClient(app, client=(address, 50_000))
        return [http.post("/speak", json=HELLO).status_code for _ in range(count)]

    assert statuses("192.0.2.1", 3) == [200, 200, 429]
    assert statuses("192.0.2.2", 1) == [200]
    assert statuses("2001:db8::1", 2) == [200, 200]
    assert statuses("2001:db8::ffff:2", 1) == [429], "whoever has one address of a /64 has them all"
    assert statuses("2001:db8:1::1", 1) == [200]
    assert TestClient(app, client=("192.0.2.1", 1)).get("/health").status_code == 200


def handshake(guarded: Guarded, path: str, **options: object) -> tuple[int, str]:
    with pytest.raises(InvalidStatus) as refused:
        connect(guarded.url.replace("http", "ws") + path, **options).close()  # type: ignore[arg-type]
    return refused.value.response.status_code, refused.value.response.body.decode()


def test_a_websocket_needs_a_key_too(guarded: Guarded, key: str) -> None:
    """There is nothing at this path: who is let in learns so, and who is not does not."""
    for path in ("/nothing", "/nothing?api_key=duo_wrong", "/health"):
        status, told = handshake(guarded, path)
        assert (status, json.loads(told)["code"]) == (401, "unauthorised")
    assert handshake(guarded, f"/nothing?api_key={key}")[0] not in (101, 401)
    assert handshake(guarded, "/nothing", additional_headers={"X-API-Key": key})[0] not in (101, 401)


def test_a_page_of_another_origin_opens_no_websocket(guarded: Guarded, key: str) -> None:
    status, told = handshake(guarded, f"/nothing?api_key={key}", origin="https://evil.example")
    assert (status, "DUOLOGUE_CORS_ORIGINS" in told) == (403, True)
    for origin in (guarded.url, PAGE):
        assert "DUOLOGUE_CORS_ORIGINS" not in handshake(guarded, f"/nothing?api_key={key}", origin=origin)[1]


def test_websockets_leave_room_for_plain_requests(guarded: Guarded, key: str) -> None:
    url = guarded.url.replace("http", "ws") + f"/ws?api_key={key}"
    with ExitStack() as half:
        for _ in range(20):
            half.enter_context(connect(url))
        status, told = handshake(guarded, f"/ws?api_key={key}")
        assert (status, json.loads(told)["code"]) == (429, "busy")
        with guarded.http(key) as http:
            assert http.post("/speak", json=HELLO).status_code == 200
    assert until(lambda: can_connect(url))


def test_each_utterance_of_a_websocket_counts(guarded: Guarded) -> None:
    key = guarded.add("talkative", "--per-minute", "3")
    said = json.dumps({"type": "text", "text": "Hello."}), json.dumps({"type": "end"})

    def outcome(socket: ClientConnection) -> dict:
        for message in said:
            socket.send(message)
        while True:
            heard = socket.recv(60)
            told = json.loads(heard) if isinstance(heard, str) else {}
            if told.get("type") in ("done", "error"):
                return told

    with connect(guarded.url.replace("http", "ws") + f"/ws?api_key={key}") as socket:
        assert [outcome(socket)["type"] for _ in range(2)] == ["done", "done"]
        assert outcome(socket)["code"] == "rate_limited"
        assert guarded.manage("revoke", "talkative").returncode == 0
        assert outcome(socket)["code"] == "unauthorised"


def can_connect(url: str) -> bool:
    with suppress(InvalidStatus), connect(url):
        return True
    return False


def test_pages_that_were_named_may_call_and_read_why_not(guarded: Guarded) -> None:
    wanted = "authorization,x-stainless-os"
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": wanted}
    with guarded.http(Origin=PAGE) as page, guarded.http(Origin="https://evil.example") as other:
        asked = page.options("/speak", headers=preflight)
        refused = page.post("/speak", json=HELLO)
        assert other.options("/speak", headers=preflight).status_code == 400
        foreign = other.post("/speak", json=HELLO)
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, PAGE)
    assert "authorization" in asked.headers["access-control-allow-headers"].lower()
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, PAGE)
    assert "access-control-allow-origin" not in foreign.headers
    documented = set(re.findall(r"`(X-[\w-]+)`", (ROOT / "docs/operations.md").read_text("utf-8")))
    assert documented <= set(refused.headers["access-control-expose-headers"].split(", "))
    assert all("access-control-allow-credentials" not in each.headers for each in (asked, refused, foreign))


def test_no_page_may_call_unless_one_was_named(hibari: Served) -> None:
    answer = hibari.http.get("/health", headers={"Origin": PAGE})
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_the_documented_commands_run(guarded: Guarded, tmp_path: Path) -> None:
    manage, use = (text for _, text in blocks("docs/keys.md"))
    run("bash", manage, tmp_path)
    assert json.loads((tmp_path / "keys.json").read_text())["keys"][0]["name"] == "ann"
    (tmp_path / "keys.json").unlink()
    (tmp_path / "keys.json").symlink_to(guarded.keys)
    run("bash", use.replace(DEFAULT_URL, guarded.url), tmp_path)
    assert (tmp_path / "in.wav").read_bytes()[:4] == (tmp_path / "too.wav").read_bytes()[:4] == b"RIFF"


def test_the_file_holds_no_key_and_is_nobody_else_s(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    secret = add(path, "ann")
    path.chmod(0o644)
    other = add(path, "bob", per_minute=5)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not any(shown in path.read_text() for shown in (secret, other))
    assert len(secret) >= 47 and secret != other
    assert [each.name for each in tmp_path.iterdir()] == ["keys.json"]
    found = Keys(path).find(other)
    assert found and (found.name, found.per_minute) == ("bob", 5)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("add", "first"), "already"),
        (("add", "a/../b"), "letters, digits"),
        (("add", "x" * 65), "letters, digits"),
        (("add", "none", "--per-minute", "0"), "a number from 1"),
        (("revoke", "nobody"), "there is no key called nobody"),
    ],
)
def test_a_mistake_at_the_command_line_is_told_in_a_line(guarded: Guarded, words: tuple[str, ...], told: str) -> None:
    before = guarded.keys.read_bytes()
    done = guarded.manage(*words)
    assert (done.returncode, done.stdout) == (1, "")
    assert told in done.stderr and done.stderr.count("\n") == 1
    assert guarded.keys.read_bytes() == before


@pytest.mark.parametrize(
    "content",
    ["", "{", '{"keys": [{"name": "duo_secret"}]}', '{"duo_secret": 1}', "[]", '{"keys": {"duo_secret": {}}}'],
)
def test_a_broken_file_is_told_at_start_and_not_quoted(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(content)
    with pytest.raises(StartupError, match="broken at") as told:
        Keys(path)
    assert "duo_secret" not in str(told.value)


def test_a_missing_file_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    with started(tmp_path / "log", engine="hibari", port="0", keys_file=str(tmp_path / "none.json")) as process:
        assert process.wait(30) == 1
    log = (tmp_path / "log").read_text()
    assert "python -m server.keys add" in log and len(log.splitlines()) == 1


def test_an_open_door_without_keys_is_told(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with started(log, engine="hibari", host="0.0.0.0", port="0"):
        assert until(lambda: "no key is asked" in log.read_text())
    assert "DUOLOGUE_KEYS_FILE=keys.json" in log.read_text()


def test_no_key_is_in_the_log(guarded: Guarded) -> None:
    """The last one here: by now keys have come by every way there is, good ones and bad ones."""
    with guarded.http(guarded.add("traced")) as http:
        http.post(f"/speak?api_key={guarded.shown[-1]}", json={"text": "?!"})
    log = guarded.log.read_text()
    assert until(lambda: "POST /speak 400" in guarded.log.read_text())
    assert "for traced" in guarded.log.read_text(), "the log names whose key it was"
    assert "POST /speak 401" in log and "POST /speak 200" in log
    assert not [shown for shown in guarded.shown if shown[:12] in log]
    assert "duo_" not in log and "api_key" not in log
