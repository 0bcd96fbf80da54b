"""Where a text is cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from speech.text.split import clauses, sentences


def test_abbreviations_do_not_end_a_sentence() -> None:
    text = "Dr. Smith met J. K. Rowling at 5 p.m. in the U.S. embassy. Then he left. Was it v2.0.1?"
    assert sentences(text) == [
        "Dr. Smith met J. K. Rowling at 5 p.m. in the U.S. embassy.",
        "Then he left.",
        "Was it v2.0.1?",
    ]


def test_lines_end_sentences_and_bare_punctuation_is_none() -> None:
    assert sentences("One\n\n...\nTwo!\n - \n") == ["One", "Two!"]


@given(st.text(alphabet="ab ,;:—.", max_size=300), st.integers(1, 40))
def test_pieces_are_short_enough_and_lose_no_character(sentence: str, max_chars: int) -> None:
    pieces = clauses(sentence, max_chars)
    assert all(0 < len(piece) <= max_chars for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(sentence.split())


def test_cuts_at_clauses_first() -> None:
    assert clauses("first part here, second part there; third", 20) == [
        "first part here,",
        "second part there;",
        "third",
    ]
