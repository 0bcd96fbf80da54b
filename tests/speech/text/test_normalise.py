"""How text reads aloud."""

from __future__ import annotations

import pytest

from speech.text.normalise import normalise

CASES = {
    "Dr. Smith met Mr. and Mrs. Lee.": "Doctor Smith met Mister and Missus Lee.",
    "Prof. Ng lives at 12 Main Dr., St. Louis.": "Professor Ng lives at twelve Main Drive, Saint Louis.",
    "salt & pepper": "salt and pepper",
    "R&D": "R and D",
    "21 eggs": "twenty-one eggs",
    "1,250 people": "one thousand two hundred and fifty people",
    "3.14 is close": "three point one four is close",
    "-5 degrees": "minus five degrees",
    "50% off": "fifty percent off",
    "$5.20": "five dollars and twenty cents",
    "$1": "one dollar",
    "$0.01": "one cent",
    "£1.01": "one pound and one pence",
    "$1.5 million": "one point five million dollars",
    "at 9:15 a.m. sharp": "at nine fifteen A M sharp",
    "at 10:05": "at ten oh five",
    "at 7:00": "at seven o'clock",
    "the 1st and 22nd": "the first and twenty-second",
    "in 1999": "in nineteen ninety-nine",
    "May 3rd, 2005": "May third, two thousand and five",
    "since 1900": "since nineteen hundred",
    "1500 sheep": "one thousand five hundred sheep",
    "call 555-1234": "call five five five one two three four",
    "10-20 people": "ten to twenty people",
    "No. 5": "number five",
    "agent 007": "agent zero zero seven",
    "Wait!!! What???": "Wait! What?",
    "Really?!?!": "Really?",
    "Well......": "Well...",
    "one,, two;; three": "one, two; three",
    "a  b\n\nc": "a b c",
    "etc. and e.g. this": "et cetera and for example this",
    "version v2.0.1 of B2B": "version v2.0.1 of B2B",
    "192.168.0.1": "192.168.0.1",
    "already plain text.": "already plain text.",
}


@pytest.mark.parametrize("text", CASES)
def test_reads_as_expected(text: str) -> None:
    assert normalise(text) == CASES[text]


@pytest.mark.parametrize("text", CASES)
def test_once_is_enough(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


def test_very_long_numbers_are_read_digit_by_digit() -> None:
    assert normalise("1" * 40) == " ".join(["one"] * 40)


@pytest.mark.parametrize("text", ["9" * 37 + "th", "9" * 5000 + "th", "$" + "9" * 5000, "$1" + ",000" * 2000 + ".50"])
def test_a_number_without_a_name_is_still_read(text: str) -> None:
    spoken = normalise(text)
    assert not any(char.isdigit() for char in spoken)
    assert normalise(spoken) == spoken
