"""How many lines become files: splitting, halving, and when trying the rest is of no use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from clients import APIStatusError, Busy, ConnectionFailed, InvalidRequest, ServerFailed, Speech, TimedOut, TTSError
from clients.batch import Line, Result, read_lines, speak_lines


class Server:
    """Speaks texts but those it has an error for; keeps the sizes of the requests."""

    def __init__(self, errors: dict[str, TTSError] | None = None) -> None:
        self.errors = errors or {}
        self.sizes: list[int] = []

    def __call__(self, texts: list[str]) -> list[Speech]:
        self.sizes.append(len(texts))
        for text in texts:
            if text in self.errors:
                raise self.errors[text]
        return [Speech(text.encode()) for text in texts]


def run(server: Server, texts: Sequence[str], out_dir: Path) -> list[Result]:
    return list(speak_lines(server, read_lines("\n".join(texts)), out_dir, "wav"))


def failed(results: list[Result]) -> list[int]:
    return [result.line.number for result in results if isinstance(result.outcome, TTSError)]


TEXTS = [f"t{n}" for n in range(1, 24)]


def test_at_most_ten_a_request(tmp_path: Path) -> None:
    server = Server()
    results = run(server, TEXTS, tmp_path)
    assert server.sizes == [10, 10, 3]
    assert [r.outcome for r in results] == [tmp_path / f"{n:04}.wav" for n in range(1, 24)]
    assert (tmp_path / "0023.wav").read_bytes() == b"t23"


def test_no_lines(tmp_path: Path) -> None:
    assert run(Server(), [], tmp_path) == []


def test_lines_keep_their_numbers_in_the_file() -> None:
    assert read_lines("one\n\n  \r\n two \nthree") == [Line(1, "one"), Line(4, "two"), Line(5, "three")]


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("no", status=400, field="texts[2]"),
        InvalidRequest("too large", status=413),
        ServerFailed("no", status=500),
        TimedOut("slow"),
    ],
)
def test_a_bad_line_is_found_and_the_others_spoken(error: TTSError, tmp_path: Path) -> None:
    server = Server({"t3": error, "t15": error})
    results = run(server, TEXTS, tmp_path)
    assert failed(results) == [3, 15]
    assert [r.line.number for r in results] == list(range(1, 24))
    assert len(list(tmp_path.iterdir())) == 21


def test_a_busy_server_is_not_asked_more_often(tmp_path: Path) -> None:
    server = Server({"t3": Busy("full", status=429)})
    assert failed(run(server, TEXTS, tmp_path)) == list(range(1, 11))
    assert server.sizes == [10, 10, 3]


@pytest.mark.parametrize(
    "error",
    [
        ConnectionFailed("refused"),
        APIStatusError("not found", status=404),
        InvalidRequest("seed: no", status=400, field="seed"),
    ],
)
def test_an_error_that_is_not_the_lines_own_ends_it(error: TTSError, tmp_path: Path) -> None:
    server = Server({"t13": error})
    results = run(server, TEXTS, tmp_path)
    assert failed(results) == list(range(11, 24))
    assert server.sizes == [10, 10]


def test_it_ends_within_a_halved_request_too(tmp_path: Path) -> None:
    server = Server({"t1": TimedOut("slow"), "t3": ConnectionFailed("refused")})
    results = run(server, TEXTS[:12], tmp_path)
    assert failed(results) == [1, *range(3, 13)]
    assert server.sizes == [10, 5, 2, 1, 1, 3]
