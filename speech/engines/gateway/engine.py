"""Servers and chutes as an engine: the Engine protocol over our own client.

A line is a request, sent as soon as it is spoken and read to its end whether its chunks are asked for or not, so that
no upstream waits for us. All of them are read on one event loop, in a thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, replace
from queue import SimpleQueue
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from loguru import logger

import schemas
from audio_utils import Audio
from clients import APIStatusError, AsyncTTSClient, TTSError, UnreadableAnswer
from speech.engines.base import Line, Load, Segment
from speech.engines.gateway import failures, request
from speech.engines.gateway.description import Description
from speech.engines.gateway.upstreams import Upstream, Upstreams
from speech.errors import CallerLeft, EngineFailed, NotReady, SpeechError, StartupError

ENCODINGS_BYTES = 64 << 20
KEPT_VOICES = 256


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """upstreams: their URLs. key: sent to all of them; empty, CHUTES_API_KEY to those of Chutes and none to others.
    slots: lines that each says for us at the same time."""

    upstreams: tuple[str, ...]
    key: str = ""
    slots: int = 4

    def key_of(self, url: str) -> str:
        parts = urlsplit(url)
        host = parts.hostname or ""
        is_chutes = parts.scheme == "https" and (host == "chutes.ai" or host.endswith(".chutes.ai"))
        return self.key or (os.environ.get("CHUTES_API_KEY", "") if is_chutes else "")


class Asked:
    """A line on its way. fields: what is sent for it. out: its chunks, then None or what went wrong. begun: whether
    there was a first one."""

    def __init__(self, line: Line, segments: Sequence[Segment], fields: dict[str, Any]) -> None:
        self.line = line
        self.segments = segments
        self.fields = fields
        self.out: SimpleQueue[Audio | SpeechError | None] = SimpleQueue()
        self.begun = False
        self.truncated = False
        self.ran_away = False


class GatewayEngine:
    """One engine made of several servers that speak alike. Asks them what they are when it is made: StartupError where
    none says so, or where two differ."""

    def __init__(self, config: GatewayConfig) -> None:
        self.encodings = request.Encodings(ENCODINGS_BYTES)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gateway", daemon=True)
        self._thread.start()
        self._closed = False
        self._voices: OrderedDict[tuple[object, ...], str] = OrderedDict()
        try:
            self._upstreams = Upstreams(
                config.upstreams, {url: config.key_of(url) for url in config.upstreams}, config.slots
            )
            found = asyncio.run_coroutine_threadsafe(self._upstreams.find_out(), self._loop).result()
            self._description = _agreed(found)
        except ValueError as error:
            self.close()
            raise StartupError(f"DUOLOGUE_UPSTREAMS: {error}") from None
        except BaseException:
            self.close()
            raise
        self._upstreams.wanted = self._description
        info, count = self._description.info, len(config.upstreams)
        self._info = info
        behind = "1 server" if count == 1 else f"{count} servers"
        self.info = replace(
            info,
            device=f"{info.device}, behind a gateway to {behind}",
            parallel=config.slots * count,
            speed=schemas.SPEED,  # the upstream makes the pace: its limits are those of the sound at that pace
            notes=(*info.notes, f"Spoken by {behind} behind this gateway."),
        )

    def start(self) -> None:
        """They have been asked, and whoever answered was ready; to speak would cost money where they are chutes."""

    def voice_of(self, line: Line) -> str | None:
        """Where a recording decides, what the upstream said of it; None before it has."""
        own = request.own_voice(line, self._info)
        if own or not self._info.voices:
            return own
        segments = request.heard(line, self._info)
        return self._voices.get(self._key(line, segments)) if segments else self._description.speakers[line.speaker]

    def speak(self, line: Line) -> Generator[Audio, None, None]:
        """Sends `line` off. What only an upstream can find wrong with it is raised with the first chunk."""
        line.caller.check()
        request.checked(line)
        if self._closed:
            raise NotReady("the server is shutting down; send the request again", retry_after_s=1)
        segments = request.heard(line, self._info)
        asked = Asked(line, segments, request.fields(line, segments, self._info, self.encodings))
        line.caller.check()
        return Spoken(asked, asyncio.run_coroutine_threadsafe(self._say(asked), self._loop))

    def load(self) -> Load:
        """What is done elsewhere is told elsewhere. Where none of them answers, whose time is over is asked again."""
        if self._closed or self._upstreams.any_up:
            return Load()
        with contextlib.suppress(RuntimeError):  # closed meanwhile
            self._loop.call_soon_threadsafe(self._upstreams.probe)
        return Load(unable="no server behind this gateway answers")

    def trim(self) -> None:
        """The memory is the upstreams' own."""

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if hasattr(self, "_upstreams"):
            await self._upstreams.aclose()

    # On the loop

    async def _say(self, asked: Asked) -> SpeechError | None:
        """Say it; what went wrong, if anything did."""
        try:
            await self._try_each(asked)
            return None
        except asyncio.CancelledError:
            if not self._closed:
                raise
            return NotReady("the server is shutting down; send the request again", retry_after_s=1)
        except SpeechError as error:
            return error
        except Exception:
            logger.exception("the gateway failed")
            return EngineFailed("the gateway failed on this request; its log says why")

    async def _try_each(self, asked: Asked) -> None:
        tried: set[Upstream] = set()
        again: set[Upstream] = set()
        last: TTSError | None = None
        while True:
            async with self._upstreams.another(tried) as upstream:
                if upstream is None:
                    break
                try:
                    return await self._say_by(upstream, asked)
                except TTSError as error:
                    last = error
                    self._judge(upstream, asked, error)
                    if failures.is_broken_connection(error) and upstream not in again:
                        again.add(upstream)  # it may have closed an idle connection as we took it up again
                        continue
                    if not failures.is_alive(error):
                        logger.warning("the upstream {} did not say a line: {}", upstream.url, error)
                        upstream.failed(error)
                    tried.add(upstream)
        raise failures.told(last, retry_after_s=max(1.0, self._upstreams.soonest_s()))

    def _judge(self, upstream: Upstream, asked: Asked, error: TTSError) -> None:
        """Raises SpeechError where no other upstream is to be asked."""
        if failures.is_alive(error):
            upstream.answered()
        mistake = failures.mistake(error, asked.line)
        if mistake:
            raise mistake from error
        if asked.begun:
            if not isinstance(error, APIStatusError):
                upstream.failed(error)
            raise failures.told(error, begun=True) from error

    async def _say_by(self, upstream: Upstream, asked: Asked) -> None:
        rate_hz, fields = self._info.sample_rate_hz, asked.fields
        client: AsyncTTSClient = upstream.client
        if request.asks_for_all(asked.line, self._info):
            speech = await client.speak(**fields)
            upstream.answered()
            self._put(asked, Audio(request.samples_of(speech), rate_hz), speech.voice)
            # The header is lost on its way through Chutes.
            whole = int(fields["max_duration_ms"] * rate_hz / 1000)
            asked.truncated = speech.truncated or len(speech) // 2 >= whole
            return
        ahead_ms = min(asked.line.ahead_ms, schemas.MAX_AHEAD_MS)
        async with client.stream(**fields, ahead_ms=ahead_ms or None) as stream:
            if stream.sample_rate_hz != rate_hz:
                raise UnreadableAnswer(f"the upstream speaks at {stream.sample_rate_hz} Hz, and spoke at {rate_hz}")
            upstream.answered()
            async for sound in stream:
                self._put(asked, Audio(request.samples_of(sound), rate_hz), stream.voice)
            asked.truncated, asked.ran_away = stream.truncated, stream.ran_away

    def _put(self, asked: Asked, chunk: Audio, voice: str | None) -> None:
        if not asked.begun and voice and asked.segments:
            self._voices[self._key(asked.line, asked.segments)] = voice
            if len(self._voices) > KEPT_VOICES:
                self._voices.popitem(last=False)
        asked.begun = True
        asked.out.put(chunk)

    def _key(self, line: Line, segments: Sequence[Segment]) -> tuple[object, ...]:
        return (line.speaker, *(self.encodings.digest(segment.audio) for segment in segments))


class Spoken(Generator[Audio, None, None]):
    """The chunks of one line. Closing or dropping it, or the caller's leaving, closes the connection, which stops the
    upstream."""

    def __init__(self, asked: Asked, under_way: Future[SpeechError | None]) -> None:
        self._asked = asked
        self._under_way = under_way
        self._over = False
        watching = ExitStack()
        watching.enter_context(asked.line.caller.when_gone(lambda: _cancel(under_way)))

        def over(under_way: Future[SpeechError | None]) -> None:
            watching.close()
            asked.out.put(CallerLeft() if under_way.cancelled() else under_way.result())

        under_way.add_done_callback(over)

    @property
    def truncated(self) -> bool:
        """Whether there was more to say than the limit allowed; known when the chunks have ended."""
        return self._asked.truncated

    @property
    def ran_away(self) -> bool:
        """Whether the upstream's engine had to be stopped; known when the chunks have ended."""
        return self._asked.ran_away

    def send(self, value: None) -> Audio:
        if self._over:
            raise StopIteration
        got = self._asked.out.get()
        if isinstance(got, Audio):
            return got
        self._over = True
        if got is None:
            raise StopIteration
        raise got

    def throw(
        self, typ: type[BaseException] | BaseException, val: object = None, tb: TracebackType | None = None
    ) -> Audio:
        self.close()
        raise typ if isinstance(typ, BaseException) else typ()

    def close(self) -> None:
        self._over = True
        _cancel(self._under_way)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):
            self.close()


def _cancel(under_way: Future[SpeechError | None]) -> None:
    under_way.cancel()


def _agreed(found: dict[str, Description | Exception]) -> Description:
    """What they all are. Raises StartupError where nobody says so, or two differ."""
    described = {url: each for url, each in found.items() if isinstance(each, Description)}
    if not described:
        reasons = "; ".join(f"{url}: {error}" for url, error in found.items())
        raise StartupError(
            f"no upstream can be used ({reasons}); start one, or name others by --upstream or DUOLOGUE_UPSTREAMS"
        )
    (first, wanted), *others = described.items()
    for url, each in others:
        difference = wanted.difference(each)
        if difference:
            raise StartupError(
                f"the upstreams {first} and {url} do not speak alike, so neither can stand in for the other: "
                f"{difference}; run one gateway for each kind"
            )
    return wanted
