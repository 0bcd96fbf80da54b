"""What a session remembers, and when it forgets."""

from __future__ import annotations

import numpy as np

from audio_utils import Audio
from speech.engines.base import Segment
from speech.sessions import KEPT_SEGMENTS, Sessions


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def said(text: str, samples: int = 10) -> Segment:
    return Segment(text, 0, Audio(np.zeros(samples, np.float32), 24_000))


def texts(sessions: Sessions, session_id: str) -> list[str]:
    return [segment.text for segment in sessions.recall(session_id)]


def test_keeps_the_last_five() -> None:
    sessions = Sessions(capacity=10, max_bytes=10_000, ttl_s=60)
    for count in range(8):
        sessions.remember("a", said(str(count)))
    assert KEPT_SEGMENTS == 5
    assert texts(sessions, "a") == ["3", "4", "5", "6", "7"]


def test_sessions_do_not_hear_each_other() -> None:
    sessions = Sessions(capacity=10, max_bytes=10_000, ttl_s=60)
    sessions.remember("a", said("mine"))
    sessions.remember("b", said("yours"))
    assert (texts(sessions, "a"), texts(sessions, "b"), texts(sessions, "c")) == (["mine"], ["yours"], [])


def test_forgets_what_is_not_used() -> None:
    clock = Clock()
    sessions = Sessions(capacity=10, max_bytes=10_000, ttl_s=60, now=clock)
    sessions.remember("a", said("old"))
    clock.now_s = 40
    sessions.remember("b", said("new"))
    clock.now_s = 61
    assert (texts(sessions, "a"), texts(sessions, "b")) == ([], ["new"])
    assert len(sessions) == 1


def test_the_longest_unused_goes_first() -> None:
    sessions = Sessions(capacity=2, max_bytes=10_000, ttl_s=60)
    for name in ("a", "b", "a", "c"):
        sessions.remember(name, said(name))
    assert [texts(sessions, name) for name in "abc"] == [["a", "a"], [], ["c"]]


def test_bounded_in_bytes() -> None:
    sessions = Sessions(capacity=100, max_bytes=1000, ttl_s=60)
    for count in range(50):
        sessions.remember(str(count), said("x", samples=100))
    assert len(sessions) == 2
    sessions.remember("large", said("x", samples=1000))
    assert texts(sessions, "large") == []


def test_two_at_once_both_stay_and_anew_forgets() -> None:
    sessions = Sessions(capacity=10, max_bytes=10_000, ttl_s=60)
    sessions.remember("a", said("first"))
    assert texts(sessions, "a") == ["first"], "both have recalled this before either is done"
    sessions.remember("a", said("one"))
    sessions.remember("a", said("other"))
    assert texts(sessions, "a") == ["first", "one", "other"]
    sessions.remember("a", said("given"), said("new"), anew=True)
    assert texts(sessions, "a") == ["given", "new"]
    assert sessions.nbytes == 2 * 40
