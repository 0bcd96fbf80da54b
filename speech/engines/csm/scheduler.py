"""Who is in which slot: requests join and leave between frames, all from one worker thread.

The engine's threads put a request in and take chunks out; the worker does everything that touches the device.
"""

from __future__ import annotations

import contextlib
import contextvars
import gc
import threading
from collections import deque
from collections.abc import Generator
from contextlib import ExitStack
from queue import SimpleQueue
from types import TracebackType

import numpy as np
import torch
from loguru import logger

from audio_utils import Audio
from speech.engines.base import Line
from speech.engines.csm.device import is_out_of_memory
from speech.engines.csm.frames import Frames
from speech.engines.csm.guards import Chunks, Ending, Verdict, frame_cap
from speech.engines.csm.prompt import Prompt
from speech.engines.csm.reader import Reader
from speech.engines.csm.sampling import Noise
from speech.errors import CallerLeft, EngineFailed, NotReady, OutOfMemory, SpeechError


class Request:
    """A line on its way. Only the worker changes it, but for `left`, which anyone may set."""

    def __init__(self, line: Line, prompt: Prompt, *, rate_hz: int) -> None:
        self.line = line
        self.prompt = prompt
        self.out: SimpleQueue[np.ndarray | SpeechError | None] = SimpleQueue()
        self.left = False
        self.cut = False
        self.ran_away = False
        self.take = 0
        self.ending = Ending(cap=prompt.frames)
        self.chunks = Chunks(samples=line.max_duration_ms * rate_hz // 1000)
        self.last_row: torch.Tensor | None = None
        self.position = 0
        self.context = contextvars.copy_context()  # so that the worker's log lines carry the request's id

    @property
    def gone(self) -> bool:
        return self.left or self.line.caller.gone


class DeviceFailed(BaseException):
    """Not even an idle slot can be written. No Exception, so that it is not taken for one request's own."""


class Scheduler:
    """The worker and its slots.

    retries: how often a lost take may be tried again, beyond the first. batches: frames made for so many lines at once.
    dead: the worker has ended because the device fails at everything; only a new process can help.
    """

    def __init__(self, frames: Frames, reader: Reader, *, rate_hz: int, retries: int) -> None:
        self._frames = frames
        self._reader = reader
        self._rate_hz = rate_hz
        self._retries = retries
        self._changed = threading.Condition()
        self._waiting: deque[Request] = deque()
        self._speaking: dict[int, Request] = {}
        self._noise: dict[int, Noise] = {}
        self.batches = [0] * (frames.slots + 1)
        self.dead = False
        self._closed = False
        self._worker = threading.Thread(target=self._work, name="csm", daemon=True)

    def start(self) -> None:
        self._worker.start()

    def submit(self, line: Line, prompt: Prompt) -> Take:
        """Let `line` join at the next frame with a free slot."""
        request = Request(line, prompt, rate_hz=self._rate_hz)
        with self._changed:
            if self._closed:
                raise self._ended()
            self._waiting.append(request)
            self._changed.notify()
        return Take(request, self._rate_hz)

    @property
    def speaking(self) -> int:
        """Slots in use."""
        return len(self._speaking)

    def close(self) -> None:
        """Stop after the frame under way; whoever is left is told so."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._worker.is_alive():
            self._worker.join()

    def _work(self) -> None:
        """Nobody may be left waiting, however it ends."""
        try:
            with torch.inference_mode():
                self._loop()
        except BaseException as error:
            logger.opt(exception=error).critical("the CSM engine has stopped; restart the server")
            self.dead = True
        finally:
            with self._changed:
                self._closed = True
                left = [*self._waiting, *self._speaking.values()]
                self._waiting.clear()
                self._speaking.clear()
            for request in left:
                request.out.put(self._ended())

    def _ended(self) -> NotReady:
        if self.dead:
            return NotReady("the engine has stopped; its log says why", retry_after_s=30)
        return NotReady("the engine is shutting down", retry_after_s=1)

    def _loop(self) -> None:
        device = self._frames.model.device
        if device.type == "cuda":
            torch.cuda.set_device(device)  # a thread begins at the first one
        while True:
            with self._changed:
                while not (self._waiting or self._speaking or self._closed):
                    self._changed.wait()
                if self._closed:
                    return
            try:
                self._let_go()
                self._admit()
                if self._speaking:
                    self._step()
            except Exception as error:  # a mistake of ours
                self._fail_everyone(self._told(error))

    def _let_go(self) -> None:
        """Free the slots of callers who have left; no frame is made for them after they have."""
        for slot, request in list(self._speaking.items()):
            if request.gone:
                self._finish(slot, CallerLeft())
        with self._changed:
            gone = [request for request in self._waiting if request.gone]
            for request in gone:
                self._waiting.remove(request)
        for request in gone:
            request.out.put(CallerLeft())

    def _admit(self) -> None:
        free = [slot for slot in range(self._frames.slots) if slot not in self._speaking]
        while free:
            with self._changed:
                if not self._waiting:
                    return
                request = self._waiting.popleft()
            slot = free[0]
            try:
                request.last_row, request.position = self._reader.read(request.prompt, self._frames, slot)
                self._join(slot, request)
            except Exception as error:
                request.out.put(self._told(error))
                self._free(slot)
                continue
            free.pop(0)

    def _join(self, slot: int, request: Request) -> None:
        """A take begins; a second one of the same request finds its prompt still in the slot."""
        line = request.line
        assert request.last_row is not None
        codebooks = self._frames.model.dims.codebooks
        noise = Noise(line.seed, take=request.take, codebooks=codebooks, ranks=self._frames.ranks(line.top_k))
        self._frames.join(slot, request.last_row, request.position, temperature=line.temperature, top_k=line.top_k)
        self._speaking[slot], self._noise[slot] = request, noise

    def _step(self) -> None:
        try:
            frame = self._frames.step(self._noise)
            self.batches[len(self._noise)] += 1
        except Exception as error:
            # Nothing of this frame can be trusted, so nobody in it can go on; whoever waits is not touched.
            self._fail_everyone(self._told(error))
            return
        assert frame.audio is not None
        for slot, request in list(self._speaking.items()):
            try:
                self._hear(slot, request, frame.audio[slot], ended=not frame.codes[slot].any())
            except Exception as error:
                self._finish(slot, self._told(error))

    def _hear(self, slot: int, request: Request, samples: np.ndarray, *, ended: bool) -> None:
        verdict = request.ending.hear(samples, ended=ended)
        if verdict is Verdict.LOST and request.take < self._retries:
            request.take += 1
            request.context.run(logger.info, "a take stayed silent; take {} begins", request.take + 1)
            request.ending.again()
            self._join(slot, request)
            verdict = Verdict.ON
        elif verdict is Verdict.LOST:
            request.context.run(logger.warning, "{} takes of a line stayed silent", request.take + 1)
            request.ending.give_up()
            verdict = Verdict.OVER
        for piece in request.ending.ready:
            request.chunks.put(piece)
        request.ending.ready.clear()
        request.cut = request.chunks.full and not ended
        request.ran_away = request.ending.ran_away and request.prompt.frames == frame_cap(request.line.text)
        over = verdict is Verdict.OVER or request.chunks.full
        chunk = request.chunks.take(last=over)
        if chunk is not None:
            request.out.put(chunk)
        if over:
            self._finish(slot, None)

    def _finish(self, slot: int, outcome: SpeechError | None) -> None:
        request = self._speaking.pop(slot)
        del self._noise[slot]
        request.last_row = None
        try:
            self._free(slot)
        finally:
            request.out.put(outcome)

    def _free(self, slot: int) -> None:
        try:
            self._frames.leave(slot)
        except Exception as error:
            raise DeviceFailed from error

    def _fail_everyone(self, told: SpeechError) -> None:
        with ExitStack() as all_of_them:
            for slot in self._speaking:
                all_of_them.callback(self._finish, slot, told)

    def _told(self, error: Exception) -> SpeechError:
        """What the caller is told; the details are for the log."""
        if isinstance(error, SpeechError):
            return error
        if is_out_of_memory(error):
            logger.warning("out of memory: {}", error)
            self._reader.prefixes.clear()
            with contextlib.suppress(RuntimeError):
                self.trim()
            return OutOfMemory("the device has no memory left for this request; try a shorter one", retry_after_s=5)
        logger.opt(exception=error).error("the CSM engine failed")
        return EngineFailed("the engine failed on this request; it may pass when sent again")

    @staticmethod
    def trim() -> None:
        """Give memory that the allocator keeps back to the device."""
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class Take(Generator[Audio, None, None]):
    """The chunks of one line. Closing or dropping it frees its slot, even before its first chunk was asked for,
    which a generator function that never began would not do."""

    def __init__(self, request: Request, rate_hz: int) -> None:
        self._request = request
        self._rate_hz = rate_hz
        self._over = False

    @property
    def truncated(self) -> bool:
        """Whether there was more to say than max_duration_ms allowed; known when the chunks have ended."""
        return self._request.cut

    @property
    def ran_away(self) -> bool:
        """Whether it was stopped at the most that its text can take; known when the chunks have ended."""
        return self._request.ran_away

    def send(self, value: None) -> Audio:
        if self._over:
            raise StopIteration
        got = self._request.out.get()
        if isinstance(got, np.ndarray):
            return Audio(got, self._rate_hz)
        self._over = True
        if got is None:
            raise StopIteration
        raise got

    def throw(
        self, typ: type[BaseException] | BaseException, val: object = None, tb: TracebackType | None = None
    ) -> Audio:
        self._leave()
        raise typ if isinstance(typ, BaseException) else typ()

    def close(self) -> None:
        self._leave()

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):
            self._leave()

    def _leave(self) -> None:
        self._over = True
        self._request.left = True
