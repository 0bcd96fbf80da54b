"""Many lines of text, each to a file of its own; one that fails does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import Busy, InvalidRequest, ServerFailed, TimedOut, TTSError
from .values import Speech

MAX_TEXTS_PER_REQUEST = 10


@dataclass(frozen=True)
class Line:
    """number: in its file, from 1."""

    number: int
    text: str


@dataclass(frozen=True)
class Result:
    """What came of a line: the file it is in, or the error."""

    line: Line
    outcome: Path | TTSError


SpeakBatch = Callable[[list[str]], list[Speech]]


def read_lines(text: str) -> list[Line]:
    """The lines of `text` that say something."""
    return [Line(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]


def speak_lines(speak: SpeakBatch, lines: Sequence[Line], out_dir: Path, extension: str) -> Iterator[Result]:
    """Speaks `lines`, at most 10 a request, each into `out_dir` under its number; yields what comes of each, in order.

    A request that fails is halved until the line at fault stands alone. Where the error is none of the lines' own
    (no connection, a wrong key, a wrong option), it is the result of all that are left. Raises OSError.
    """
    digits = max(4, len(str(lines[-1].number))) if lines else 0
    for start in range(0, len(lines), MAX_TEXTS_PER_REQUEST):
        for line, outcome in _speak_group(speak, lines[start : start + MAX_TEXTS_PER_REQUEST]):
            if isinstance(outcome, TTSError):
                yield Result(line, outcome)
                if not _may_be_the_lines_own(outcome):
                    yield from (Result(left, outcome) for left in lines if left.number > line.number)
                    return
            else:
                yield Result(line, outcome.save(out_dir / f"{line.number:0{digits}}.{extension}"))


def _speak_group(speak: SpeakBatch, group: Sequence[Line]) -> Iterator[tuple[Line, Speech | TTSError]]:
    try:
        speeches = speak([line.text for line in group])
    except TTSError as error:
        if len(group) == 1 or isinstance(error, Busy) or not _may_be_the_lines_own(error):
            yield from ((line, error) for line in group)
            return
    else:
        yield from zip(group, speeches, strict=True)
        return
    middle = len(group) // 2
    yield from _speak_group(speak, group[:middle])
    yield from _speak_group(speak, group[middle:])


def _may_be_the_lines_own(error: TTSError) -> bool:
    """Whether other lines may fare better."""
    if isinstance(error, InvalidRequest):
        return error.field is None or error.field.startswith("texts")
    return isinstance(error, ServerFailed | TimedOut | Busy)
