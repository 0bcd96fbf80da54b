"""What this code calls itself, and whether the code that runs is the code that was meant.

On Chutes the code travels in two parts that age apart: the image carries every module, and a deployment carries the
text of my_tts.py alone. Both name the same release: `RELEASE` in my_tts.py is this version and a hash over every file
that goes into the image, written by `make release`. Where the two differ, my_tts.py refuses to start.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import sys
from pathlib import Path

from loguru import logger

from speech.errors import StartupError

VERSION = "0.1.0"

FILES = (
    "audio_utils.py",
    "cache.py",
    "image.py",
    "schemas.py",
    "requirements/csm.txt",
    "requirements/gpu.txt",
    "requirements/lock.txt",
    "requirements/serve.txt",
    "speech/*.py",
    "speech/engines/*.py",
    "speech/engines/csm/*.py",
    "speech/engines/kokoro/*.py",
    "speech/engines/kokoro/data/*.npz",
    "speech/engines/kokoro/data/*.onnx",
    "speech/quality/*.py",
    "speech/text/*.py",
    "speech/voices/*.py",
)
"""All that the image carries under /app, as patterns from the repository's root. Not my_tts.py: the platform writes
it there itself, from the text it was deployed with."""

OURS = ("audio_utils", "cache", "image", "schemas", "speech")
"""Names that an installed package might have too."""

_STAMP = re.compile(r'^RELEASE = "(.*)"$', re.MULTILINE)


def paths(root: Path) -> list[str]:
    """The files that `FILES` names under `root`, relative to it, sorted. Raises StartupError where one is missing."""
    found = set()
    for pattern in FILES:
        matches = [each.relative_to(root).as_posix() for each in root.glob(pattern)]
        if not matches:
            raise StartupError(f"nothing here is named {pattern}: this folder is not a whole release")
        found.update(matches)
    return sorted(found)


def release_of(root: Path) -> str:
    """The release that the files under `root` are."""
    digest = hashlib.sha256()
    for path in paths(root):
        content = (root / path).read_bytes()
        digest.update(f"{path}\0{len(content)}\0".encode())
        digest.update(content)
    return f"{VERSION}-{digest.hexdigest()[:12]}"


def require(stamp: str, root: Path) -> None:
    """Raise StartupError unless the files under `root` are the release `stamp` and are what gets imported.

    On a developer's own machine (`chutes run --dev`) another release is a warning only.
    """
    for name in OURS:
        origin = importlib.import_module(name).__file__
        if origin is None or root.resolve() not in Path(origin).resolve().parents:
            raise StartupError(f"{name} was imported from {origin}, not from {root}: set PYTHONPATH={root}")
    actual = release_of(root)
    if stamp == actual:
        return
    if os.environ.get("CHUTES_DEV_MODE") == "true":
        logger.warning("my_tts.py says {}, the code here is {}; `make release` before you deploy", stamp, actual)
    elif os.environ.get("CHUTES_EXECUTION_CONTEXT") == "REMOTE":
        raise StartupError(
            f"my_tts.py was deployed as release {stamp}, but this image carries {actual}: build and deploy again"
        )
    else:
        raise StartupError(f"my_tts.py says it is release {stamp}, but the code here is {actual}: run `make release`")


def stamp(root: Path) -> str:
    """Write the release that the files under `root` are into my_tts.py beside them."""
    release = release_of(root)
    chute = root / "my_tts.py"
    text, stamps = _STAMP.subn(f'RELEASE = "{release}"', chute.read_text(encoding="utf-8"))
    if stamps != 1:
        raise StartupError(f"my_tts.py has {stamps} lines that say RELEASE; it needs exactly one")
    chute.write_text(text, encoding="utf-8")
    return release


if __name__ == "__main__":
    sys.stdout.write(stamp(Path.cwd()) + "\n")
