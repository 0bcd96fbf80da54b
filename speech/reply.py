"""An answer, as a face sends it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Reply:
    """body: bytes of `media_type`. headers: lower case of no meaning to a gateway that drops them."""

    body: bytes
    media_type: str
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return len(self.body)
