"""The image the Chute runs in: the base, the packages, the files under /app, the settings it was built with.

Built by `chutes build my_tts:chute`, from the repository's root. Knows nothing of cords.
"""

from __future__ import annotations

import hashlib
import posixpath
import re

from chutes.config import get_config
from chutes.image import Image
from chutes.util.context import is_remote

from speech.errors import StartupError
from speech.release import FILES
from speech.settings import PREFIX, Settings

BASE = "parachutes/python:3.12"
"""The platform's own base: Python 3.12, CUDA 12 and what its GPU check needs, with a user `chutes` (id 1000). It is
published under tags only; once you know the digest you built with, append `@sha256:…` to pin it for good."""

APP = "/app"

NOT_BAKED = frozenset({"host", "port", "upstreams", "upstream_key", "upstream_slots"})
"""Settings of the self-hosted server: on Chutes the platform decides where to listen."""

_PLAIN = re.compile(r"[\w.:/@+,-]*")

_SELF_CHECK = "import speech.operations, speech.engines.registry, soundfile, av, torch"


def image_of(settings: Settings, release: str) -> Image:
    """The image of `release` with `settings` baked in.

    An instance sees the image's environment and the text of my_tts.py, not the deployer's shell, so each setting
    that was given is baked. The tag tells release and settings apart: with either changed, `chutes deploy` finds no
    image of that name and says so, rather than running the old one. The chute's name is baked but not told apart by
    the tag, so that several chutes can share an image.
    """
    env = baked(settings)
    image = Image(
        username=env[PREFIX + "USERNAME"],
        name="duologue",
        tag=_tag(release, env),
        readme="## Duologue\nA speech server for Sesame's CSM-1B: text in, conversation out.",
    ).from_base(BASE)
    image.set_user("root")
    # curl is for the platform's probe.
    image.run_command(
        "apt-get update && apt-get install -y --no-install-recommends curl && rm -rf /var/lib/apt/lists/*"
    )
    image.set_user("chutes")
    # The requirements come first: a change of code then rebuilds none of the packages.
    requirements = [path for path in FILES if path.startswith("requirements/")]
    _add(image, requirements)
    image.run_command(f"python -m pip install --no-cache-dir -r {APP}/requirements/gpu.txt")
    # PYTHONPATH: without it an installed package named cache or schemas would win over ours.
    image.with_env("PYTHONPATH", APP).with_env("HF_XET_HIGH_PERFORMANCE", "1")
    # Not auto: who pays for a GPU is told that the weights cannot be had, and not spoken to by an embedded voice.
    image.with_env(PREFIX + "ENGINE", "csm")
    _add(image, [path for path in FILES if path not in requirements])
    image.run_command(f'python -c "{_SELF_CHECK}"')
    for name, value in env.items():
        image.with_env(name, value)
    return image


def baked(settings: Settings) -> dict[str, str]:
    """The environment that gives an instance these settings. Raises StartupError for one that cannot be baked."""
    given = settings.model_dump(include=settings.model_fields_set - NOT_BAKED, exclude_none=True)
    given |= {"username": _username(settings), "chute": settings.chute}
    env = {PREFIX + name.upper(): str(value) for name, value in sorted(given.items())}
    for name, value in env.items():
        if not _PLAIN.fullmatch(value):
            raise StartupError(f"{name}={value!r} cannot go into an image: use letters, digits and .:/@+,_- only")
    return env


def _add(image: Image, patterns: list[str]) -> None:
    for pattern in patterns:
        image.add(pattern, posixpath.join(APP, posixpath.dirname(pattern), ""))


def _tag(release: str, env: dict[str, str]) -> str:
    names = {PREFIX + "USERNAME", PREFIX + "CHUTE"}
    settings = "\n".join(f"{name}={value}" for name, value in env.items() if name not in names)
    return f"{release}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}" if settings else release


def _username(settings: Settings) -> str:
    """Whose chute it is: the setting, else the account in the chutes config file; an instance has the setting."""
    if settings.username is not None:
        return settings.username
    if is_remote():
        return "local"
    username = get_config().auth.username
    if not username:
        raise StartupError(f"no Chutes account is known: run `chutes register`, or set {PREFIX}USERNAME")
    return username
