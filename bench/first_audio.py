"""How soon the first sound comes through OpenAI's door, beside another server on the same Kokoro weights and voices:
`python -m bench.first_audio --rival PYTHON`, where PYTHON has fastkokoro[cpu]==0.7.0; without it, ours alone.

All servers stand at once and are asked in turn, so that they differ by themselves and not by the minute. "engine" is
the engine's own first chunk, as our server tells it; the rest of the time to the first byte is what HTTP adds.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np

from speech.engines.kokoro.model import stored
from speech.engines.kokoro.voices import VOICES, style_table

ROOT = Path(__file__).parent.parent
TEXTS = {
    "short": "Hello there, friend.",
    "medium": "The weather is lovely today, so we went outside.",
    "long": "When the storm had finally passed, the fishermen went down to the harbour to see what was left of their "
    "boats, and most of them found nothing.",
    "no comma": "The committee decided that the old bridge over the river should be closed to all traffic until the "
    "engineers have finished their report.",
}
VOICE = "af_heart"
SAMPLE_RATE_HZ = 24_000


@dataclass(frozen=True)
class Answer:
    """first_s: to the first byte of sound. engine_s: to the engine's first chunk, where it is told. audio_s: of it."""

    first_s: float
    whole_s: float
    audio_s: float
    engine_s: float | None


def ask(http: httpx.Client, text: str) -> Answer:
    """One request for pcm."""
    body = {"model": "tts-1", "input": text, "voice": VOICE, "response_format": "pcm"}
    began_s, first_s, nbytes = time.perf_counter(), 0.0, 0
    with http.stream("POST", "/v1/audio/speech", json=body) as response:
        response.raise_for_status()
        for data in response.iter_raw():
            first_s = first_s or time.perf_counter() - began_s
            nbytes += len(data)
    told = response.headers.get("x-first-audio-ms")
    engine_s = float(told) / 1000 if told else None
    return Answer(first_s, time.perf_counter() - began_s, nbytes / 2 / SAMPLE_RATE_HZ, engine_s)


@contextmanager
def standing(command: list[str], env: dict[str, str], port: int) -> Iterator[httpx.Client]:
    """A server in a process of its own, ready."""
    process = subprocess.Popen(
        command, env=os.environ | env, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as http:
            for _ in range(600):
                if process.poll() is not None:
                    raise SystemExit(f"{command[0]} ended before it was ready")
                try:
                    if http.get("/health").is_success:
                        break
                except httpx.TransportError:
                    time.sleep(0.2)
            yield http
    finally:
        process.terminate()
        process.wait(30)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def ours(engine: str) -> tuple[list[str], dict[str, str], int]:
    port = free_port()
    env = {"DUOLOGUE_ENGINE": engine, "DUOLOGUE_PORT": str(port), "PYTHONPATH": str(ROOT)}
    return [sys.executable, "-m", "server"], env, port


def rival(python: str, folder: Path) -> tuple[list[str], dict[str, str], int]:
    """fastkokoro on the model and the voices that our Kokoro has."""
    (folder / "model.onnx").write_bytes(stored())
    np.savez(folder / "voices.npz", **{name: style_table(name)[:, None] for name in VOICES})
    port = free_port()
    env = {
        "FASTKOKORO_MODEL_PATH": str(folder / "model.onnx"),
        "FASTKOKORO_VOICES_PATH": str(folder / "voices.npz"),
        "FASTKOKORO_CACHE_DIR": str(folder / "cache"),
        "FASTKOKORO_HOST": "127.0.0.1",
        "FASTKOKORO_PORT": str(port),
    }
    return [str(Path(python).parent / "fastkokoro")], env, port


def row(answers: list[Answer]) -> dict[str, float]:
    first = [answer.first_s for answer in answers]
    figures = {
        "audio_ms": 1000 * answers[0].audio_s,
        "first_ms": 1000 * statistics.median(first),
        "first_p90_ms": 1000 * sorted(first)[int(0.9 * len(first))],
        "whole_ms": 1000 * statistics.median(answer.whole_s for answer in answers),
        "rtf": statistics.median(answer.whole_s / answer.audio_s for answer in answers),
    }
    added = [answer.first_s - answer.engine_s for answer in answers if answer.engine_s is not None]
    return figures | ({"added_ms": 1000 * statistics.median(added)} if added else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rival", metavar="PYTHON", help="of an environment with fastkokoro[cpu]==0.7.0")
    parser.add_argument("--rounds", type=int, default=15)
    options, _ = parser.parse_known_args()
    result: dict[str, object] = {"bench": "first_audio", "rounds": options.rounds}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        wanted = {"kokoro": ours("kokoro"), "hibari": ours("hibari")}
        if options.rival:
            wanted["rival"] = rival(options.rival, Path(folder))
        servers = {name: stack.enter_context(standing(*each)) for name, each in wanted.items()}
        print(
            f"{'text':9} {'server':7} {'audio':>7} {'first':>7} {'p90':>7} {'added':>7} {'whole':>7} {'RTF':>6} "
            f"{'sooner':>7} {'done sooner':>12}   ms"
        )
        for kind, text in TEXTS.items():
            answers: dict[str, list[Answer]] = {name: [] for name in servers}
            for http in servers.values():
                ask(http, text)
            for _ in range(options.rounds):
                for name, http in servers.items():
                    answers[name].append(ask(http, text))
            rows = {name: row(each) for name, each in answers.items()}
            for name, figures in rows.items():
                sooner, done = (
                    rows["rival"][which] / figures[which] if "rival" in rows else float("nan")
                    for which in ("first_ms", "whole_ms")
                )
                print(
                    f"{kind:9} {name:7} {figures['audio_ms']:7.0f} {figures['first_ms']:7.1f} "
                    f"{figures['first_p90_ms']:7.1f} {figures.get('added_ms', float('nan')):7.1f} "
                    f"{figures['whole_ms']:7.0f} {figures['rtf']:6.3f} {sooner:7.2f} {done:12.2f}"
                )
                result[f"{kind} {name}"] = {key: round(value, 3) for key, value in figures.items()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
