"""`speak --stream`: heard or written as it comes, and what is said where it is not all of it."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clients import cli as command_line
from clients.player import PLAYERS, LivePlayer, Player, PlayerFailed, find_player

ROOT = Path(__file__).parents[2]
SAMPLES = b"\1\0" * 120 + b"\2\0" * 120
COPY = '#!/bin/sh\necho "$@" > {folder}/arguments\nexec /bin/cat > {folder}/played\n'

Install = Callable[..., str]


@pytest.fixture
def install(tmp_path: Path) -> Install:
    """Puts players on a PATH of their own, which it gives. The default one keeps what it is fed."""

    def install(script: str = COPY, *names: str) -> str:
        for name in names or ("aplay",):
            player = tmp_path / "bin" / name
            player.parent.mkdir(exist_ok=True)
            player.write_text(script.replace("{folder}", str(tmp_path)))
            player.chmod(0o755)
        return str(tmp_path / "bin")

    return install


@pytest.fixture
def main(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs a command in this process, in `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DUOLOGUE_URL", server.url)

    def main(*arguments: str, path: str = "") -> int:
        monkeypatch.setenv("PATH", path)
        return command_line.main(arguments)

    return main


def test_saved_as_it_comes_a_wav_is_whole(cli: Any, server: Any, tmp_path: Path) -> None:
    done = cli("speak", "Hello", "--stream", "-o", "a.wav", "--voice", "anna", "--speed", "1.5")
    assert (done.returncode, done.stdout) == (0, b"")
    first, saved = done.stderr.decode().splitlines()
    assert first.startswith("first sound after ") and first.endswith(" ms")
    assert 0 <= float(first.split()[3]) < 60_000
    assert saved == "a.wav: 524 bytes, audio/x, seed 7"
    path, _, body = server.seen[0]
    assert path == "/stream_speak"
    assert body == {"text": "Hello", "voice": "anna", "speed": 1.5, "response_format": "wav"}
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getnframes(), file.readframes(999)) == (240, SAMPLES)


def test_save_is_another_name_of_output(cli: Any, tmp_path: Path) -> None:
    done = cli("speak", "Saved.", "--stream", "--save", "x.wav")
    assert (done.returncode, done.stderr.decode().splitlines()[1:]) == (0, ["x.wav: 524 bytes, audio/x, seed 7"])
    assert (tmp_path / "x.wav").stat().st_size == 524


def test_to_stdout_it_is_as_it_came(cli: Any) -> None:
    done = cli("speak", "Hello", "--stream", "-o", "-")
    assert (done.returncode, done.stdout[:8], done.stdout[44:]) == (0, b"RIFF\xff\xff\xff\xff", SAMPLES)


def test_alone_it_plays(main: Any, install: Install, server: Any, tmp_path: Path) -> None:
    assert main("speak", "Hello", "--stream", path=install()) == 0
    assert server.seen[0][2]["response_format"] == "pcm"
    assert (tmp_path / "played").read_bytes() == SAMPLES
    assert "-t raw -f S16_LE -c 1 -r 24000 " in (tmp_path / "arguments").read_text()


@pytest.mark.parametrize("name", ["ffplay", "aplay", "paplay"])
def test_each_player_is_fed_samples_at_their_rate(main: Any, install: Install, tmp_path: Path, name: str) -> None:
    assert main("speak", "Hello", "--stream", "--play", "-o", "a.wav", path=install(COPY, name)) == 0
    assert (tmp_path / "played").read_bytes() == SAMPLES
    assert "24000" in (tmp_path / "arguments").read_text()
    assert (tmp_path / "a.wav").stat().st_size == 524


def test_other_formats_are_played_by_who_can(main: Any, install: Install, tmp_path: Path, capsys: Any) -> None:
    everyone = install(COPY, "afplay", "aplay", "paplay")
    assert main("speak", "Hello", "--stream", "--format", "mp3", path=everyone) == 1
    assert "nothing here plays mp3 as it comes; install one of ffplay" in capsys.readouterr().err
    assert main("speak", "Hello", "--stream", "--format", "mp3", path=install(COPY, "ffplay")) == 0
    assert (tmp_path / "played").read_bytes() == SAMPLES


def test_without_a_player_nothing_is_asked(main: Any, server: Any, capsys: Any) -> None:
    assert main("speak", "Hello", "--stream") == 1
    assert "nothing here plays pcm as it comes; install one of ffplay, aplay, paplay" in capsys.readouterr().err
    assert server.seen == []


def test_errors_before_the_first_sound_leave_an_old_file_alone(main: Any, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "a.wav").write_bytes(b"old")
    assert main("speak", "UNSPEAKABLE", "--stream", "-o", "a.wav") == 1
    assert capsys.readouterr().err == "python -m clients: text: cannot be said; say something else\n"
    assert (tmp_path / "a.wav").read_bytes() == b"old"


def test_what_came_before_it_broke_is_kept_and_said(main: Any, tmp_path: Path, capsys: Any) -> None:
    assert main("speak", "BREAK", "--stream", "-o", "a.wav") == 1
    assert capsys.readouterr().err.splitlines()[1:] == [
        "a.wav: cut off after 284 bytes",
        "python -m clients: the engine broke",
    ]
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert file.readframes(999) == SAMPLES[:240]


def test_a_file_that_cannot_seek(main: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    assert main("speak", "Hello", "--stream", "-o", "pipe", "--format", "wav") == 0
    reader.join()
    assert (read[0][:8], read[0][44:]) == (b"RIFF\xff\xff\xff\xff", SAMPLES)


def test_a_file_that_cannot_be_written(main: Any, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "folder.wav").mkdir()
    assert main("speak", "Hello", "--stream", "-o", "folder.wav") == 1
    assert capsys.readouterr().err.splitlines()[1:] == ["python -m clients: folder.wav: Is a directory"]


def test_a_player_that_dies_ends_it(main: Any, install: Install, server: Any, tmp_path: Path, capsys: Any) -> None:
    path = install("#!/bin/sh\necho no sound card >&2\nexit 3\n")
    assert main("speak", "Hello", "--stream", path=path) == 1
    assert "python -m clients: aplay failed: no sound card" in capsys.readouterr().err
    assert main("speak", "Hello", "--stream", "--play", "-o", "a.wav", path=path) == 1
    assert "a.wav: 524 bytes" in capsys.readouterr().err
    assert (tmp_path / "a.wav").stat().st_size == 524


def test_a_player_that_goes_quietly_has_not_played() -> None:
    gone = Player("sh", (), frozenset(), samples=("-c", "exit 0"))
    words = "sh failed: it ended before the sound did, with exit code 0"
    with pytest.raises(PlayerFailed, match=words), LivePlayer(gone, "pcm", 24_000) as player:
        while player.feed(bytes(1 << 16)):
            pass
    with pytest.raises(PlayerFailed, match="no such player does not start"):
        LivePlayer(Player("no such player", (), frozenset(), samples=("-",)), "pcm", 24_000)


def test_a_slow_player_holds_nothing_up(tmp_path: Path) -> None:
    go = tmp_path / "go"
    slow = Player("sh", (), frozenset(), samples=("-c", f"until [ -e {go} ]; do sleep 0.01; done; cat > {go}"))
    with LivePlayer(slow, "pcm", 24_000) as player:
        for _ in range(40):
            assert player.feed(b"x" * (1 << 16))  # far more than a pipe holds
        go.touch()
    assert go.stat().st_size == 40 << 16


def test_on_an_error_the_player_is_stopped() -> None:
    forever = Player("sleep", (), frozenset(), samples=("999",))
    with pytest.raises(KeyError), LivePlayer(forever, "pcm", 24_000) as player:
        player.feed(bytes(1 << 20))
        raise KeyError
    assert player._process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("size", [1, 7, 43, 44, 45, 999])
def test_the_header_is_not_played_wherever_it_is_divided(tmp_path: Path, size: int) -> None:
    whole = io.BytesIO()
    with wave.open(whole, "wb") as file:
        file.setparams((1, 2, 24_000, 0, "NONE", ""))
        file.writeframes(SAMPLES)
    raw = whole.getvalue()
    keeps = Player("sh", (), frozenset(), samples=("-c", f"cat > {tmp_path}/played"))
    with LivePlayer(keeps, "wav", 24_000) as player:
        for at in range(0, len(raw), size):
            player.feed(raw[at : at + size])
    assert (tmp_path / "played").read_bytes() == SAMPLES


def test_the_first_player_that_reads_stdin_is_found(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", install(COPY, "afplay", "paplay"))
    assert find_player("wav", live=True) is PLAYERS[3]
    assert find_player("wav") is PLAYERS[2]


@pytest.mark.parametrize("where", [["-o", "a.wav"], ["-o", "a.wav", "--play"]])
def test_an_interrupt_stops_the_server_and_keeps_what_came(
    server: Any, install: Install, tmp_path: Path, where: list[str]
) -> None:
    environment = {"PYTHONPATH": str(ROOT), "PATH": install(), "DUOLOGUE_URL": server.url, "NO_PROXY": "*"}
    command = [sys.executable, "-m", "clients", "speak", "STAY", "--stream", *where]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("first sound after")
        while not (tmp_path / "a.wav").exists() or (tmp_path / "a.wav").stat().st_size < 284:
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "a.wav: cut off after 284 bytes\npython -m clients: interrupted\n"
    assert process.returncode == 130
    assert server.caller_left.wait(60)
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert file.getnframes() == 120
