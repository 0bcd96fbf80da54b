"""What an answer's account says of who was late."""

from __future__ import annotations

import time

from speech.account import Account


def test_sound_is_needed_when_what_was_made_has_been_heard() -> None:
    account = Account(streamed=True)
    account.heard(5000)
    assert account.part() == account.heard_until_s > time.monotonic() + 4


def test_a_text_that_came_late_asks_for_its_turn_no_sooner_than_it_came() -> None:
    account = Account(streamed=True)
    account.heard(1)
    time.sleep(0.05)
    before_s = time.monotonic()
    assert before_s <= account.part() <= time.monotonic()
    account.heard(100)
    assert account.late == 0


def test_sound_that_comes_after_the_listener_ran_out_is_late() -> None:
    account = Account(streamed=True)
    account.heard(1)
    time.sleep(0.05)
    account.heard(100)
    assert account.late == 1
    assert 0.02 < account.late_s < 5
