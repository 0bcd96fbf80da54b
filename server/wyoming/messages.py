"""What a client says on the Wyoming protocol that is more than a word.

What is not known here is passed over, as the protocol wants it; null means left out.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

import schemas
from speech.errors import InvalidInput

MAX_DURATION_MS = 15 * 60_000


class Manner(schemas.UtteranceRequest):
    """How a text is said: as the other doors say it, and for longer."""

    max_duration_ms: int = MAX_DURATION_MS


class Choice(schemas.Model):
    """A voice: by name, or whichever speaks the language. speaker: ours have one speaker each; without a name, it is
    the speaker of that number."""

    model_config = ConfigDict(extra="ignore")

    name: schemas.VoiceName | None = None
    language: Annotated[str, Field(max_length=64)] | None = None
    speaker: Literal["0", "1"] | None = None


class SynthesizeStart(schemas.Model):
    """A text follows, in pieces."""

    model_config = ConfigDict(extra="ignore")

    voice: Choice | None = None
    text_format: Literal["text"] | None = None

    @property
    def manner(self) -> Manner:
        choice = self.voice or Choice()
        speaker = {"speaker": int(choice.speaker)} if choice.speaker else {}
        return Manner.model_validate({"voice": choice.name, **speaker})


class Synthesize(SynthesizeStart):
    """Say `text`."""

    text: Annotated[schemas.Text, schemas.WHOLE_CHARACTERS]


class SynthesizeChunk(schemas.Model):
    """More of the text, cut anywhere."""

    model_config = ConfigDict(extra="ignore")

    text: Annotated[str, schemas.WHOLE_CHARACTERS]


def check_language(choice: Choice | None, languages: tuple[str, ...]) -> None:
    """Raises InvalidInput where a language is asked for that is not among `languages`, and no voice."""
    if choice and choice.language and not choice.name and choice.language[:2].lower() not in languages:
        raise InvalidInput("voice.language", "is not spoken here", "ask for " + " or ".join(languages))


def label_of(data: dict[str, Any]) -> str | None:
    """What a ping wants back, of which half a letter cannot be sent."""
    text = data.get("text")
    return text[:256].encode(errors="replace").decode() if isinstance(text, str) else None
