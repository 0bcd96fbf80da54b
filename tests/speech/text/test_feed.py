"""A text that arrives in pieces: nothing is lost, nothing is said too early, the first words come soon."""

from __future__ import annotations

import itertools
import re

from hypothesis import given
from hypothesis import strategies as st

from speech.text.feed import FIRST_CLAUSE_CHARS, LONGEST_CHARS, Feed
from speech.text.split import sentences

TEXT = (
    "Well, it costs 3.14 dollars. Mr. Smith, who is 42, left at 5 p.m. yesterday; nobody knew why! "
    'She said "Stop." Then, after a long while, he came back.\nAnd that was it... wasn\'t it?'
)


def fed(pieces: list[str]) -> list[str]:
    feed = Feed()
    return [said for piece in pieces for said in feed.add(piece)] + feed.flush()


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


@given(st.lists(st.integers(0, len(TEXT)), max_size=30))
def test_cut_anywhere_no_word_is_lost_or_moved(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(TEXT)]
    said = fed([TEXT[start:end] for start, end in itertools.pairwise(edges)])
    assert words(" ".join(said)) == words(TEXT)


@given(st.lists(st.text(max_size=40), max_size=20))
def test_any_text_keeps_its_letters_in_order(pieces: list[str]) -> None:
    said = "".join(fed(pieces))
    kept = [char for char in "".join(pieces) if char.isalnum()]
    assert [char for char in said if char.isalnum()] == kept


@given(st.lists(st.tuples(st.sampled_from(["!\n", " ", "… ", "a, \n", "b\n ", "c. ", "dd", "-"]), st.integers(1, 200))))
def test_long_runs_of_anything_keep_their_letters(runs: list[tuple[str, int]]) -> None:
    feed, said = Feed(), ""
    for unit, count in runs:
        said += "".join(feed.add(unit * count))
    said += "".join(feed.flush())
    kept = "".join(unit * count for unit, count in runs)
    assert [char for char in said if char.isalnum()] == [char for char in kept if char.isalnum()]


def test_letter_by_letter_gives_the_sentences_after_the_first_clause() -> None:
    text = "This is one sentence that ends here. It costs 3.14 dollars. Dr. Who asked me? Yes."
    assert fed(list(text)) == sentences(text)


def test_a_sentence_waits_for_the_next_one_to_begin() -> None:
    feed = Feed()
    assert feed.add("It is 3.") == []
    assert feed.ended
    assert feed.add("14, more or less. ") == []
    assert feed.add("Or so") == ["It is 3.14, more or less."]
    assert feed.held == "Or so"


def test_the_first_clause_comes_before_its_sentence_is_whole() -> None:
    feed = Feed()
    assert feed.add("When the long night was finally over, the sai") == ["When the long night was finally over,"]
    assert len("When the long night was finally over,") > FIRST_CLAUSE_CHARS
    assert feed.add("lors, who had not slept, went ashore") == []


def test_a_sentence_without_end_is_given_in_clauses() -> None:
    feed = Feed()
    said = feed.add("and so it went on and on " * 40)
    assert said
    assert all(len(piece) <= LONGEST_CHARS for piece in said)
    assert words(" ".join([*said, *feed.flush()])) == words("and so it went on and on " * 40)
