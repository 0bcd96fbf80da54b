"""What one answer took and what it gave: counted while it is made, told when it has ended.

Knows nothing of metrics, logs and traces; whoever wants to know is told the account.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from loguru import logger

from speech.errors import STATUS, SpeechError


class Account:
    """One answer, from the request's coming to the end of its sound. Times are on the monotonic clock, in seconds.

    streamed: handed over while it is made, to a listener who plays it at once. asked_s, turn_s: when it first asked
    for the engine's turn and got it, None before. work_s: how long it had the engine. first_audio_s: when its first
    sound was made. audio_s: its sound so far. late: how often sound came after the listener had run out of it, late_s:
    for how long in all. truncated: a limit cut something off. ran_away: the engine lost its way and was stopped.
    error: the code of the one that ended it, or None.
    """

    def __init__(self, *, streamed: bool = False) -> None:
        self.came_s = time.monotonic()
        self.streamed = streamed
        self.asked_s: float | None = None
        self.turn_s: float | None = None
        self.work_s = 0.0
        self.first_audio_s: float | None = None
        self.audio_s = 0.0
        self.late = 0
        self.late_s = 0.0
        self.truncated = False
        self.ran_away = False
        self.error: str | None = None
        self.ended_s = self.came_s
        self.heard_until_s = self.came_s
        self._paused = False

    @property
    def first_audio_ms(self) -> float:
        """From the coming to the first sound; 0 before it."""
        return 0.0 if self.first_audio_s is None else 1000 * (self.first_audio_s - self.came_s)

    @property
    def waited_s(self) -> float:
        """In the queue, before the first turn."""
        return 0.0 if self.turn_s is None or self.asked_s is None else self.turn_s - self.asked_s

    @property
    def finished_reason(self) -> str:
        """How it ended: "stop" after all was said, "length" where a limit cut it off, else the error's code."""
        return self.error or ("length" if self.truncated else "stop")

    @property
    def took_s(self) -> float:
        return self.ended_s - self.came_s

    @property
    def rtf(self) -> float:
        """The real-time factor: how long the engine worked for a second of sound."""
        return self.work_s / self.audio_s if self.audio_s else 0.0

    def part(self) -> float:
        """The next part of the text is there; returns when its sound is needed. Where the listener has run out of sound
        by now, the text was late, or the sound was not taken; neither is the engine's doing, or others' who wait."""
        now_s = time.monotonic()
        self._paused = now_s > self.heard_until_s
        return max(now_s, self.heard_until_s)

    def heard(self, ms: float) -> None:
        """So much more sound was made."""
        now_s = time.monotonic()
        if self.first_audio_s is None:
            self.first_audio_s = self.heard_until_s = now_s
        elif now_s > self.heard_until_s:
            if not self._paused:
                self.late += 1
                self.late_s += now_s - self.heard_until_s
            self.heard_until_s = now_s
        self._paused = False
        self.audio_s += ms / 1000
        self.heard_until_s += ms / 1000

    @contextmanager
    def closing(self, *told: Callable[[Account], None]) -> Iterator[None]:
        """Everything that is done for the answer happens inside; at the end, however it comes, each of `told` is."""
        try:
            yield
        except BaseException as error:
            self.error = _code_of(error)
            raise
        finally:
            self.ended_s = time.monotonic()
            for tell in told:
                tell(self)


def _code_of(error: BaseException) -> str:
    if isinstance(error, GeneratorExit):  # nobody iterates any more
        return "caller_left"
    return STATUS[type(error)][1] if isinstance(error, SpeechError) else "internal"


def logged(account: Account) -> None:
    """A line in the log for an answer of which something was heard."""
    if account.audio_s:
        logger.info(
            "spoke {audio_ms:.0f} ms in {took_ms:.0f} ms (RTF {rtf:.2f}), the first after {first_audio_ms:.0f} ms",
            audio_ms=round(1000 * account.audio_s, 1),
            took_ms=round(1000 * account.took_s, 1),
            rtf=round(account.rtf, 3),
            first_audio_ms=round(account.first_audio_ms, 1),
            queue_ms=round(1000 * account.waited_s, 1),
            underruns=account.late if account.streamed else 0,
            finished_reason=account.finished_reason,
        )
