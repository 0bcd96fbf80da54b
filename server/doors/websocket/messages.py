"""What a client says on /ws, message by message."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import Field

import schemas
from server import bodies
from speech.errors import InvalidInput


class Start(schemas.UtteranceRequest):
    """How the utterances from here on are said."""

    type: Literal["start"]
    utterance: Annotated[str, Field(max_length=64)] | None = None
    session_id: schemas.SessionId | None = None
    audio: Literal["binary", "base64"] = "binary"


class Text(schemas.Model):
    """More text, cut anywhere. May be empty: the first piece of a language model's answer often is."""

    type: Literal["text"]
    text: Annotated[str, Field(max_length=schemas.MAX_TEXT_CHARS), schemas.WHOLE_CHARACTERS]


class Flush(schemas.Model):
    """Say what has come so far."""

    type: Literal["flush"]


class End(schemas.Model):
    """The utterance is complete."""

    type: Literal["end"]


class Cancel(schemas.Model):
    """The listener has interrupted. played_ms: how much of `utterance` was heard, where the client knows."""

    type: Literal["cancel"]
    utterance: Annotated[str, Field(max_length=64)] | None = None
    played_ms: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] | None = None


class Heard(schemas.ContextSegment):
    """What somebody else has said meanwhile, with its sound: the next utterance hears it."""

    type: Literal["heard"]


MESSAGES: dict[str, type[schemas.Model]] = {
    "start": Start,
    "text": Text,
    "flush": Flush,
    "end": End,
    "cancel": Cancel,
    "heard": Heard,
}


def parsed(raw: str | None) -> schemas.Model:
    """A message. Raises InvalidInput for one that will not do."""
    if raw is None:
        raise InvalidInput("message", "is binary", "send JSON, as text frames")
    if bodies.has_too_many_values(raw.encode("utf-8", "replace")):
        raise InvalidInput("message", "holds more values than any message does", "send the fields of one message")
    try:
        message = json.loads(raw)
    except (ValueError, RecursionError):
        raise InvalidInput("message", "is not JSON", 'send one such as {"type": "text", "text": "Hello."}') from None
    kind = message.get("type") if isinstance(message, dict) else None
    if not isinstance(kind, str) or kind not in MESSAGES:
        raise InvalidInput("type", "is not known", "send one of " + ", ".join(MESSAGES))
    return schemas.parse(MESSAGES[kind], message)
