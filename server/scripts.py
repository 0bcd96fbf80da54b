"""What the doors of other servers share: a long answer in one piece; and what Dia's two have in common, its controls
and its scripts, with [S1] and [S2] for who speaks and (laughs) for a sound. Knows no path."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import ConfigDict, Field

import schemas
from audio_utils import Format
from speech.caller import Caller
from speech.engines.base import EngineInfo, Line
from speech.errors import InvalidInput
from speech.operations import audio_reply
from speech.reply import Reply
from speech.service import Service
from speech.streaming import Part, Speaking, parts_of
from speech.text.cues import without_cues
from speech.text.split import passages

MAX_ANSWER_MS = 15 * 60_000
"""10000 characters take 11 minutes; what is longer is cut, and said to be."""


class Controls(schemas.Model):
    """Dia's sampling, by its names. What a client sends that is not known here is passed over."""

    model_config = ConfigDict(extra="ignore")

    cfg_scale: float = Field(
        3.0, ge=1, le=10, allow_inf_nan=False, description="Guidance: for engines that have it; see X-Ignored."
    )
    temperature: float = Field(
        1.3, ge=0, le=2, allow_inf_nan=False, description="0 takes the likeliest code each time; higher varies more."
    )
    top_p: float = Field(
        0.95, gt=0, le=1, allow_inf_nan=False, description="Nucleus: for engines that have it; see X-Ignored."
    )
    cfg_filter_top_k: int = Field(35, ge=1, le=2048, description="How many of the likeliest codes are drawn from.")
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = Field(
        None, description="The same seed gives the same audio; none draws a fresh one."
    )

    def sampling(self, *, speed: float = 1, response_format: Format = "wav") -> schemas.Sampling:
        """These controls as every engine here takes them."""
        return schemas.Sampling(
            seed=self.seed,
            temperature=self.temperature,
            top_k=self.cfg_filter_top_k,
            speed=speed,
            response_format=response_format,
        )

    def ignored(self, info: EngineInfo) -> tuple[str, ...]:
        """The controls that were asked for and change nothing here.

        An engine's info says in one word whether it heeds temperature and top_k. One that heeds more will name them
        there, and this stays the difference.
        """
        heeded = {"temperature", "cfg_filter_top_k", "seed"} if info.sampling else {"seed"}
        return tuple(name for name in Controls.model_fields if name in self.model_fields_set - heeded)


@dataclass(frozen=True, slots=True)
class Script:
    """A text as it will be spoken. parts: never empty. left_out: the cues that the engine cannot make."""

    parts: list[Part]
    left_out: tuple[str, ...]


def script(text: str, info: EngineInfo, *, field: str = "text", max_chars: int | None = None) -> Script:
    """`text` in parts for the engine, at most `max_chars` characters each. Raises InvalidInput for `field` where it
    holds nothing to say."""
    spoken, left_out = without_cues(text, info.cues)
    if not passages(spoken):
        raise InvalidInput(field, "has nothing to say beside its tags", "write at least one letter or digit")
    parts = parts_of(spoken, info, max_chars=max_chars)
    return Script([replace(part, field=field) for part in parts], left_out)


def opened(service: Service, caller: Caller, line: Callable[[], Line], parts: Iterable[Part]) -> Speaking:
    """`parts` under way, each said as `line` would be, which is called with a place held. Raises SpeechError."""

    def prepare() -> Callable[[], Line]:
        made = line()
        return lambda: made

    return Speaking.open(service, caller, prepare, parts)


def answer(
    service: Service,
    speaking: Speaking,
    request: schemas.Sampling,
    *,
    left_out: tuple[str, ...] = (),
    ignored: tuple[str, ...] = (),
) -> Reply:
    """All of `speaking` as one clip. left_out: cues, and ignored: fields, that came for nothing: they are told. Raises
    SpeechError."""
    take = speaking.collect()
    told = {"X-Chunks": str(len(speaking.spoken))}
    if ignored:
        told["X-Ignored"] = ", ".join(ignored)
    if left_out:
        told["X-Left-Out"] = ", ".join(f"({cue})" for cue in left_out)
    return audio_reply(service, request, speaking.line, take, told)
