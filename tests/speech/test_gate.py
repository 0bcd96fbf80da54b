"""Who may speak, who waits, who is sent away. Threads meet at events, never at the clock."""

from __future__ import annotations

import threading
import time

import pytest

from speech.caller import Caller
from speech.errors import Busy, CallerLeft, NotReady
from speech.gate import Gate, Place


def waiting_thread(
    gate: Gate, place: Place, name: str, log: list[str], needed_s: float | None = None
) -> threading.Thread:
    """Takes a turn in a thread of its own and logs how that went; returns once the thread waits."""
    before = len(gate._waiting)

    def run() -> None:
        try:
            with place.turn(needed_s):
                log.append(name)
        except (Busy, CallerLeft) as error:
            log.append(f"{name}: {type(error).__name__}")

    thread = threading.Thread(target=run)
    thread.start()
    while len(gate._waiting) == before and thread.is_alive():
        threading.Event().wait(0.001)
    return thread


def test_first_come_first_served() -> None:
    gate = Gate(slots=1, queue=5, wait_s=30)
    log: list[str] = []
    with gate.place(Caller()) as first, gate.place(Caller()) as b, gate.place(Caller()) as c, gate.place(Caller()) as d:
        with first.turn():
            threads = [waiting_thread(gate, place, name, log) for place, name in ((b, "b"), (c, "c"), (d, "d"))]
            assert (gate.speaking, gate.waiting) == (1, 3)
            assert log == []
        for thread in threads:
            thread.join(10)
    assert log == ["b", "c", "d"]
    assert (gate.speaking, gate.waiting) == (0, 0)


def test_who_speaks_on_in_parts_lets_those_go_first_who_need_it_sooner() -> None:
    gate = Gate(slots=1, queue=5, wait_s=30)
    log: list[str] = []
    with gate.place(Caller()) as first, gate.place(Caller()) as long, gate.place(Caller()) as new:
        with first.turn():
            until_s = time.monotonic() + 10  # the sound made so far lasts until then
            threads = [
                waiting_thread(gate, long, "the long one goes on", log, needed_s=until_s),
                waiting_thread(gate, new, "the new one begins", log),
            ]
        for thread in threads:
            thread.join(10)
        assert log == ["the new one begins", "the long one goes on"]


def test_what_was_begun_is_finished_past_the_deadline() -> None:
    gate = Gate(slots=1, queue=1, wait_s=0.05)
    log: list[str] = []
    with gate.place(Caller()) as one, gate.place(Caller()) as other:
        with one.turn():
            time.sleep(0.001)
        with other.turn():
            thread = waiting_thread(gate, one, "went on", log, needed_s=0.0)
            time.sleep(0.1)
            assert log == []
        thread.join(10)
    assert log == ["went on"]


def test_full_is_said_at_once_and_says_when_to_come_back() -> None:
    gate = Gate(slots=1, queue=1, wait_s=30)
    with gate.place(Caller()), gate.place(Caller()):
        with pytest.raises(Busy) as busy, gate.place(Caller()):
            pass
        assert busy.value.retry_after_s is not None
    with gate.place(Caller()) as place, place.turn():
        pass


def test_nobody_waits_past_the_deadline() -> None:
    gate = Gate(slots=1, queue=1, wait_s=0.05)
    with gate.place(Caller()) as first, gate.place(Caller()) as second, first.turn():
        with pytest.raises(Busy, match=r"0\.05 s"), second.turn():
            pass
        assert gate.speaking == 1


def test_who_leaves_is_dropped_and_the_next_moves_up() -> None:
    gate = Gate(slots=1, queue=5, wait_s=30)
    log: list[str] = []
    leaver = Caller()
    with gate.place(Caller()) as first, gate.place(leaver) as b, gate.place(Caller()) as c:
        with first.turn():
            gone = waiting_thread(gate, b, "b", log)
            stays = waiting_thread(gate, c, "c", log)
            leaver.leave()
            gone.join(10)
            assert log == ["b: CallerLeft"]
        stays.join(10)
    assert log == ["b: CallerLeft", "c"]


def test_who_has_left_already_gets_no_turn() -> None:
    gate = Gate(slots=1, queue=1, wait_s=30)
    caller = Caller()
    caller.leave()
    with gate.place(caller) as place, pytest.raises(CallerLeft), place.turn():
        pass
    assert (gate.speaking, gate.waiting) == (0, 0)


def test_a_failure_gives_turn_and_place_back() -> None:
    gate = Gate(slots=1, queue=0, wait_s=30)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), gate.place(Caller()) as place, place.turn():
            _ = 1 / 0
    assert (gate.speaking, gate.waiting) == (0, 0)


def test_closed_gives_no_places_but_lets_the_last_finish() -> None:
    gate = Gate(slots=1, queue=1, wait_s=30)
    with gate.place(Caller()) as place:
        gate.close()
        with pytest.raises(NotReady), gate.place(Caller()):
            pass
        with place.turn():
            assert gate.speaking == 1


def test_never_more_speakers_than_slots() -> None:
    gate = Gate(slots=3, queue=60, wait_s=30)
    most = 0
    lock = threading.Lock()

    def run() -> None:
        nonlocal most
        for _ in range(20):
            with gate.place(Caller()) as place, place.turn(), lock:
                most = max(most, gate.speaking)

    threads = [threading.Thread(target=run) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert 1 <= most <= 3
    assert (gate.speaking, gate.waiting) == (0, 0)


def test_a_callback_runs_once_however_the_caller_leaves() -> None:
    caller = Caller()
    calls: list[str] = []
    with caller.when_gone(lambda: calls.append("early")):
        caller.leave()
        caller.leave()
    with caller.when_gone(lambda: calls.append("late")):
        pass
    assert calls == ["early", "late"]
