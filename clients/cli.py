"""The command line: what it takes, and what it does with what comes back. Errors are one line on stderr.

Exit codes: 0 done, 1 failed, 2 asked for wrongly, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args

from tqdm import tqdm

from .batch import read_lines, speak_lines
from .client import DEFAULT_TIMEOUT, TTSClient
from .errors import AuthenticationFailed, TTSError
from .player import PlayerFailed, find_player
from .script import ScriptError, read_turns
from .sink import Sink
from .values import ResponseFormat, Speech

DEFAULT_URL = "http://127.0.0.1:8000"
FORMATS: tuple[str, ...] = get_args(ResponseFormat)
EXTENSIONS = {**{f".{name}": name for name in FORMATS}, ".ogg": "opus", ".raw": "pcm"}


class UsageError(Exception):
    """The command was asked for wrongly."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains again when it ends
        return 1
    except KeyboardInterrupt:
        return _say("interrupted", code=130)
    except (UsageError, ScriptError) as error:
        return _say(error, code=2)
    except (TTSError, PlayerFailed, ValueError, OSError) as error:
        return _say(_words(error))
    return code


def _words(error: Exception) -> str:
    if isinstance(error, AuthenticationFailed):
        return f"{error}; give --api-key or set DUOLOGUE_API_KEY"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _speak(options: argparse.Namespace) -> int:
    sink = _sink(options)
    text = _text(options.text)
    with _client(options) as client:
        asked = {"speaker": options.speaker, "voice": options.voice, **_clone_options(options, sink)}
        if options.stream:
            sink.take_live(client.stream(text, **asked))
        else:
            sink.take(client.speak(text, **asked))
    return 0


def _clone(options: argparse.Namespace) -> int:
    sink = _sink(options)
    text = _text(options.text)
    with _client(options) as client:
        speech = client.clone_voice(text, options.reference, options.reference_text, **_clone_options(options, sink))
        sink.take(speech)
    return 0


def _conversation(options: argparse.Namespace) -> int:
    sink = _sink(options)
    turns = read_turns(_read(options.file))
    with _client(options) as client:
        sink.take(
            client.generate_conversation(
                turns, max_total_duration_ms=options.max_duration_ms, **_sampling(options, sink.response_format)
            )
        )
    return 0


def _batch(options: argparse.Namespace) -> int:
    lines = read_lines(_read(options.file))
    if not lines:
        raise UsageError(f"{options.file}: no line says anything")
    out_dir = Path(options.out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    extension = options.format or "wav"
    failed = []
    with _client(options) as client, tqdm(total=len(lines), unit="line", file=sys.stderr, disable=None) as bar:

        def speak(texts: list[str]) -> list[Speech]:
            return client.batch_speak(
                texts,
                speaker=options.speaker,
                voice=options.voice,
                max_duration_per_text_ms=options.max_duration_ms,
                **_sampling(options, extension),
            )

        for result in speak_lines(speak, lines, out_dir, extension):
            bar.update()
            if isinstance(result.outcome, TTSError):
                failed.append(result.line.number)
                bar.write(_one_line(f"line {result.line.number}: {result.outcome}"), file=sys.stderr)
    if failed:
        numbers = ", ".join(map(str, failed))
        return _say(f"{len(failed)} of {len(lines)} lines failed: {numbers}")
    return 0


def _health(options: argparse.Namespace) -> int:
    with _client(options) as client:
        print(json.dumps(client.health(), indent=2, ensure_ascii=False))
    return 0


def _sink(options: argparse.Namespace) -> Sink:
    """Where the sound of these options goes; whatever stands in its way is found before anything is asked."""
    file: str | None = options.output
    live: bool = getattr(options, "stream", False)
    playing: bool = options.play or (live and file is None)
    if file is None and not playing:
        raise UsageError("say where the sound goes: -o FILE, -o - for stdout, or --play")
    if file == "-" and sys.stdout.isatty():
        raise UsageError("sound is not for a terminal: redirect stdout or give -o FILE")
    response_format = options.format
    if response_format is None:
        unnamed = ".pcm" if live and file is None else ".wav"
        suffix = Path(file).suffix.lower() if file and file != "-" else unnamed
        response_format = EXTENSIONS.get(suffix)
        if response_format is None:
            raise UsageError(f"{file}: cannot tell the format from the name; give --format {'|'.join(FORMATS)}")
    if file and not Path(file).parent.is_dir():
        raise UsageError(f"{file}: there is no such folder")
    return Sink(file, response_format, find_player(response_format, live=live) if playing else None)


def _client(options: argparse.Namespace) -> TTSClient:
    timeout = DEFAULT_TIMEOUT if options.timeout is None else options.timeout
    try:
        return TTSClient(options.url, api_key=options.api_key, timeout=timeout, retries=options.retries)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _sampling(options: argparse.Namespace, response_format: str) -> Any:
    return {
        "seed": options.seed,
        "temperature": options.temperature,
        "top_k": options.top_k,
        "speed": options.speed,
        "response_format": response_format,
    }


def _clone_options(options: argparse.Namespace, sink: Sink) -> Any:
    return {"max_duration_ms": options.max_duration_ms, **_sampling(options, sink.response_format)}


def _text(argument: str) -> str:
    """`-` is stdin, the name of a file its contents, anything else itself."""
    return _read(argument).strip() if argument == "-" or os.path.isfile(argument) else argument


def _read(file: str) -> str:
    raw = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: not UTF-8 text") from error


def _say(error: object, *, code: int = 1) -> int:
    print(f"{_program()}: {_one_line(str(error))}", file=sys.stderr)
    return code


def _one_line(text: str) -> str:
    """`text` without line breaks and without what would move a terminal's cursor."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def _program() -> str:
    return f"python -m {__package__}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(_say(f"{message} (see --help)", code=2))


def _parser() -> argparse.ArgumentParser:
    server = _Parser(add_help=False)
    group = server.add_argument_group("server")
    url = os.environ.get("DUOLOGUE_URL") or DEFAULT_URL
    group.add_argument("--url", default=url, help="its address (DUOLOGUE_URL; now %(default)s)")
    group.add_argument("--api-key", metavar="KEY", help="better set as DUOLOGUE_API_KEY: arguments are seen by others")
    group.add_argument("--timeout", type=float, metavar="S", help="seconds without a byte until giving up (300)")
    group.add_argument("--retries", type=int, default=3, metavar="N", help="how often to try again (%(default)s)")

    voice = _Parser(add_help=False)
    group = voice.add_argument_group("speech (the server's defaults where left out)")
    group.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same audio")
    group.add_argument("--temperature", type=float, metavar="T", help="0 to 2")
    group.add_argument("--top-k", type=int, metavar="N")
    group.add_argument("--speed", type=float, metavar="X", help="the pace: 0.25 to 4")
    group.add_argument("--max-duration-ms", type=int, metavar="MS", help="the audio (in a batch, of each line)")
    group.add_argument("--format", choices=FORMATS, help="by default what the output's name ends in, or wav")

    speaker = _Parser(add_help=False)
    speaker.add_argument("--speaker", type=int, metavar="N", help="0 or 1")
    speaker.add_argument("--voice", metavar="NAME", help="one that the server has, in place of the speaker's own")

    output = _Parser(add_help=False)
    output.add_argument("-o", "--output", "--save", metavar="FILE", help="- for stdout")
    output.add_argument("--play", action="store_true", help="play it with ffplay, aplay, afplay or paplay")

    parser = _Parser(prog=_program(), description="Speech from a Duologue server.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    speak = commands.add_parser("speak", parents=[voice, speaker, output, server], help="say a text")
    speak.add_argument("text", metavar="TEXT", help="what to say, the name of a file that holds it, or - for stdin")
    speak.add_argument(
        "--stream", action="store_true", help="hear it while it is made: played, or written to the output, as it comes"
    )
    speak.set_defaults(run=_speak)

    conversation = commands.add_parser("conversation", parents=[voice, output, server], help="say a dialogue")
    conversation.add_argument("file", metavar="FILE", help="`A: Hello.` a line, or JSON turns; - for stdin")
    conversation.set_defaults(run=_conversation)

    clone = commands.add_parser("clone", parents=[voice, output, server], help="say a text in a recording's voice")
    clone.add_argument("--reference", required=True, metavar="FILE", help="the recording")
    clone.add_argument("--reference-text", required=True, metavar="TEXT", help="what is said in it")
    clone.add_argument("text", metavar="TEXT", help="as of speak")
    clone.set_defaults(run=_clone)

    batch = commands.add_parser("batch", parents=[voice, speaker, server], help="say each line of a file")
    batch.add_argument("file", metavar="FILE", help="one text a line; - for stdin")
    batch.add_argument("--out-dir", required=True, metavar="DIR", help="0001.wav for line 1, and so on")
    batch.set_defaults(run=_batch)

    health = commands.add_parser("health", parents=[server], help="what the server says of itself")
    health.set_defaults(run=_health)
    return parser
