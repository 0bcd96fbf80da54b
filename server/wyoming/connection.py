"""One connection of the Wyoming protocol: texts in, whole or in pieces; sound out, as it is made, in their order.

What is wrong with a text is told by an error event, and its answer still ends as one does (audio-stop, or
synthesize-stopped after synthesize-stop), for clients that read on until then. Once some of it has been heard the
connection is closed instead: what broke off must not pass for all of it, and be kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from loguru import logger
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event, async_write_event
from wyoming.ping import Pong
from wyoming.tts import SynthesizeStopped

import schemas
from server.streams import LISTENER_S, Pump, opened
from server.wyoming.frames import Unreadable, read_event
from server.wyoming.info import info_of
from server.wyoming.messages import (
    MAX_DURATION_MS,
    Manner,
    Synthesize,
    SynthesizeChunk,
    SynthesizeStart,
    check_language,
    label_of,
)
from speech.errors import Busy, CallerLeft, InvalidInput, SpeechError, to_http
from speech.utterance import Piece, Utterance

if TYPE_CHECKING:
    from server.wyoming import Door

SETTLE_S = 0.25
"""A writer who pauses for so long after what looks like a sentence has ended it."""

TEXT_S = 120.0
"""From one piece of a text to the next; a language model may well think in between."""

MAX_WAITING = 16
"""Texts of one connection that are not spoken yet; no more is read until there are fewer."""

LINGER_S = 2.0
"""For a client that is being told why it is cut off, and is sending meanwhile."""

SAMPLE_BYTES = 2


@dataclass(eq=False)
class Turn:
    """One text and its answer. streamed: it comes in pieces. heard: some of its sound has left. error: why there will
    be no more."""

    streamed: bool
    utterance: Utterance
    heard: bool = False
    error: SpeechError | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    whole: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, text: str) -> None:
        self.utterance.add(text)
        self.look()

    def settle(self) -> None:
        self.utterance.settle()
        self.look()

    def end(self) -> None:
        self.utterance.end()
        self.whole.set()
        self.look()

    def fail(self, error: SpeechError) -> None:
        self.error = self.error or error
        self.utterance.caller.leave()
        self.ready.set()

    def look(self) -> None:
        if self.utterance.ready:
            self.ready.set()


class Connection:
    """A reader that never waits for the speaking, and a speaker that takes text after text."""

    def __init__(self, door: Door, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.idle_since_s = time.monotonic()
        self._door = door
        self._service = door.desk.service
        self._reader = reader
        self._writer = writer
        self._bucket = door.addresses.bucket_of(str((writer.get_extra_info("peername") or [""])[0]))
        self._sending = asyncio.Lock()
        self._room = asyncio.Semaphore(MAX_WAITING)
        self._open: list[Turn] = []
        self._turns: asyncio.Queue[Turn] = asyncio.Queue()
        self._writing: Turn | None = None
        self._settling: asyncio.TimerHandle | None = None
        self._draining = False
        self._tasks: tuple[asyncio.Task[None], ...] = ()

    @property
    def idle(self) -> bool:
        return not (self._open or self._draining)

    def drain(self) -> None:
        """End it as soon as nothing is asked."""
        self._draining = True
        if not self._open:
            for task in self._tasks:
                task.cancel()

    def drop(self) -> None:
        """End it now."""
        self.drain()
        self._writer.transport.abort()

    async def refuse(self) -> None:
        with contextlib.suppress(CallerLeft):
            await self._tell(Busy("as many connections are open as there may be; try again later"))
        self._writer.close()

    async def serve(self) -> None:
        """Until the connection ends."""
        self._tasks = (asyncio.create_task(self._read_all()), asyncio.create_task(self._speak_all()))
        try:
            done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            errors = [task.exception() for task in done if not task.cancelled()]
        except asyncio.CancelledError:  # the server's time to finish is over
            self._writer.transport.abort()
            raise
        finally:
            if self._settling:
                self._settling.cancel()
            for turn in self._open:
                turn.utterance.caller.leave()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._end(*filter(None, errors))

    async def _end(self, *errors: BaseException) -> None:
        """Tell why, where there is a reason, and close."""
        with contextlib.suppress(CallerLeft, OSError, TimeoutError):
            for error in errors:
                if isinstance(error, CallerLeft):
                    raise error
                await self._tell(error)
            async with asyncio.timeout(LINGER_S):
                self._writer.write_eof()
                while await self._reader.read(1 << 16):
                    pass
        self._writer.transport.abort()

    # In

    async def _read_all(self) -> None:
        while True:
            try:
                event = await read_event(self._reader, TEXT_S if self._writing else None)
            except TimeoutError:
                raise Unreadable(f"no more of the text came for {TEXT_S:g} s; end it with synthesize-stop") from None
            except OSError:
                raise CallerLeft from None
            if event is None:
                return
            await self._take(event)
            self.idle_since_s = time.monotonic()
            await asyncio.sleep(0)  # who sends a thousand events at once does not keep the others waiting

    async def _take(self, event: Event) -> None:
        """What is not known is passed over, as the protocol wants it."""
        match event.type:
            case "describe":
                await self._send(info_of(self._service).event())
            case "ping":
                await self._send(Pong(label_of(event.data)).event())
            case "synthesize" if not self._writing:  # within a text in pieces it repeats all of them
                await self._say(event.data)
            case "synthesize-start":
                self._stop()
                self._writing = await self._begin(SynthesizeStart, event.data)
            case "synthesize-chunk" | "synthesize-stop" if not self._writing:
                await self._tell(InvalidInput(event.type, "belongs to no text", "send synthesize-start first"))
            case "synthesize-chunk":
                self._add(event.data)
            case "synthesize-stop":
                self._stop()

    async def _say(self, data: dict[str, Any]) -> None:
        turn = await self._begin(Synthesize, data)
        if not turn.error:
            turn.add(schemas.parse(Synthesize, data).text)
        turn.end()

    async def _begin(self, model: type[SynthesizeStart], data: dict[str, Any]) -> Turn:
        """The turn that `data` asks for; where it will not do, one that has failed."""
        await self._room.acquire()
        error, manner = None, Manner.model_validate({})
        try:
            if self._bucket:
                self._bucket.take()
            asked = schemas.parse(model, data)
            check_language(asked.voice, self._service.engine.info.languages)
            manner = asked.manner
            if manner.voice:
                self._service.voices.find(manner.voice, "voice.name")
        except SpeechError as wrong:
            error = wrong
        turn = Turn(model is SynthesizeStart, Utterance(self._service, manner, lambda: ()))
        if error:
            turn.fail(error)
        self._open.append(turn)
        self._turns.put_nowait(turn)
        return turn

    def _add(self, data: dict[str, Any]) -> None:
        turn = self._writing
        if turn is None or turn.error:  # the rest of what has failed
            return
        try:
            turn.add(schemas.parse(SynthesizeChunk, data).text)
        except SpeechError as error:
            turn.fail(error)
            return
        if self._settling:
            self._settling.cancel()
        self._settling = asyncio.get_running_loop().call_later(SETTLE_S, turn.settle)

    def _stop(self) -> None:
        if self._writing:
            self._writing.end()
            self._writing = None

    # Out

    async def _speak_all(self) -> None:
        while self._open or not self._draining:
            turn = await self._turns.get()
            await turn.ready.wait()
            try:
                await self._speak(turn)
            except SpeechError as error:
                if turn.error is None and isinstance(error, CallerLeft):
                    raise
                turn.fail(error)
                await self._tell(turn.error)
                if turn.heard:
                    return
                if not turn.streamed:
                    await self._send(AudioStop().event())
            if turn.streamed:
                await turn.whole.wait()
                await self._send(SynthesizeStopped().event())
            self._open.remove(turn)
            self._room.release()
            self.idle_since_s = time.monotonic()

    async def _speak(self, turn: Turn) -> None:
        """All of the sound of `turn`. Raises SpeechError."""
        if turn.error:
            raise turn.error
        utterance, rate_hz = turn.utterance, self._service.engine.info.sample_rate_hz
        if utterance.wordless:  # a language model that answers with nothing but a smile
            await self._send(AudioStart(rate_hz, SAMPLE_BYTES, 1).event())
            await self._send(AudioStop().event())
            return
        desk = self._door.desk
        with self._door.places.one():
            speaking = await opened(utterance.open, utterance.caller, desk.threads)
            pump: Pump[Piece] = Pump(utterance.pieces(), utterance.caller, desk.backlog, len, desk.threads)
            try:
                await self._send(AudioStart(rate_hz, SAMPLE_BYTES, 1).event())
                async for piece in pump:
                    if piece.data:
                        at_ms = round(utterance.duration_ms)
                        await self._send(AudioChunk(rate_hz, SAMPLE_BYTES, 1, piece.data, at_ms).event())
                        turn.heard = True
                    utterance.delivered(piece)
            finally:
                await pump.aclose()
                speaking.close()
        if speaking.truncated:
            limit = f"takes longer than {MAX_DURATION_MS // 60_000} minutes to say"
            raise InvalidInput("text", limit, "send it as several")
        await self._send(AudioStop().event())

    async def _tell(self, error: BaseException | None) -> None:
        """An error event, and a line in the log: Home Assistant shows nobody what it is told."""
        if isinstance(error, SpeechError):
            status, body, _ = to_http(error)
            logger.log("WARNING" if status >= 500 else "INFO", "Wyoming: {}: {}", body["code"], error.message)
            await self._send(Error(body["detail"], body["code"]).event())
        elif isinstance(error, Unreadable):
            await self._send(Error(str(error), "unreadable").event())
        elif error:
            logger.opt(exception=error).error("something failed that nobody foresaw")
            await self._send(Error("something failed on the server; its log says what", "internal").event())

    async def _send(self, event: Event) -> None:
        """Send one event. Raises CallerLeft where nobody takes it."""
        try:
            async with self._sending, asyncio.timeout(LISTENER_S):  # wait_for may lose a cancellation
                await async_write_event(event, self._writer)
        except (TimeoutError, OSError):
            raise CallerLeft from None
