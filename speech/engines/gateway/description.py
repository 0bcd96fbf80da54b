"""What an upstream says of itself in /health, as an EngineInfo. Knows nothing of the network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

import schemas
from speech.engines.base import EngineInfo

_INFO = TypeAdapter(EngineInfo)


class Unsuitable(Exception):
    """What answered cannot be an upstream; the message says why, for the operator."""


@dataclass(frozen=True, slots=True)
class Description:
    """info: the upstream's own. speakers: its own voices that speak as 0 and 1, where it has any."""

    info: EngineInfo
    speakers: tuple[str | None, str | None]

    def difference(self, other: Description) -> str | None:
        """What keeps the two from standing in for each other, or None: the first field they differ in."""
        for name in (field for field in EngineInfo.__slots__ if field not in _MAY_DIFFER):
            mine, theirs = getattr(self.info, name), getattr(other.info, name)
            if mine != theirs:
                return f"{name} is {mine!r} here and {theirs!r} there"
        return None if self.speakers == other.speakers else "their speakers differ"


_MAY_DIFFER = frozenset({"device", "parallel", "notes"})


def described(health: dict[str, Any]) -> Description:
    """What `health` says. Raises Unsuitable where it is not that of a server of ours that is ready."""
    if health.get("status") != "ready":
        raise Unsuitable(f"is not ready but {health.get('status', 'no server of ours')!r}")
    try:
        info = _INFO.validate_python({**health, "name": health.get("engine")})
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"]))
        raise Unsuitable(
            f"does not tell its {field} in /health: it must be a Duologue server of this version"
        ) from None
    speakers = health.get("speakers")
    if not isinstance(speakers, list | tuple) or len(speakers) != 2:
        raise Unsuitable("does not tell its speakers in /health: it must be a Duologue server of this version")
    limit = min(info.max_text_chars, schemas.MAX_TEXT_CHARS)
    return Description(replace(info, max_text_chars=limit), (speakers[0], speakers[1]))
