"""Sounds in brackets: found as people write them, and taken out so that the rest still reads well."""

from __future__ import annotations

import pytest

from speech.text.cues import without_cues


@pytest.mark.parametrize(
    ("text", "rest", "left_out"),
    [
        ("Wow. (laughs) Amazing.", "Wow. Amazing.", ("laughs",)),
        ("Wow (laughs).", "Wow.", ("laughs",)),
        ("(Clears Throat) Well.", " Well.", ("clears throat",)),
        ("No,(sighs)no.", "No, no.", ("sighs",)),
        ("[S1] Ha (laughs)! [S2] Ha (coughs) (laughs).", "[S1] Ha! [S2] Ha.", ("laughs", "coughs")),
        ("He laughs (a little).", "He laughs (a little).", ()),
        ("(laughs", "(laughs", ()),
    ],
)
def test_cues_are_left_out_and_told(text: str, rest: str, left_out: tuple[str, ...]) -> None:
    assert without_cues(text) == (rest, left_out)


def test_a_cue_that_can_be_made_stays() -> None:
    assert without_cues("Oh (laughs) dear (sighs).", able=("laughs",)) == ("Oh (laughs) dear.", ("sighs",))
