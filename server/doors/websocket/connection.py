"""One connection of /ws: what is said on it, what had been heard when the listener interrupted, what is remembered."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections import deque
from collections.abc import Callable
from typing import Any

import anyio.to_thread
from fastapi import WebSocket, WebSocketDisconnect
from loguru import logger
from pybase64 import b64encode

from audio_utils import MEDIA_TYPES
from server.desk import Desk, Places
from server.doors.websocket.messages import Cancel, End, Flush, Heard, Start, Text, parsed
from server.doors.websocket.turn import Turn
from server.guard import GRANT
from server.streams import LISTENER_S, Pump, opened
from speech.engines.base import Segment
from speech.errors import Busy, CallerLeft, InvalidInput, SpeechError, to_http
from speech.sessions import KEPT_SEGMENTS
from speech.streaming import Speaking
from speech.utterance import Piece, Utterance

IDLE_S = 0.25
"""A writer who pauses for so long after what looks like a sentence has ended it."""

STALLED_S = 60.0
"""A writer who pauses for so long has ended the utterance: it holds a place that others wait for."""

CLOSING_S = 10.0
"""For the other side to agree that the connection is closed."""

MAX_WAITING = 16
"""Utterances on one connection that are not spoken yet."""

POLICY, INTERNAL = 1008, 1011
"""Close codes: the rules were not kept; something failed here."""

MAX_MISTAKES = 100
"""A connection that has sent so many messages that will not do, one after the other, is closed."""


class Connection:
    """One WebSocket: a reader that never waits for the speaking, and a speaker that takes turn after turn."""

    def __init__(self, desk: Desk, socket: WebSocket, places: Places) -> None:
        self._desk = desk
        self._socket = socket
        self._places = places
        self._start = Start.model_validate({"type": "start"})
        self._session_id = uuid.uuid4().hex
        self._memory: list[Segment] = []
        self._current: Turn | None = None
        self._refused: str | None = None  # over already, and still being written: its rest is dropped
        self._next_id: str | None = None
        self._count = 0
        self._turns: asyncio.Queue[Turn] = asyncio.Queue()
        self._open: list[Turn] = []  # not spoken to their end yet
        self._playing: deque[Turn] = deque()  # spoken, and perhaps still playing at the listener's
        self._idle: asyncio.TimerHandle | None = None
        self._sending = asyncio.Lock()
        self._mistakes = 0

    async def serve(self) -> None:
        """Until the connection ends."""
        tasks = [asyncio.create_task(self._speak_all())]
        try:
            info = self._desk.service.engine.info
            await self._tell("ready", engine=info.name, sample_rate_hz=info.sample_rate_hz, session_id=self._session_id)
            tasks.append(asyncio.create_task(self._read_all()))
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            if tasks[1] not in done:  # nobody took the sound for so long that it was given up
                with contextlib.suppress(RuntimeError, TimeoutError):  # closed already
                    async with asyncio.timeout(CLOSING_S):
                        await self._socket.close(POLICY, "what was sent was not taken in time")
        except (CallerLeft, WebSocketDisconnect):
            pass
        except Exception:
            await self._failed()
        finally:
            if self._idle:
                self._idle.cancel()
            for turn in self._open:
                turn.utterance.caller.leave()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    # In

    async def _read_all(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            try:
                await self._take(message.get("text"))
            except SpeechError as error:
                if isinstance(error, CallerLeft):
                    raise
                await self._tell_error(error, self._current.id if self._current else None)
                self._mistakes += isinstance(error, InvalidInput)
                if self._mistakes >= MAX_MISTAKES:
                    await self._socket.close(POLICY, "too many messages that will not do")
                    return
            else:
                self._mistakes = 0

    async def _take(self, raw: str | None) -> None:
        match parsed(raw):
            case Start() as start:
                await self._begin_with(start)
            case Text(text=""):
                pass
            case Text(text=text):
                await self._write(text)
            case Flush() if self._current:
                self._current.utterance.flush()
            case End():
                self._end()
            case Cancel() as cancel:
                await self._cancel(cancel)
            case Heard() as heard:
                await self._hear(heard)
        if self._current:
            self._current.look()

    async def _begin_with(self, start: Start) -> None:
        if start.voice:
            self._desk.service.voices.find(start.voice, "voice")
        self._end()
        self._start, self._next_id = start, start.utterance
        if start.session_id and start.session_id != self._session_id:
            self._session_id = start.session_id
            self._memory = list(self._desk.service.sessions.recall(start.session_id))

    async def _write(self, text: str) -> None:
        """Add `text` to the utterance that is being written; to a new one where the last was ended."""
        self._wait_for_more()
        if self._refused:  # without its head, the rest would be spoken as something that nobody wrote
            return
        if self._current is None:
            self._count += 1
            id, self._next_id = self._next_id or f"u{self._count}", None
            try:
                self._current = self._admitted(id)
            except SpeechError as error:
                self._refused = id
                await self._tell_error(error, id, unspoken_text=text)
                return
        self._current.utterance.add(text)

    def _admitted(self, id: str) -> Turn:
        """A new utterance, which waits to be spoken. Raises Busy, RateLimited or Unauthorised."""
        if len(self._open) >= MAX_WAITING:
            raise Busy(f"{MAX_WAITING} utterances are waiting on this connection; send more later", field="text")
        if grant := self._socket.scope.get(GRANT):
            grant.spend()
        utterance = Utterance(self._desk.service, self._start, lambda: tuple(self._memory[-KEPT_SEGMENTS:]))
        turn = Turn(id, utterance, self._start.audio)
        self._open.append(turn)
        self._turns.put_nowait(turn)
        return turn

    def _drop_rest(self, turn: Turn) -> None:
        """Nothing more of `turn` is spoken, whatever is written of it still."""
        turn.utterance.end()
        if self._current is turn:
            self._current, self._refused = None, turn.id

    def _wait_for_more(self) -> None:
        if self._idle:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(IDLE_S, self._nothing_more_came)

    def _nothing_more_came(self) -> None:
        if self._current:
            self._current.utterance.settle()
            self._current.look()
        if self._current or self._refused:
            self._idle = asyncio.get_running_loop().call_later(STALLED_S, self._end)

    def _end(self) -> None:
        self._refused = None
        if self._current:
            self._current.utterance.end()
            self._current.ready.set()
            self._current = None

    async def _cancel(self, cancel: Cancel) -> None:
        """Stop whatever is spoken or waits to be, and whatever is played still; each is reported, in order."""
        now_s = time.monotonic()
        playing = [turn for turn in self._playing if turn.ends_s > now_s or turn.id == cancel.utterance]
        stopped = [*playing, *self._open]
        named = [turn for turn in stopped if turn.id == cancel.utterance] if cancel.utterance else stopped[:1]
        if cancel.utterance and not named:
            if cancel.utterance == self._refused:
                self._end()
            raise InvalidInput("utterance", "is not being spoken", "name one that is, or none")
        self._end()
        for turn in stopped:
            if cancel.played_ms is not None:  # those before the named one were heard whole, those after not at all
                before = stopped.index(turn) < stopped.index(named[0])
                turn.played_ms = cancel.played_ms if turn is named[0] else turn.utterance.duration_ms if before else 0.0
            turn.cancelled_s = now_s
        self._playing.clear()
        for turn in playing:
            await self._report(turn)
        for turn in self._open:
            turn.utterance.caller.leave()
            turn.ready.set()
        if not stopped:
            await self._tell("cancelled", utterance=None, played_ms=0, spoken_text="", unspoken_text="")

    async def _hear(self, heard: Heard) -> None:
        audio = await anyio.to_thread.run_sync(
            self._desk.service.recording, heard.audio_b64, "audio_b64", limiter=self._desk.threads
        )
        self._remember(Segment(heard.text, heard.speaker, audio))
        await self._tell("heard", duration_ms=round(audio.duration_ms))

    # Out

    async def _speak_all(self) -> None:
        while True:
            turn = await self._turns.get()
            await turn.ready.wait()
            try:
                await self._speak(turn)
            except CallerLeft:
                if turn.cancelled_s is None:
                    return
                await self._report(turn)
            except SpeechError as error:
                unspoken_text = turn.progress().unspoken_text
                self._drop_rest(turn)
                await self._tell_error(error, turn.id, unspoken_text=unspoken_text)
            except Exception:
                await self._failed()
                return
            finally:
                self._open.remove(turn)

    async def _speak(self, turn: Turn) -> None:
        utterance = turn.utterance
        utterance.caller.check()
        if utterance.wordless:
            await self._tell("done", utterance=turn.id, duration_ms=0, truncated=False, text="", unspoken_text="")
            return
        with self._places.one():
            speaking = await self._sound(turn)
        progress = turn.progress()
        self._drop_rest(turn)  # at the limit, more of it may still be written
        await self._tell(
            "done",
            utterance=turn.id,
            duration_ms=round(utterance.duration_ms),
            truncated=speaking.truncated,
            first_audio_ms=round(speaking.first_audio_ms, 1),
            text=progress.spoken_text,
            unspoken_text=progress.unspoken_text,
        )
        self._keep(turn)

    async def _sound(self, turn: Turn) -> Speaking:
        """Have `turn` spoken, and send its sound."""
        utterance = turn.utterance
        speaking = await opened(utterance.open, utterance.caller, self._desk.threads)
        pump: Pump[Piece] = Pump(utterance.pieces(), utterance.caller, self._desk.backlog, len, self._desk.threads)
        try:
            await self._tell(
                "started",
                utterance=turn.id,
                seed=speaking.line.seed,
                voice=speaking.voice,
                sample_rate_hz=speaking.info.sample_rate_hz,
                response_format=utterance.request.response_format,
                media_type=MEDIA_TYPES[utterance.request.response_format],
            )
            async for piece in pump:
                await self._deliver(turn, piece)
        finally:
            await pump.aclose()
            speaking.close()
        return speaking

    async def _deliver(self, turn: Turn, piece: Piece) -> None:
        turn.utterance.caller.check()
        if piece.text is not None:
            await self._tell("part", utterance=turn.id, text=piece.text, start_ms=round(piece.start_ms))
        if piece.data and turn.frames == "base64":
            await self._tell("audio", utterance=turn.id, audio=b64encode(piece.data).decode())
        elif piece.data:
            await self._send(lambda: self._socket.send_bytes(piece.data))
        turn.utterance.delivered(piece)
        if not turn.begins_s:
            turn.begins_s = max([time.monotonic(), *(before.ends_s for before in self._playing)])

    async def _report(self, turn: Turn) -> None:
        """Tell how far the listener got, and remember no more than that."""
        progress = turn.progress(turn.cancelled_s)
        if turn.kept in self._memory:
            self._memory.remove(turn.kept)
        self._remember(turn.utterance.segment(progress))
        await self._tell(
            "cancelled",
            utterance=turn.id,
            played_ms=round(progress.played_ms),
            spoken_text=progress.spoken_text,
            unspoken_text=progress.unspoken_text,
        )

    def _keep(self, turn: Turn) -> None:
        """Remember all of it; until it has been played, the listener may still interrupt."""
        turn.kept = turn.utterance.segment(turn.progress())
        self._remember(turn.kept)
        self._playing.append(turn)
        while len(self._playing) > MAX_WAITING:
            self._playing.popleft()

    def _remember(self, segment: Segment | None) -> None:
        if segment:
            self._memory = [*self._memory, segment][-KEPT_SEGMENTS:]
            self._desk.service.sessions.remember(self._session_id, *self._memory, anew=True)

    async def _failed(self) -> None:
        logger.exception("something failed that nobody foresaw")
        with contextlib.suppress(RuntimeError):  # closed already
            await self._socket.close(INTERNAL, "something failed on the server; its log says what")

    async def _tell_error(self, error: SpeechError, utterance: str | None, **more: Any) -> None:
        _, body, headers = to_http(error)
        if "Retry-After" in headers:
            more["retry_after_s"] = int(headers["Retry-After"])
        await self._tell("error", utterance=utterance, **body, **more)

    async def _tell(self, type: str, **fields: Any) -> None:
        text = json.dumps({"type": type, **fields}, ensure_ascii=False, separators=(",", ":"))
        await self._send(lambda: self._socket.send_text(text))

    async def _send(self, send: Callable[[], Any]) -> None:
        """Send one message. Raises CallerLeft where nobody takes it."""
        try:
            async with self._sending, asyncio.timeout(LISTENER_S):  # wait_for may lose a cancellation
                await send()
        except (TimeoutError, OSError, RuntimeError, WebSocketDisconnect):
            raise CallerLeft from None
