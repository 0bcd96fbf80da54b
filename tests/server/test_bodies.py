"""Bombs in heads and bodies: a clear 4xx for whoever sends one, and nothing for everybody else."""

from __future__ import annotations

import gzip
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import httpx
import pytest

from tests.server.conftest import BODY_WAIT_S, Guarded
from tests.server.test_load import until

HELLO = {"text": "Hello."}


@contextmanager
def connected(guarded: Guarded) -> Iterator[socket.socket]:
    host, port = guarded.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        yield connection


def head(key: str, *lines: str) -> bytes:
    own = ("POST /speak HTTP/1.1", "Host: duologue", f"Authorization: Bearer {key}")
    return "\r\n".join([*own, *lines, "", ""]).encode()


def answer(connection: socket.socket) -> tuple[int, str]:
    """Status and text of what comes back until the other side closes, or nothing more of it comes."""
    received = b""
    with suppress(ConnectionError):
        while part := connection.recv(65_536):
            received += part
            length = re.search(rb"content-length: (\d+)", received)
            if length and len(received.partition(b"\r\n\r\n")[2]) >= int(length[1]):
                break
    status = re.match(rb"HTTP/1.1 (\d+)", received)
    return (int(status[1]) if status else 0), received.decode("latin-1")


BOMBS = {
    "one long header": lambda key: head(key, "X-Long: " + "x" * 80_000),
    "many headers": lambda key: head(key, *[f"X-{number}: y" for number in range(8_000)]),
    "a long key": lambda key: head("x" * 80_000),
    "a head without end": lambda key: head(key, "X: " + "x" * 80_000)[:-4],
    "a long path": lambda key: b"GET /" + b"x" * 80_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "no HTTP": lambda key: b"\x16\x03\x01\x02\x00\x01" * 99 + b"\r\n\r\n",
    "a length that is none": lambda key: head(key, "Content-Length: lots") + b"x",
    "a length below nothing": lambda key: head(key, "Content-Length: -1") + b"x",
    "two lengths": lambda key: head(key, "Content-Length: 1", "Content-Length: 2") + b"xx",
    "chunks that are none": lambda key: head(key, "Transfer-Encoding: chunked") + b"zzz\r\n{}\r\n",
    "a length of gigabytes": lambda key: head(key, "Content-Length: 99999999999"),
    "chunks of more than a MB": lambda key: head(key, "Transfer-Encoding: chunked") + b"100001\r\n" + b" " * 0x100001,
    "a line that writes the log": lambda key: head(key, "X: a\rSet-Cookie: b"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_and_nobody_else_notices(guarded: Guarded, key: str, bomb: str) -> None:
    with connected(guarded) as connection:
        connection.sendall(BOMBS[bomb](key))
        status, told = answer(connection)
    assert status in ((413,) if "more than" in bomb or "gigabytes" in bomb else (400, 431)), told
    assert "Traceback" not in told and ".py" not in told
    with guarded.http(key) as http:
        assert http.post("/speak", json=HELLO).status_code == 200


def test_a_packed_body_is_not_unpacked(guarded: Guarded, key: str) -> None:
    with guarded.http(key) as http:
        bomb = gzip.compress(b" " * (50 << 20))
        refused = http.post("/speak", content=bomb, headers={"Content-Encoding": "gzip"})
    assert (refused.status_code, refused.json()["field"]) == (400, "body")


def test_a_body_that_takes_for_ever_is_given_up_and_its_place_given_back(guarded: Guarded) -> None:
    key = guarded.add("slow", "--at-once", "1")
    with connected(guarded) as slow, guarded.http(key) as http:
        slow.sendall(head(key, "Content-Length: 100") + b'{"text": ')
        assert until(lambda: http.post("/speak", json=HELLO).status_code == 429)
        busy = http.post("/speak", json=HELLO)
        assert busy.json()["code"] == "rate_limited" and int(busy.headers["retry-after"]) == 1
        assert http.get("/health").status_code == 200
        status, told = answer(slow)
        assert (status, f"{BODY_WAIT_S} s" in told, "body_too_slow" in told) == (408, True, True)
        assert slow.recv(1) == b"", "the rest is not waited for"
        assert until(lambda: http.post("/speak", json=HELLO).status_code == 200)


def test_large_bodies_share_a_bound_and_small_ones_pass(guarded: Guarded, key: str) -> None:
    large = b" " * 900_000

    def status_beside_another() -> int:
        with connected(guarded) as first:
            first.sendall(head(key, "Content-Length: 900001") + large)
            time.sleep(0.2)  # were it not read by then, it would be the one that is refused, and we try again
            status = http.post("/speak", content=large).status_code
            assert http.post("/speak", json=HELLO).status_code == 200
        return status

    with guarded.http(key) as http:
        assert until(lambda: status_beside_another() == 429)
        assert until(lambda: http.post("/speak", content=large).status_code == 400), "alone it is read, and is no JSON"


def test_idle_connections_are_counted_and_forgotten(guarded: Guarded) -> None:
    def status() -> int:
        return httpx.get(f"{guarded.url}/health").status_code

    with ExitStack() as idle:
        for _ in range(40):
            idle.enter_context(connected(guarded))
        assert until(lambda: status() == 503)
    assert until(lambda: status() == 200)
