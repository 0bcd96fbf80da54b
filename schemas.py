"""The wire contract: what callers send, field by field, with defaults and limits. Both faces parse with `parse`.

Knows nothing of what the fields mean. Units are in the names; choices are `Literal`, which leaves no dangling
reference in a published schema. JSON types are taken strictly: `"1"` is not a number and `true` is not a speaker.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from speech.errors import InvalidInput

ResponseFormat = Literal["wav", "flac", "mp3", "opus", "aac", "pcm"]

MAX_NAME_CHARS = 80
"""Of a field that an error names."""

SPEED = (0.25, 4.0)
"""The least and the greatest pace."""

MAX_TEXT_CHARS = 10_000
MAX_CONTEXT_SEGMENTS = 16
MAX_TURNS = 50
MAX_BATCH = 10
MAX_AHEAD_MS = 3_600_000
# 30 s of 48 kHz float32 stereo is 11.5 MB; base64 makes it 15.4 MB.
MAX_AUDIO_B64_CHARS = 16_000_000


def _has_a_word(text: str) -> str:
    if not any(char.isalnum() for char in text):
        raise PydanticCustomError("no_word", "it has nothing to say: write at least one letter or digit")
    return text


Text = Annotated[
    str,
    Field(min_length=1, max_length=MAX_TEXT_CHARS, description="What to say: at least one letter or digit."),
    AfterValidator(_has_a_word),
]
Speaker = Annotated[int, Field(ge=0, le=1, description="Who says it: 0 or 1.")]
AudioB64 = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_AUDIO_B64_CHARS,
        description="Base64 (a data URL is fine) of WAV, FLAC, OGG, MP3, M4A or WebM, 0.5 to 60 s.",
    ),
]
VoiceName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=64,
        description="A voice by name, as GET /v1/audio/voices lists them; it stands in for the speaker's own.",
    ),
]
SessionId = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9._:-]{1,128}$", description="A name the caller chooses; none starts a fresh session."),
]


def _whole_characters(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")


WHOLE_CHARACTERS = BeforeValidator(_whole_characters)
"""Leaves out halves of characters, which writers in JavaScript make where they cut a text. No letter of everyday
writing has halves; emoji do, and nobody speaks them."""


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Sampling(Model):
    """What every speaking operation takes."""

    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = Field(
        None, description="The same seed gives the same audio; none draws a fresh one."
    )
    temperature: float = Field(
        0.9, ge=0, le=2, allow_inf_nan=False, description="0 takes the likeliest code each time; higher varies more."
    )
    top_k: int = Field(50, ge=1, le=2048, description="How many of the likeliest codes are drawn from.")
    speed: float = Field(1, ge=SPEED[0], le=SPEED[1], allow_inf_nan=False, description="The pace: 2 is twice as fast.")
    response_format: ResponseFormat = Field("wav", description="pcm is 16-bit, mono, little-endian, headerless.")


class ContextSegment(Model):
    """Something said earlier, with its sound."""

    text: Text
    speaker: Speaker = 0
    audio_b64: AudioB64


Context = Annotated[
    list[ContextSegment],
    Field(max_length=MAX_CONTEXT_SEGMENTS, description="What was said before, oldest first."),
]
MaxDurationMs = Annotated[int, Field(ge=500, le=90_000, description="The audio is never longer than this.")]


class PlainSpeakRequest(Sampling):
    """Say `text`, with nothing said before."""

    text: Text
    speaker: Speaker = 1
    voice: VoiceName | None = None
    max_duration_ms: MaxDurationMs = 10_000


class SpeakRequest(PlainSpeakRequest):
    """Say `text` after `context`."""

    context: Context = []


class ContextualSpeakRequest(SpeakRequest):
    """Say `text` in a session that remembers its last segments; `context`, where given, stands in for that memory."""

    session_id: SessionId | None = None


class StreamSpeakRequest(ContextualSpeakRequest):
    """Say `text` as it is made; with a session_id, in that session."""

    stream_format: Literal["sse", "audio"] = Field(
        "sse", description="sse: events with base64; audio: the bytes themselves, which a Chutes gateway cannot pass."
    )
    ahead_ms: float = Field(
        0, ge=0, le=MAX_AHEAD_MS, description="What there is still to hear before this: with it, pieces can be longer."
    )


class UtteranceRequest(Sampling):
    """How a text is said that is still to come, piece by piece."""

    speaker: Speaker = 1
    voice: VoiceName | None = None
    context: Context = []
    max_duration_ms: int = Field(120_000, ge=500, le=300_000)
    response_format: ResponseFormat = Field("pcm", description="pcm is 16-bit, mono, little-endian, headerless.")


class Turn(Model):
    """One turn of a conversation."""

    speaker: Speaker
    text: Text
    voice: VoiceName | None = None
    pause_ms: Annotated[int, Field(ge=0, le=2000)] = Field(500, description="Silence after this turn.")


class ConversationRequest(Sampling):
    """Say `turns` one after the other, each hearing those before it, as one recording."""

    turns: list[Turn] = Field(min_length=1, max_length=MAX_TURNS)
    max_total_duration_ms: int = Field(30_000, ge=5_000, le=60_000)
    context: Context = []


class CloneVoiceRequest(Sampling):
    """Say `text` in the voice of a recording."""

    text: Text
    reference_audio_b64: AudioB64
    reference_text: Text
    max_duration_ms: int = Field(15_000, ge=1_000, le=30_000)


class BatchSpeakRequest(Sampling):
    """Say each of `texts`, each on its own; the answer keeps their order."""

    texts: list[Text] = Field(min_length=1, max_length=MAX_BATCH)
    speaker: Speaker = 1
    voice: VoiceName | None = None
    max_duration_per_text_ms: int = Field(10_000, ge=1_000, le=20_000)


M = TypeVar("M", bound=Model)


def parse(model: type[M], raw: Any) -> M:
    """`raw` JSON as a `model`. Raises InvalidInput that names the first field at fault and what would be right."""
    raw = raw or {}  # on Chutes an empty list, string or object reaches us as nothing
    if not isinstance(raw, dict):
        raise InvalidInput("body", f"is {_json_type(raw)}", "send a JSON object, such as " + _example(model))
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    field = _field_path(first["loc"])
    if first["type"] == "missing":
        raise InvalidInput(field, "is missing", "send a JSON object, such as " + _example(model))
    if first["type"] == "extra_forbidden":
        known = ", ".join(_siblings(model, first["loc"]))
        raise InvalidInput(field, "is not a field of this request", f"the fields are {known}")
    raise InvalidInput(field, "is not valid", first["msg"][:1].lower() + first["msg"][1:])


def _field_path(loc: tuple[int | str, ...]) -> str:
    """`("context", 1, "audio_b64")` as `context[1].audio_b64`. A name that is not ours may be of any length."""
    path = ""
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            name = part if len(part) <= MAX_NAME_CHARS else part[:MAX_NAME_CHARS] + "…"
            path += f".{name}" if path else name
    return path or "body"


def _siblings(model: type[Model], loc: tuple[int | str, ...]) -> list[str]:
    """The field names known where `loc` points."""
    nested: dict[str, type[Model]] = {"context": ContextSegment, "turns": Turn}
    owner = nested.get(str(loc[0]), model) if len(loc) > 1 else model
    return list(owner.model_fields)


def _json_type(value: Any) -> str:
    names = {list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "not an object")


def _example(model: type[Model]) -> str:
    """The smallest body that `model` accepts, as JSON."""
    required = [(name, info) for name, info in model.model_fields.items() if info.is_required()]
    return "{" + ", ".join(f'"{name}": {_sample(name, info)}' for name, info in required) + "}"


def _sample(name: str, info: FieldInfo) -> str:
    """A value that the field `name` takes, as JSON: its first example, else its first choice."""
    if info.examples:
        return json.dumps(info.examples[0], ensure_ascii=False)
    if get_origin(info.annotation) is Literal:
        return json.dumps(get_args(info.annotation)[0])
    samples = {
        "texts": '["Hello."]',
        "turns": '[{"speaker": 0, "text": "Hello."}]',
        "reference_audio_b64": '"UklGR…"',
        "audio_b64": '"UklGR…"',
        "reference_text": '"What the recording says."',
        "speaker": "0",
    }
    return samples.get(name, '"Hello."')
