"""The calls a client has, once for both clients: each method says what to ask, the client sends it.

`One`, `Stream`, `Many` and `Status` are what the calls return: a Speech, a SpeechStream, a list of Speech and a dict
for TTSClient; coroutines of these, and an AsyncSpeechStream, for AsyncTTSClient.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Generic, TypedDict, TypeVar, Unpack

from .retries import Repeat
from .values import AudioSource, ResponseFormat, Segment, Turn, to_base64
from .wire import STREAM_HEADERS, Call, context_field, set_fields, turns_field

One = TypeVar("One")
Stream = TypeVar("Stream")
Many = TypeVar("Many")
Status = TypeVar("Status")
Context = Iterable[Segment | Mapping[str, Any]]


class Sampling(TypedDict, total=False):
    """What every speaking call takes; what is left out or None takes the server's default.

    seed: the same one gives the same audio. temperature: 0 to 2. top_k: how many of the likeliest codes are drawn
    from. speed: the pace, 0.25 to 4. response_format: wav by default; pcm is 16-bit, mono, little-endian, without a
    header.
    """

    seed: int | None
    temperature: float | None
    top_k: int | None
    speed: float | None
    response_format: ResponseFormat | None


class CloneOptions(Sampling, total=False):
    """max_duration_ms: the audio is never longer."""

    max_duration_ms: int | None


class SayOptions(CloneOptions, total=False):
    """voice: by name, as the server lists them; in place of the speaker's own."""

    voice: str | None


class SpeakOptions(SayOptions, total=False):
    """speaker: 0 or 1; the server's default is 1."""

    speaker: int | None


class Operations(Generic[One, Stream, Many, Status]):
    """Every method raises TTSError (see `errors`) on an error status, and where no answer came.

    context: what was said before, oldest first: Segments, or mappings of text, speaker and audio_b64. `options` are
    keyword arguments: those of SpeakOptions, CloneOptions or Sampling.
    """

    def speak(self, text: str, *, context: Context = (), **options: Unpack[SpeakOptions]) -> One:
        """Says `text` after `context`."""
        return self._say("/speak", SpeakOptions, options, text=text, context=context_field(context))

    def stream(
        self,
        text: str,
        *,
        context: Context = (),
        session_id: str | None = None,
        ahead_ms: float | None = None,
        **options: Unpack[SpeakOptions],
    ) -> Stream:
        """Says `text` after `context` while it is heard: with this open in a `with`, iterate for the bytes.

            with client.stream("Hello.") as stream:
                for sound in stream:
                    player.write(sound)

        session_id: as of `contextual_speak`; None for no session. ahead_ms: what its listener still has to hear of
        something else, so that the first sound may come later and be longer. Errors before the first sound are
        raised and retried on opening, as those of any call; after it, iterating raises, and nothing is sent again.
        """
        repeat: Repeat = "if_refused" if session_id else "always"
        fields = {"text": text, "session_id": session_id, "context": context_field(context), "ahead_ms": ahead_ms}
        call = _call("/stream_speak", SpeakOptions, options, repeat, **fields)
        return self._stream(replace(call, headers=STREAM_HEADERS))

    def quality_speak(self, text: str, *, context: Context = (), **options: Unpack[SpeakOptions]) -> One:
        """As `speak`, with takes made until one passes its checks; ServerFailed says why where none does."""
        return self._say("/quality_speak", SpeakOptions, options, text=text, context=context_field(context))

    def optimized_speak(self, text: str, *, context: Context = (), **options: Unpack[SpeakOptions]) -> One:
        """As `speak`, with the device's memory given back after the call."""
        return self._say("/optimized_speak", SpeakOptions, options, text=text, context=context_field(context))

    def robust_speak(self, text: str, *, context: Context = (), **options: Unpack[SpeakOptions]) -> One:
        """As `speak`, with the text normalised, at most 1000 characters of it, and the take checked."""
        return self._say("/robust_speak", SpeakOptions, options, text=text, context=context_field(context))

    def cached_speak(self, text: str, **options: Unpack[SpeakOptions]) -> One:
        """As `speak` without context; from the server's cache where it has been asked before (`Speech.cache`)."""
        return self._say("/cached_speak", SpeakOptions, options, text=text)

    def contextual_speak(
        self, text: str, session_id: str | None = None, *, context: Context = (), **options: Unpack[SpeakOptions]
    ) -> One:
        """Says `text` in a session that the server remembers: its last segments, or `context` in their place.

        session_id: a name of the caller's choice, hard to guess; None starts a session whose name is
        `Speech.session_id`. Behind a gateway that drops headers that name is lost, so choose one there, or use
        `conversation`, which needs no memory on the server.
        """
        repeat: Repeat = "if_refused" if session_id else "always"
        fields = {"text": text, "session_id": session_id, "context": context_field(context)}
        return self._say("/contextual_speak", SpeakOptions, options, repeat, **fields)

    def clone_voice(
        self, text: str, reference_audio_path: AudioSource, reference_text: str, **options: Unpack[CloneOptions]
    ) -> One:
        """Says `text` in the voice of a recording (its path or its bytes), in which `reference_text` is said.

        Raises OSError where the file cannot be read.
        """
        reference = {"reference_audio_b64": to_base64(reference_audio_path), "reference_text": reference_text}
        return self._say("/clone_voice", CloneOptions, options, text=text, **reference)

    def generate_conversation(
        self,
        turns: Iterable[Turn | Mapping[str, Any]],
        *,
        context: Context = (),
        max_total_duration_ms: int | None = None,
        **options: Unpack[Sampling],
    ) -> One:
        """Says `turns` one after the other, each hearing those before it, as one recording.

        turns: Turns, or mappings of speaker, text, pause_ms and voice.
        """
        return self._say(
            "/conversation",
            Sampling,
            options,
            turns=turns_field(turns),
            context=context_field(context),
            max_total_duration_ms=max_total_duration_ms,
        )

    def batch_speak(
        self,
        texts: Iterable[str],
        *,
        speaker: int | None = None,
        voice: str | None = None,
        max_duration_per_text_ms: int | None = None,
        **options: Unpack[Sampling],
    ) -> Many:
        """Says each of `texts` on its own, at most 10 in one call; the answer keeps their order."""
        if isinstance(texts, str):
            raise TypeError("texts: a list of strings is wanted, not one string")
        fields = {"speaker": speaker, "voice": voice, "max_duration_per_text_ms": max_duration_per_text_ms}
        return self._many(_call("/batch_speak", Sampling, options, texts=list(texts), **fields))

    def health(self) -> Status:
        """What the server says of itself, asked once, without retries; its `status` is `ready` when it can speak."""
        return self._status(Call("/health", repeat="never"))

    def _say(
        self, path: str, known: type, options: Mapping[str, Any], repeat: Repeat = "always", /, **fields: Any
    ) -> One:
        return self._one(_call(path, known, options, repeat, **fields))

    def _one(self, call: Call) -> One:
        raise NotImplementedError

    def _stream(self, call: Call) -> Stream:
        raise NotImplementedError

    def _many(self, call: Call) -> Many:
        raise NotImplementedError

    def _status(self, call: Call) -> Status:
        raise NotImplementedError


def _call(path: str, known: type, options: Mapping[str, Any], repeat: Repeat = "always", /, **fields: Any) -> Call:
    """A call with what is set of `fields` and `options`. Raises TypeError for an option that is not `known`."""
    for name in options:
        if name not in known.__annotations__:
            raise TypeError(f"{path}: {name!r} is not an option; they are {', '.join(known.__annotations__)}")
    return Call(path, set_fields(**fields, **options), repeat)
