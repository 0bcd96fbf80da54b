"""API keys: who may come in, in a file that names each key and never holds one.

The file holds SHA-256 of each key. A slow hash would add nothing: it makes guessing dear where people choose words,
and nobody guesses 32 random bytes. Knows nothing of HTTP. `python -m server.keys` writes the file; a running server
reads it again when it changes, so that a key is revoked at once.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path

from loguru import logger
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from speech.errors import StartupError
from speech.settings import Settings

PREFIX = "duo_"
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class Key(BaseModel):
    """One key, as the file knows it. A limit that is None is none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=NAME)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    made: date
    per_minute: int | None = Field(None, ge=1, le=1_000_000)
    at_once: int | None = Field(None, ge=1, le=1_000_000)


class KeyFile(BaseModel):
    """What the file holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: tuple[Key, ...] = ()

    @model_validator(mode="after")
    def _names_differ(self) -> KeyFile:
        if len({key.name for key in self.keys}) < len(self.keys):
            raise ValueError("two keys have the same name")
        return self


class Keys:
    """The keys that hold now, read again whenever the file changes. For one thread."""

    def __init__(self, path: Path) -> None:
        """Raises StartupError for a file that is missing or broken."""
        self._path = path
        self._seen = _state_of(path)
        self._keys = load(path).keys

    def find(self, presented: str) -> Key | None:
        """The key that `presented` is, or None; takes the same time whatever it is."""
        self._refresh()
        digest = digest_of(presented)
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found

    def holds(self, key: Key) -> bool:
        """Whether `key`, found earlier, has not been revoked since."""
        self._refresh()
        return any(key.sha256 == each.sha256 for each in self._keys)

    def _refresh(self) -> None:
        state = _state_of(self._path)
        if state == self._seen:
            return
        self._seen = state
        try:
            self._keys = load(self._path).keys
        except StartupError as error:
            logger.error("{}; the keys read before are kept", error)
        else:
            logger.info("the keys have changed; there are {}", len(self._keys))


def keys_of(settings: Settings) -> Keys | None:
    """The keys that `settings` asks for; None where everybody may come in. Raises StartupError."""
    return None if settings.keys_file is None else Keys(Path(settings.keys_file))


def digest_of(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def load(path: Path) -> KeyFile:
    """The file at `path`. Raises StartupError; what it says never quotes the file."""
    try:
        return KeyFile.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        cure = "make one with `python -m server.keys add NAME`, or unset DUOLOGUE_KEYS_FILE to let everybody in"
        raise StartupError(f"there is no file of keys at {path}; {cure}") from None
    except OSError as error:
        raise StartupError(f"the file of keys {path} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        ours = {"keys", *Key.model_fields}
        place = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or part in ours) or "its top"
        raise StartupError(f"the file of keys {path} is broken at {place}: {first['msg']}") from None


def add(path: Path, name: str, *, per_minute: int | None = None, at_once: int | None = None) -> str:
    """Make a key called `name` in the file at `path`, which is made too where there is none. The key itself is
    returned and not kept. Raises ValueError, StartupError or OSError."""
    secret = PREFIX + secrets.token_urlsafe(32)
    with _alone(path):
        before = load(path).keys if path.exists() else ()
        if any(key.name == name for key in before):
            raise ValueError(f"there is a key called {name} already; revoke it first, or choose another name")
        try:
            key = Key(name=name, sha256=digest_of(secret), made=date.today(), per_minute=per_minute, at_once=at_once)
        except ValidationError as error:
            field = error.errors()[0]["loc"][0]
            cure = "is 1 to 64 letters, digits, . _ or -" if field == "name" else "is a number from 1 to 1000000"
            raise ValueError(f"{field}: {cure}") from None
        _write(path, KeyFile(keys=(*before, key)))
    return secret


def revoke(path: Path, name: str) -> None:
    """Strike the key called `name`. Raises ValueError where there is none, StartupError or OSError."""
    with _alone(path):
        before = load(path).keys
        left = tuple(key for key in before if key.name != name)
        if len(left) == len(before):
            known = ", ".join(key.name for key in before) or "none"
            raise ValueError(f"there is no key called {name}; the keys are: {known}")
        _write(path, KeyFile(keys=left))


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """While no other process changes the file."""
    folder = os.open(path.resolve().parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _write(path: Path, content: KeyFile) -> None:
    """All or nothing, for this user's eyes only: mkstemp gives mode 600."""
    path = path.resolve()
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with suppress(OSError):  # where root changes it, the server's own user must still be able to read it
            before = path.stat()
            os.fchown(handle, before.st_uid, before.st_gid)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(content.model_dump_json(indent=2, exclude_none=True) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def _state_of(path: Path) -> tuple[int, int, int] | None:
    """What changes when the file does; None where it cannot be seen."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
