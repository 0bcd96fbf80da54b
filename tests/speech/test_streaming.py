"""What an engine is told of a listener while a text is spoken in parts."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from itertools import pairwise

import pytest

import schemas
from audio_utils import Audio
from speech.caller import Caller
from speech.engines.base import Line
from speech.operations import STREAM_SPEAK
from speech.utterance import Utterance
from tests.chute.fake_engine import MS_PER_CHAR, FakeEngine, fake_service

FIRST, SECOND, THIRD = "One of three.", "Two of the three.", "And here is the third."


class Noting(FakeEngine):
    """Keeps the lines it was asked to say."""

    def __init__(self) -> None:
        super().__init__(grain="sentence")
        self.asked: list[Line] = []

    def speak(self, line: Line) -> Generator[Audio]:
        self.asked.append(line)
        return super().speak(line)


def utterance(engine: FakeEngine) -> Utterance:
    request = schemas.UtteranceRequest(response_format="pcm")
    return Utterance(fake_service(engine), request, tuple)


def test_each_part_is_told_what_there_is_to_hear_before_it() -> None:
    engine = Noting()
    said = utterance(engine)
    said.add(" ".join([FIRST, SECOND, THIRD]))
    said.end()
    said.open()
    assert list(said.pieces())
    assert [line.text for line in engine.asked] == [FIRST, SECOND, THIRD]
    ahead = [line.ahead_ms for line in engine.asked]
    assert ahead[0] == 0
    for line, (before_ms, after_ms) in zip(engine.asked, pairwise(ahead), strict=False):
        assert before_ms < after_ms <= before_ms + MS_PER_CHAR * len(line.text)


def test_it_is_the_same_in_whatever_chunks_the_sound_comes() -> None:
    told = []
    for chunk_ms in (80, 1000):
        engine = Noting()
        engine.chunk_ms = chunk_ms
        request = {"text": " ".join([FIRST, SECOND, THIRD]), "ahead_ms": 200}
        STREAM_SPEAK(fake_service(engine), request, Caller()).collect()
        told.append([line.ahead_ms for line in engine.asked])
    assert told[0] == told[1]
    assert told[0][0] == 200


@pytest.mark.parametrize("left_s", [0.3, 0.0])
def test_of_text_that_had_to_be_waited_for_the_clock_says_what_was_left_to_hear(left_s: float) -> None:
    engine = Noting()
    said = utterance(engine)
    said.add(FIRST)
    said.flush()
    said.open()
    speaker = threading.Thread(target=lambda: list(said.pieces()))
    speaker.start()
    assert said.speaking is not None
    while said.speaking.duration_ms < MS_PER_CHAR * len(FIRST):
        time.sleep(0.01)
    while said.speaking.account.heard_until_s - left_s >= time.monotonic():  # it is played
        time.sleep(0.01)
    said.add(SECOND)
    said.end()
    speaker.join()
    first, second = engine.asked
    assert (first.text, second.text) == (FIRST, SECOND)
    assert first.ahead_ms == 0
    assert 0 <= second.ahead_ms <= 1000 * left_s


def test_what_is_heard_fast_is_heard_out_soon() -> None:
    engine = Noting()
    request = {"text": " ".join([FIRST * 5, SECOND, THIRD]), "speed": 4, "max_duration_ms": 90_000}
    STREAM_SPEAK(fake_service(engine), request, Caller()).collect()
    assert [line.ahead_ms for line in engine.asked][-1] == 0
