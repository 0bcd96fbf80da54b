"""The command line as a user runs it: a process of its own, against a server on the loopback."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from clients import TTSClient
from clients import cli as command_line
from clients.player import PLAYERS, PlayerFailed, find_player, play


def test_speak_to_a_file(cli: Any, server: Any, tmp_path: Path) -> None:
    done = cli("speak", "Hello", "--seed", "3", "--speaker", "0", "--api-key", "k", "-o", "a.mp3")
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr == b"a.mp3: 524 bytes, audio/wav, seed 3\n"
    assert (tmp_path / "a.mp3").read_bytes()[:4] == b"RIFF"
    path, headers, body = server.seen[0]
    assert path == "/speak"
    assert headers["Authorization"] == "Bearer k"
    assert body == {"text": "Hello", "seed": 3, "speaker": 0, "response_format": "mp3"}


def test_speak_from_stdin_to_stdout(cli: Any, server: Any) -> None:
    done = cli("speak", "-", "-o", "-", stdin="\ufeffHé\n".encode())
    assert (done.returncode, done.stdout[:4]) == (0, b"RIFF")
    assert server.seen[0][2] == {"text": "Hé", "response_format": "wav"}


def test_play(cli: Any, tmp_path: Path) -> None:
    player = tmp_path / "bin" / "aplay"
    player.parent.mkdir()
    player.write_text(f'#!/bin/sh\n/bin/cp "$2" {tmp_path}/played\necho noise\n')
    player.chmod(0o755)
    done = cli("speak", "Hello", "--play", path=str(player.parent))
    assert (done.returncode, done.stdout) == (0, b"")
    assert (tmp_path / "played").read_bytes()[:4] == b"RIFF"
    done = cli("speak", "Hello", "--play")
    assert done.returncode == 1
    assert done.stderr == b"python -m clients: nothing here plays wav; install one of ffplay, aplay, afplay, paplay\n"


def test_batch(cli: Any, server: Any, tmp_path: Path) -> None:
    lines = [f"line {n}" for n in range(1, 13)]
    lines[4] = "UNSPEAKABLE"
    lines[10] = "CRASH"
    (tmp_path / "in.txt").write_text("\n".join(lines))
    done = cli("batch", "in.txt", "--out-dir", "out/deep", "--format", "flac", "--max-duration-ms", "2000")
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == [
        "line 5: texts[0]: cannot be said; say something else",
        "line 11: the engine failed on this request",
        "python -m clients: 2 of 12 lines failed: 5, 11",
    ]
    names = sorted(path.name for path in (tmp_path / "out" / "deep").iterdir())
    assert names == [f"{n:04}.flac" for n in range(1, 13) if n not in (5, 11)]
    assert server.seen[0][2]["texts"] == lines[:10]
    assert server.seen[0][2]["max_duration_per_text_ms"] == 2000


def test_the_server_is_not_there(cli: Any) -> None:
    done = cli("speak", "Hello", "--url", "http://127.0.0.1:1", "--retries", "0", "-o", "-")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"python -m clients: cannot connect to http://127.0.0.1:1: ")
    assert done.stderr.count(b"\n") == 1


def main(server: Any, *arguments: str) -> int:
    """The exit code of a command run in this process, which is quicker."""
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DUOLOGUE_URL", server.url)
            return command_line.main(arguments)
    except SystemExit as end:
        assert isinstance(end.code, int)
        return end.code


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_file_of_text(server: Any, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("From a file.\n")
    assert main(server, "speak", "t.txt", "-o", "a.flac", "--format", "wav") == 0
    assert server.seen[0][2] == {"text": "From a file.", "response_format": "wav"}
    assert main(server, "speak", "long text " * 900, "-o", "a.ogg") == 0
    assert server.seen[1][2] == {"text": "long text " * 900, "response_format": "opus"}


def test_conversation(server: Any, tmp_path: Path) -> None:
    (tmp_path / "talk.txt").write_text("A: Hello\nB: Hi\n")
    assert main(server, "conversation", "talk.txt", "-o", "a.wav", "--max-duration-ms", "6000") == 0
    assert server.seen[0][0] == "/conversation"
    assert server.seen[0][2] == {
        "turns": [{"speaker": 0, "text": "Hello"}, {"speaker": 1, "text": "Hi"}],
        "max_total_duration_ms": 6000,
        "response_format": "wav",
    }


def test_clone(server: Any, tmp_path: Path) -> None:
    (tmp_path / "ref.wav").write_bytes(b"ref")
    assert main(server, "clone", "--reference", "ref.wav", "--reference-text", "Ref", "Hello", "-o", "a.wav") == 0
    assert server.seen[0][2] == {
        "text": "Hello",
        "reference_audio_b64": base64.b64encode(b"ref").decode(),
        "reference_text": "Ref",
        "response_format": "wav",
    }


def test_health(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(server, "health") == 0
    assert json.loads(capsys.readouterr().out) == {"status": "ready"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["speak", "UNSPEAKABLE", "-o", "a.wav"], 1, "text: cannot be said; say something else"),
        (["speak", "Hello", "-o", "a.wav", "--speaker", "9"], 1, "speaker"),
        (["clone", "--reference", "no.wav", "--reference-text", "R", "H", "-o", "a.wav"], 1, "no.wav: No such file"),
        (["conversation", "no.txt", "-o", "a.wav"], 1, "no.txt: No such file"),
        (["speak", "Hello", "-o", "folder.wav"], 1, "folder.wav: Is a directory"),
        (["speak", "Hello"], 2, "say where the sound goes"),
        (["speak", "Hello", "-o", "a.xyz"], 2, "a.xyz: cannot tell the format"),
        (["speak", "Hello", "-o", "no/a.wav"], 2, "there is no such folder"),
        (["speak", "Hello", "-o", "a.pcm", "--play"], 1, "no player takes pcm"),
        (["speak", "binary", "-o", "a.wav"], 2, "binary: not UTF-8"),
        (["conversation", "empty", "-o", "a.wav"], 2, "no turns"),
        (["batch", "empty", "--out-dir", "out"], 2, "no line says anything"),
        (["speak", "Hello", "-o", "a.wav", "--seed", "x"], 2, "invalid int value"),
        (["speak", "Hello", "-o", "a.wav", "--temperature", "nan"], 1, "JSON compliant"),
        (["speak", "Hello", "-o", "a.wav", "--retries", "-1"], 2, "retries"),
        (["speak", "Hello", "-o", "a.wav", "--api-key", "clé"], 2, "api_key"),
        (["sing"], 2, "invalid choice"),
        ([], 2, "required: COMMAND"),
    ],
)
def test_one_line_tells_what_went_wrong(
    *, arguments: list[str], code: int, words: str, server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "folder.wav").mkdir()
    assert main(server, *arguments) == code
    out, err = capsys.readouterr()
    assert words in err
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("python -m clients: ")


def test_a_missing_key_is_told_how_to_give_it(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    server.key = "k"
    assert main(server, "speak", "Hello", "-o", "a.wav") == 1
    assert "DUOLOGUE_API_KEY" in capsys.readouterr().err


def test_a_servers_words_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    command_line._say("\x1b[2Jred\nand\tmore")
    assert capsys.readouterr().err == "python -m clients: ?[2Jred and more\n"


def test_an_interrupt_ends_quietly(
    server: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TTSClient, "speak", interrupt)
    assert main(server, "speak", "Hello", "-o", "a.wav") == 130
    assert capsys.readouterr().err == "python -m clients: interrupted\n"


def test_the_first_player_that_takes_the_format_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("aplay", "paplay"):
        (tmp_path / name).write_text("#!/bin/sh\necho no sound card >&2\nexit 3\n")
        (tmp_path / name).chmod(0o755)
    assert find_player("wav") is PLAYERS[1]
    assert find_player("flac") is PLAYERS[3]
    with pytest.raises(PlayerFailed, match="install one of ffplay, afplay"):
        find_player("mp3")
    with pytest.raises(PlayerFailed, match="aplay failed: no sound card"):
        play(PLAYERS[1], b"RIFF", "wav")
