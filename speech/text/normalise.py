"""English text as it reads aloud: abbreviations, symbols and numbers written out, runs of punctuation calmed.

Number words come from `inflect`. What is ambiguous stays as it is: an engine's own reading is then the better guess.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import inflect

_WORDS = inflect.engine()

_ABBREVIATIONS: list[tuple[str, str]] = [
    (r"\bMr\.", "Mister"),
    (r"\bMrs\.", "Missus"),
    (r"\bMs\.", "Miss"),
    (r"\bProf\.", "Professor"),
    (r"\bSt\. (?=[A-Z])", "Saint "),
    (r"(?<=[a-z] )Dr\.(?=$|[,;]| [a-z])", "Drive"),
    (r"\bDr\.", "Doctor"),
    (r"\bNo\. ?(?=\d)", "number "),
    (r"\bvs\.?(?!\w)", "versus"),
    (r"\betc\.", "et cetera"),
    (r"\be\.g\.", "for example"),
    (r"\bi\.e\.", "that is"),
    (r"\bapprox\.", "approximately"),
]
MAX_NAMED_DIGITS = 36
"""Numbers with more have no name that `inflect` knows."""

_CURRENCIES = {"$": ("dollar", "cent"), "€": ("euro", "cent"), "£": ("pound", "penny")}
_YEAR_BEFORE = (
    r"(?:in|since|until|by|before|after|from|year|of|early|late"
    r"|January|February|March|April|May|June|July|August|September|October|November|December|\d{1,2}(?:st|nd|rd|th)?,)"
)

_PUNCTUATION: list[tuple[str, str]] = [
    (r"\.{4,}", "..."),
    (r"[!?]*\?[!?]+|[!?]+\?[!?]*", "?"),
    (r"!{2,}", "!"),
    (r"([,;:])[,;:]+", r"\1"),
    (r"-{2,}", " - "),
    (r"\s+", " "),
    (r" (?=[,.;:!?])", ""),
]


def normalise(text: str) -> str:
    """`text` as it reads aloud, on one line."""
    for pattern, spoken in _ABBREVIATIONS:
        text = re.sub(pattern, spoken, text)
    for number_pattern, read in _NUMBERS:
        text = re.sub(number_pattern, read, text)
    text = re.sub(r"\s*&\s*", " and ", text)
    text = re.sub(r"(?<=\w)\s*@\s*(?=\w)", " at ", text)
    for pattern, calm in _PUNCTUATION:
        text = re.sub(pattern, calm, text)
    return text.strip()


def _cardinal(digits: str) -> str:
    """`1,250` as one thousand two hundred and fifty; past MAX_NAMED_DIGITS they are read one by one."""
    plain = digits.replace(",", "")
    if len(plain) > MAX_NAMED_DIGITS or (len(plain) > 1 and plain.startswith("0")):
        return _one_by_one(plain)
    return str(_WORDS.number_to_words(plain)).replace(",", "")


def _one_by_one(digits: str) -> str:
    return " ".join(str(_WORDS.number_to_words(digit)) for digit in digits if digit.isdigit())


def _decimal(match: re.Match[str]) -> str:
    whole, fraction = match["whole"], match["fraction"]
    return f"{_cardinal(whole)} point {_one_by_one(fraction)}" if fraction else _cardinal(whole)


def _money(match: re.Match[str]) -> str:
    unit, small_unit = _CURRENCIES[match["sign"]]
    if match["scale"]:
        return f"{_decimal(match)} {match['scale']} {_WORDS.plural(unit)}"
    if (match["fraction"] and len(match["fraction"]) != 2) or len(match["whole"]) > MAX_NAMED_DIGITS:
        return f"{_decimal(match)} {_WORDS.plural(unit)}"
    whole, small = int(match["whole"].replace(",", "")), int(match["fraction"] or 0)
    said = [f"{_cardinal(str(whole))} {_WORDS.plural(unit, whole)}"] if whole or not small else []
    if small:
        said.append(f"{_cardinal(str(small))} {'pence' if unit == 'pound' else _WORDS.plural(small_unit, small)}")
    return " and ".join(said)


def _time(match: re.Match[str]) -> str:
    hour, minute = int(match["hour"]), int(match["minute"])
    if minute:
        spoken = f"{_cardinal(str(hour))} {'oh ' if minute < 10 else ''}{_cardinal(str(minute))}"
    else:
        spoken = _cardinal(str(hour)) + ("" if match["half"] else " o'clock")
    return f"{spoken} {match['half'][0].upper()} M" if match["half"] else spoken


def _year(match: re.Match[str]) -> str:
    century, rest = divmod(int(match["year"]), 100)
    if 2000 <= int(match["year"]) < 2010:
        return match["before"] + _cardinal(match["year"])
    tail = "hundred" if rest == 0 else f"oh {_cardinal(str(rest))}" if rest < 10 else _cardinal(str(rest))
    return f"{match['before']}{_cardinal(str(century))} {tail}"


def _ordinal(match: re.Match[str]) -> str:
    digits = match["whole"].replace(",", "")
    if len(digits) > MAX_NAMED_DIGITS:
        return f"{_one_by_one(digits[:-1])} {_WORDS.number_to_words(_WORDS.ordinal(digits[-1]))}"
    return str(_WORDS.number_to_words(_WORDS.ordinal(digits))).replace(",", "")


_WHOLE = r"(?P<whole>\d{1,3}(?:,\d{3})+|\d+)"
_FRACTION = r"(?:\.(?P<fraction>\d+))?"

_NUMBERS: list[tuple[str, Callable[[re.Match[str]], str]]] = [
    (r"\b\d{3}-\d{4}\b", lambda m: _one_by_one(m[0])),
    (
        rf"(?P<sign>[$€£]){_WHOLE}{_FRACTION}(?: (?P<scale>thousand|million|billion|trillion)\b)?",
        _money,
    ),
    (r"\b(?P<hour>[01]?\d|2[0-3]):(?P<minute>[0-5]\d)(?: ?(?P<half>[ap])\.?m\b\.?)?(?![:\d])", _time),
    (rf"\b(?P<before>{_YEAR_BEFORE} )(?P<year>1[1-9]\d\d|20\d\d)\b(?![,.:%]\d)", _year),
    (rf"\b{_WHOLE}(?:st|nd|rd|th)\b", _ordinal),
    (rf"(?<![\w.,]){_WHOLE}{_FRACTION} ?%", lambda m: f"{_decimal(m)} percent"),
    (rf"(?<![\w.,-])-{_WHOLE}{_FRACTION}\b(?!\.\d)", lambda m: f"minus {_decimal(m)}"),
    (r"(?<=\d)\s?[-–]\s?(?=\d)", lambda m: " to "),
    (rf"(?<![\w.,]){_WHOLE}{_FRACTION}(?![\w]|[.,]\d)", _decimal),
]
