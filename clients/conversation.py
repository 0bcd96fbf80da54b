"""A conversation that carries its own context: nothing of it is on the server, so any replica can go on with it."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Unpack

from .errors import InvalidRequest
from .operations import SayOptions
from .streaming import AsyncSpeechStream, SpeechStream
from .values import AudioSource, ResponseFormat, Segment, Speech, audio_bytes

if TYPE_CHECKING:
    from .client import AsyncTTSClient, TTSClient

_log = logging.getLogger("duologue.client")


class Memory:
    """What a conversation remembers, within bounds; see TTSClient.conversation for the arguments."""

    def __init__(
        self,
        max_segments: int,
        max_bytes: int,
        reference: Segment | Iterable[Segment],
        response_format: ResponseFormat,
    ) -> None:
        given = [reference] if isinstance(reference, Segment) else reference
        self._references = [Segment(s.text, audio_bytes(s.audio), s.speaker) for s in given]
        self._segments_left = max_segments - len(self._references)
        self._bytes_left = max_bytes - sum(map(_size, self._references))
        if self._segments_left < 0 or self._bytes_left < 0:
            raise ValueError("reference: the recordings alone are over max_segments or max_bytes")
        self._format = _hearable(response_format)
        self._said: list[Segment] = []

    @property
    def segments(self) -> tuple[Segment, ...]:
        return (*self._references, *self._said)

    def options(self, given: SayOptions) -> SayOptions:
        """The options of the next request: those given, in the conversation's format unless they name one."""
        options = given.copy()
        options["response_format"] = _hearable(given.get("response_format") or self._format)
        return options

    def remember(self, segment: Segment) -> None:
        """Adds `segment` and forgets the oldest until the rest is within bounds."""
        self._said.append(segment)
        while self._said and (len(self._said) > self._segments_left or sum(map(_size, self._said)) > self._bytes_left):
            del self._said[0]

    def forget_refused(self, error: InvalidRequest) -> bool:
        """Forgets the segment that the server refused to hear, if the sound is the server's own; whether it did.

        A "Yes." may be shorter than a server takes as context, and a monologue longer. Without this the
        conversation could not go on until it had moved past them. It is logged as a warning: on an engine that hears
        no context at all, it happens at every turn. What the caller recorded is the caller's to mend.
        """
        at = re.match(r"context\[(\d+)\]", error.field or "")
        position = int(at[1]) - len(self._references) if at else -1
        if not 0 <= position < len(self._said) or not isinstance(self._said[position].audio, Speech):
            return False
        _log.warning("the conversation goes on without %r: %s", self._said[position].text, error.message)
        del self._said[position]
        return True


class _Memorable:
    """What both conversations share."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The context that the next request will carry, oldest first, the references before all."""
        return self._memory.segments

    def heard(self, text: str, speaker: int, audio: AudioSource) -> None:
        """Adds what the other side said: its words, its speaker number and its recording (bytes or a path).

        Raises OSError where the file cannot be read.
        """
        self._memory.remember(Segment(text, audio_bytes(audio), speaker))


class Conversation(_Memorable):
    """Made by TTSClient.conversation. One turn at a time: not to be shared between threads."""

    def __init__(self, client: TTSClient, memory: Memory) -> None:
        super().__init__(memory)
        self._client = client

    def say(self, text: str, *, speaker: int = 1, **options: Unpack[SayOptions]) -> Speech:
        """Says `text` after what was said before, and remembers it as it sounded; nothing is remembered on an error.

        Any response_format but pcm, which has no header and could not be heard again (ValueError); a lossy one makes
        each turn hear a little less of the last. Raises TTSError.
        """
        wanted = self._memory.options(options)
        while True:
            try:
                speech = self._client.speak(text, speaker=speaker, context=self.segments, **wanted)
            except InvalidRequest as error:
                if not self._memory.forget_refused(error):
                    raise
            else:
                self._memory.remember(Segment(text, speech, speaker))
                return speech

    @contextmanager
    def stream(self, text: str, *, speaker: int = 1, **options: Unpack[SayOptions]) -> Iterator[SpeechStream]:
        """As `say`, heard while it is made: `with conversation.stream("Hello.") as stream:`, and iterate.

        It is remembered when the `with` ends, if all of it was heard; a stream that broke off, or was left early, is
        not.
        """
        wanted = self._memory.options(options)
        while True:
            stream = self._client.stream(text, speaker=speaker, context=self.segments, **wanted)
            stream.keep()
            try:
                stream.open()
            except InvalidRequest as error:
                if not self._memory.forget_refused(error):
                    raise
            else:
                break
        try:
            with stream:
                yield stream
        finally:
            if stream.complete:
                self._memory.remember(Segment(text, stream.heard, speaker))


class AsyncConversation(_Memorable):
    """Made by AsyncTTSClient.conversation. One turn at a time: await one `say` before the next."""

    def __init__(self, client: AsyncTTSClient, memory: Memory) -> None:
        super().__init__(memory)
        self._client = client

    async def say(self, text: str, *, speaker: int = 1, **options: Unpack[SayOptions]) -> Speech:
        """As Conversation.say."""
        wanted = self._memory.options(options)
        while True:
            try:
                speech = await self._client.speak(text, speaker=speaker, context=self.segments, **wanted)
            except InvalidRequest as error:
                if not self._memory.forget_refused(error):
                    raise
            else:
                self._memory.remember(Segment(text, speech, speaker))
                return speech

    @asynccontextmanager
    async def stream(
        self, text: str, *, speaker: int = 1, **options: Unpack[SayOptions]
    ) -> AsyncIterator[AsyncSpeechStream]:
        """As Conversation.stream, with `async with`."""
        wanted = self._memory.options(options)
        while True:
            stream = self._client.stream(text, speaker=speaker, context=self.segments, **wanted)
            stream.keep()
            try:
                await stream.open()
            except InvalidRequest as error:
                if not self._memory.forget_refused(error):
                    raise
            else:
                break
        try:
            async with stream:
                yield stream
        finally:
            if stream.complete:
                self._memory.remember(Segment(text, stream.heard, speaker))


def _size(segment: Segment) -> int:
    """Bytes of sound; those of a remembered segment are in memory."""
    return len(segment.audio) if isinstance(segment.audio, bytes) else 0


def _hearable(response_format: ResponseFormat) -> ResponseFormat:
    if response_format == "pcm":
        raise ValueError("response_format: pcm has no header and could not be heard again; ask for flac or wav")
    return response_format
