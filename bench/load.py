"""The server under more and more callers: `python -m bench.load [--rival PYTHON]`, with PYTHON as in bench/first_audio.

Locust asks, in a process of its own: each caller asks for pcm through OpenAI's door, hears it out and asks again. All
servers stand at once, and each number of callers asks them one after the other. Printed: speech made a second
(throughput over real time), time to the first sound and to the last of those admitted, and the share of those told to
come back.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.first_audio import ours, rival, standing

HERE = Path(__file__).parent


def asked(port: int, callers: int, seconds: int) -> dict[str, dict[str, Any]]:
    """Locust's statistics by name, after so many callers for so long."""
    command = [sys.executable, "-m", "locust", "-f", str(HERE / "locustfile.py"), "--headless", "--json"]
    command += ["--users", str(callers), "--spawn-rate", "1000", "--run-time", f"{seconds}s", "--stop-timeout", "60"]
    command += ["--host", f"http://127.0.0.1:{port}", "--loglevel", "ERROR"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return {each["name"]: each for each in json.loads(done.stdout[done.stdout.index("[") :])}


def percentile(stats: dict[str, Any] | None, share: float) -> float:
    """From Locust's histogram of milliseconds."""
    if not stats:
        return float("nan")
    counts = sorted((float(ms), count) for ms, count in stats["response_times"].items())
    left = share * sum(count for _, count in counts)
    for ms, count in counts:
        left -= count
        if left <= 0:
            return ms
    return counts[-1][0]


def row(stats: dict[str, dict[str, Any]]) -> dict[str, float]:
    answered, refused, whole = stats.get("audio"), stats.get("refused"), stats.get("whole")
    asked_of = stats["asked"]
    took_s = asked_of["last_request_timestamp"] - asked_of["start_time"]
    answers = answered["num_requests"] if answered else 0
    told = refused["num_requests"] if refused else 0
    first = stats.get("first")
    return {
        "answers_s": answers / took_s,
        "speech_s": answered["total_response_time"] / 1000 / took_s if answered else 0.0,
        "first_p50_ms": percentile(first, 0.5),
        "first_p90_ms": percentile(first, 0.9),
        "first_p99_ms": percentile(first, 0.99),
        "whole_p50_ms": percentile(whole, 0.5),
        "whole_p99_ms": percentile(whole, 0.99),
        "refused_share": told / max(1, answers + told),
        "errors": asked_of["num_failures"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rival", metavar="PYTHON", help="of an environment with fastkokoro[cpu]==0.7.0")
    parser.add_argument("--seconds", type=int, default=20, help="of each server at each number of callers")
    parser.add_argument("--engines", nargs="+", default=["hibari", "kokoro"])
    parser.add_argument("--callers", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32, 64])
    options, _ = parser.parse_known_args()
    result: dict[str, object] = {"bench": "load", "seconds": options.seconds}
    print("callers  server  answers/s  speech/s  first p50    p90    p99  whole p50    p99    429  errors")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        wanted = {engine: ours(engine) for engine in options.engines}
        if options.rival:
            wanted["rival"] = rival(options.rival, Path(folder))
        for each in wanted.values():
            stack.enter_context(standing(*each))
        for callers in options.callers:
            for name, (_, _, port) in wanted.items():
                figures = row(asked(port, callers, options.seconds))
                result[f"{callers} {name}"] = {key: round(value, 3) for key, value in figures.items()}
                print(
                    f"{callers:7}  {name:7} {figures['answers_s']:9.2f} {figures['speech_s']:9.1f} "
                    f"{figures['first_p50_ms']:10.0f} {figures['first_p90_ms']:6.0f} {figures['first_p99_ms']:6.0f} "
                    f"{figures['whole_p50_ms']:10.0f} {figures['whole_p99_ms']:6.0f} "
                    f"{100 * figures['refused_share']:5.1f}% {figures['errors']:7}",
                    flush=True,
                )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
