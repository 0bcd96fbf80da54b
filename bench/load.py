"""The server under more and more callers: `python -m bench.load`. Locust asks, in a process of its own.

Each caller asks for pcm through OpenAI's door, hears it out and asks again. Printed: speech made a second (throughput
over real time), time to first audio of those admitted, and the share of those told to come back.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.first_audio import ours, standing

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=20, help="at each number of callers")
    parser.add_argument("--engines", nargs="+", default=["hibari", "kokoro"])
    parser.add_argument("--callers", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32, 64])
    options, _ = parser.parse_known_args()
    result: dict[str, object] = {"bench": "load", "seconds": options.seconds}
    print("engine  callers  answers/s  speech/s  first p50   p90   p99  whole p99   429   errors")
    for engine in options.engines:
        command, env, port = ours(engine)
        with standing(command, env, port):
            for callers in options.callers:
                stats = asked(port, callers, options.seconds)
                answered, refused = stats.get("audio"), stats.get("refused")
                took_s = stats["whole"]["last_request_timestamp"] - stats["whole"]["start_time"]
                answers = answered["num_requests"] if answered else 0
                told = refused["num_requests"] if refused else 0
                row = {
                    "answers_s": answers / took_s,
                    "speech_s": answered["total_response_time"] / 1000 / took_s if answered else 0.0,
                    "first_p50_ms": percentile(stats.get("first"), 0.5),
                    "first_p90_ms": percentile(stats.get("first"), 0.9),
                    "first_p99_ms": percentile(stats.get("first"), 0.99),
                    "refused_share": told / max(1, answers + told),
                    "errors": stats["whole"]["num_failures"],
                }
                result[f"{engine} {callers}"] = {key: round(value, 3) for key, value in row.items()}
                print(
                    f"{engine:7} {callers:7} {row['answers_s']:10.2f} {row['speech_s']:9.1f} "
                    f"{row['first_p50_ms']:10.0f} {row['first_p90_ms']:5.0f} {row['first_p99_ms']:5.0f} "
                    f"{100 * row['refused_share']:8.1f}% {row['errors']:6}",
                    flush=True,
                )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
