"""Every voice that a caller can name here: the engine's own, OpenAI's names for them, and those callers have added.

Knows no request and no engine but by its info. Added voices are kept in memory, until the server stops.
"""

from __future__ import annotations

import difflib
import re
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from audio_utils import Audio
from speech.engines.base import EngineInfo, Segment
from speech.errors import InvalidInput

ALIASES: dict[str, tuple[str, int]] = {
    "alloy": ("af_alloy", 0),
    "ash": ("am_adam", 1),
    "ballad": ("bm_george", 1),
    "coral": ("af_bella", 0),
    "echo": ("am_echo", 1),
    "fable": ("bm_fable", 1),
    "onyx": ("am_onyx", 1),
    "nova": ("af_nova", 0),
    "sage": ("af_sarah", 0),
    "shimmer": ("af_sky", 0),
    "verse": ("am_fenrir", 1),
    "marin": ("af_heart", 0),
    "cedar": ("am_michael", 1),
}
"""OpenAI's names: the stock voice that stands in for each where the engine has it, and the speaker where it has not."""

SPEAKERS = ("speaker_0", "speaker_1")
"""The names of an engine's two speakers, where it has no voices of its own."""


@dataclass(frozen=True, slots=True)
class Voice:
    """A voice by name. own: the engine's voice that speaks, or None. speaker: who says it, 0 or 1, where the voice
    decides that. recording: how it sounds, for one that was added."""

    id: str
    name: str
    kind: Literal["builtin", "alias", "custom"]
    own: str | None = None
    speaker: int | None = None
    recording: Segment | None = None
    created_s: int = 0


class Voices:
    """The catalogue of one engine. Safe from any thread.

    capacity: added voices kept; max_bytes: their sound together. The longest unused goes first.
    """

    def __init__(self, info: EngineInfo, *, capacity: int, max_bytes: int) -> None:
        self._info = info
        self._capacity = capacity
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._added: OrderedDict[str, Voice] = OrderedDict()
        own = [Voice(id, id, "builtin", own=id) for id in info.voices]
        own = own or [Voice(id, id, "builtin", speaker=number) for number, id in enumerate(SPEAKERS)]
        self._fixed = {voice.id: voice for voice in (*own, *(self._alias(name) for name in ALIASES))}

    def _alias(self, name: str) -> Voice:
        stock, speaker = ALIASES[name]
        own = self._info.voices
        if not own:
            return Voice(name, name, "alias", speaker=speaker)
        return Voice(name, name, "alias", own=stock if stock in own else own[min(speaker, len(own) - 1)])

    def all(self) -> list[Voice]:
        """Built-in voices, then aliases, then added ones, oldest first."""
        with self._lock:
            return self._everyone()

    def _everyone(self) -> list[Voice]:
        return [*self._fixed.values(), *self._added.values()]

    def find(self, name: str, field: str) -> Voice:
        """The voice of that id, or of that name in any case. Raises InvalidInput for `field` where there is none."""
        with self._lock:
            added = self._added.get(name) or next(
                (voice for voice in self._added.values() if voice.name.lower() == name.lower()), None
            )
            if added:
                self._added.move_to_end(added.id)
                return added
        voice = self._fixed.get(name) or self._fixed.get(name.lower())
        if voice:
            return voice
        near = difflib.get_close_matches(name.lower(), self._fixed, n=3) or list(self._fixed)[:3]
        raise InvalidInput(field, "is not a voice here", f"ask for one of them, such as {', '.join(near)}")

    def add(self, name: str, text: str, audio: Audio) -> Voice:
        """A voice that sounds as in `audio`, in which `text` is said ("" where that is not known). Raises InvalidInput
        for `name` where no voice may be called so, or another is."""
        if not is_name(name):
            raise InvalidInput("name", "will not do", "send 1 to 64 letters, digits, blanks or any of . ' _ -")
        if not self._capacity:
            raise InvalidInput("name", "cannot be kept: this server keeps no added voices", "ask for a built-in one")
        voice = Voice(
            f"voice_{uuid.uuid4().hex[:24]}",
            name,
            "custom",
            recording=Segment(text, 0, audio),
            created_s=int(time.time()),
        )
        with self._lock:
            if any(name.lower() in (each.id.lower(), each.name.lower()) for each in self._everyone()):
                raise InvalidInput("name", "is another voice's", "send another name, or remove that voice first")
            self._added[voice.id] = voice
            while len(self._added) > self._capacity or (
                len(self._added) > 1 and _nbytes(self._added.values()) > self._max_bytes
            ):
                self._added.popitem(last=False)
        return voice

    def remove(self, id: str, field: str) -> None:
        """Forget an added voice. Raises InvalidInput where there is none of that id."""
        with self._lock:
            if not self._added.pop(id, None):
                raise InvalidInput(field, "is not a voice that was added", "name one by the id it was given")


def _nbytes(voices: Iterable[Voice]) -> int:
    return sum(voice.recording.audio.samples.nbytes for voice in voices if voice.recording)


def is_name(text: str) -> bool:
    """Whether a voice may be called so: letters, digits, blanks and a few marks, 1 to 64 of them."""
    return bool(re.fullmatch(r"[\w][\w .'-]{0,63}", text))
