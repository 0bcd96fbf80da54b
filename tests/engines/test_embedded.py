"""What the embedded voices share: text to phonemes, whatever the text."""

from __future__ import annotations

import time
import unicodedata

import pytest

from speech.caller import Caller
from speech.engines import embedded
from speech.engines.base import Line
from speech.errors import CallerLeft


@pytest.mark.parametrize("text", ["a\u0301" * 5000, "'" * 9999 + "a", "(" * 5000 + "a" + ")" * 4999, "1," * 5000])
def test_no_text_is_slow_to_read(text: str) -> None:
    embedded.phonemizer(british=False)
    began_s = time.process_time()
    assert list(embedded.phonemes(Line(text), british=False))
    assert time.process_time() - began_s < 3


@pytest.mark.parametrize("text", ["ten²", "R¹&Ú", "H₂O", "⑦ dwarfs"])
def test_digits_of_every_shape_are_read(text: str) -> None:
    plain = unicodedata.normalize("NFKC", text)
    digit = next(char for char in plain if char.isdigit())
    assert next(embedded.phonemes(Line(digit), british=False)) in next(embedded.phonemes(Line(text), british=False))


def test_a_caller_who_left_is_not_read_to() -> None:
    caller = Caller()
    caller.leave()
    with pytest.raises(CallerLeft):
        embedded.phonemes(Line("Hello.", caller=caller), british=False)
