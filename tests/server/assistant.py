"""Home Assistant's side of the Wyoming protocol."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from wyoming.audio import AudioChunk
from wyoming.client import AsyncTcpClient
from wyoming.event import Event
from wyoming.tts import Synthesize, SynthesizeChunk, SynthesizeStart, SynthesizeStop, SynthesizeVoice

from audio_utils import Audio


@dataclass
class Answer:
    """The events up to the last one wanted."""

    events: list[Event] = field(default_factory=list)

    @property
    def types(self) -> list[str]:
        """In their order, the chunks as one."""
        types = [event.type for event in self.events]
        return [kind for at, kind in enumerate(types) if at == 0 or kind != "audio-chunk" or types[at - 1] != kind]

    @property
    def chunks(self) -> list[AudioChunk]:
        return [AudioChunk.from_event(event) for event in self.events if AudioChunk.is_type(event.type)]

    @property
    def audio(self) -> Audio:
        pcm = b"".join(chunk.audio for chunk in self.chunks)
        return Audio(np.frombuffer(pcm, "<i2").astype(np.float32) / 32767, 24_000)

    @property
    def error(self) -> dict[str, Any]:
        return next(event.data for event in self.events if event.type == "error")


class Assistant(AsyncTcpClient):
    """The client of the package, as Home Assistant uses it."""

    async def say(self, *events: Any) -> None:
        for event in events:
            await self.write_event(event.event())

    async def until(self, *kinds: str) -> Answer:
        """All that comes up to the first event of one of `kinds`, or to the end of the connection."""
        answer = Answer()
        while event := await asyncio.wait_for(self.read_event(), 60):
            answer.events.append(event)
            if event.type in kinds:
                break
        return answer

    async def whole(self, text: str, **voice: str) -> Answer:
        await self.say(Synthesize(text, SynthesizeVoice(**voice) if voice else None))
        return await self.until("audio-stop")

    async def streamed(self, *pieces: str) -> Answer:
        await self.say(SynthesizeStart(), *map(SynthesizeChunk, pieces), SynthesizeStop())
        return await self.until("synthesize-stopped")
