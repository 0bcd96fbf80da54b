"""`python -m server.keys`: makes, lists and revokes API keys; a running server takes notice by itself."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from server import keys
from speech.errors import StartupError


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m server.keys", description="API keys of the server.")
    parser.add_argument(
        "--file", help="where they are kept (default: DUOLOGUE_KEYS_FILE)", default=os.environ.get("DUOLOGUE_KEYS_FILE")
    )
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("add", help="make a key and show it, once")
    add.add_argument("name", help="whose it is: letters, digits, . _ -")
    add.add_argument("--per-minute", type=int, metavar="N", help="requests that it may send in a minute")
    add.add_argument("--at-once", type=int, metavar="N", help="requests that it may have open at once")
    commands.add_parser("list", help="show the names and limits of the keys")
    revoke = commands.add_parser("revoke", help="strike a key; it holds no more, at once")
    revoke.add_argument("name")
    asked = parser.parse_args()
    if not asked.file:
        parser.error("say where the keys are kept: set DUOLOGUE_KEYS_FILE=keys.json, or give --file keys.json")
    path = Path(asked.file)
    try:
        if asked.command == "add":
            secret = keys.add(path, asked.name, per_minute=asked.per_minute, at_once=asked.at_once)
            print(f"The key of {asked.name}, shown this once and kept nowhere:", file=sys.stderr)
            print(secret)
        elif asked.command == "revoke":
            keys.revoke(path, asked.name)
        else:
            _show(keys.load(path).keys)
    except (StartupError, ValueError) as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(f"the file of keys {path} cannot be changed: {error.strerror}")


def _show(listed: tuple[keys.Key, ...]) -> None:
    print(f"{'name':<24} {'made':<10} {'per minute':>10} {'at once':>8}")
    for key in listed:
        print(f"{key.name:<24} {key.made} {key.per_minute or 'any':>10} {key.at_once or 'any':>8}")


if __name__ == "__main__":
    main()
