"""Events come out the same, wherever the network divides the bytes."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clients.sse import Event, EventTooLarge, Parser

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
WORDS = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=12)
NOISE = st.one_of(
    WORDS.map(lambda words: f":{words}"),
    st.just("id: 7"),
    st.just("retry: 10"),
    st.just("dataless"),
    WORDS.map(lambda words: f"unknown: {words}"),
)


@st.composite
def events(draw: st.DrawFn) -> tuple[Event, list[str]]:
    """An event, and one way of many to write it down."""
    data = draw(st.lists(WORDS, min_size=1, max_size=3))
    name = draw(st.sampled_from(["", "message", "ping", "größe"]))
    lines = [f"data:{' ' if words[:1] == ' ' or draw(st.booleans()) else ''}{words}" for words in data]
    if name:
        lines.insert(draw(st.integers(0, len(lines))), f"event: {name}")
    for noise in draw(st.lists(NOISE, max_size=2)):
        lines.insert(draw(st.integers(0, len(lines))), noise)
    return Event(name or "message", "\n".join(data)), lines


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[Event], bytes]:
    written = draw(st.lists(events(), max_size=4))
    raw = draw(st.sampled_from([b"", "\ufeff".encode()]))
    for _, lines in written:
        ends = [draw(ENDS) for _ in lines]
        empty = b"\r" if ends[-1] == b"\r" else draw(ENDS)  # CR and then LF would be one end
        raw += b"".join(line.encode() + end for line, end in zip(lines, ends, strict=True)) + empty
    return [event for event, _ in written], raw


def divided(data: st.DataObject, raw: bytes) -> list[bytes]:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=12)))
    return [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]


def parsed(pieces: list[bytes]) -> list[Event]:
    parser = Parser()
    return [event for piece in pieces for event in parser.feed(piece)]


@UNHURRIED
@given(streams(), st.data())
def test_what_was_written_is_read_however_it_is_divided(stream: tuple[list[Event], bytes], data: st.DataObject) -> None:
    written, raw = stream
    assert parsed(divided(data, raw)) == written
    assert parsed([raw[at : at + 1] for at in range(len(raw))]) == written


@UNHURRIED
@given(
    st.lists(st.sampled_from([b"data", b":", b" ", b"\r", b"\n", b"event", b"\xef\xbb\xbf", b"\xc3", b"x"])), st.data()
)
def test_any_bytes_are_read_alike_however_they_are_divided(tokens: list[bytes], data: st.DataObject) -> None:
    raw = b"".join(tokens)
    assert parsed(divided(data, raw)) == parsed([raw])


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_an_event_is_there_with_its_last_byte(end: bytes) -> None:
    parser = Parser()
    *before, last = b"data: now" + end + end[:1]
    assert not [event for byte in before for event in parser.feed(bytes([byte]))]
    assert parser.feed(bytes([last])) == [Event("message", "now")]
    assert parser.feed(end[1:] + b"data: 2" + end + end) == [Event("message", "2")]


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (b"data\n\n", [Event("message", "")]),
        (b"data:\ndata:\n\n", [Event("message", "\n")]),
        (b"data:  two\n\n", [Event("message", " two")]),
        (b"\n\n\nevent: x\n\ndata: 1\n\n", [Event("message", "1")]),
        (b"data: \xff\n\n", [Event("message", "\ufffd")]),
        (b"data: cut off\n", []),
        (b"Data: 1\n\n", []),
    ],
)
def test_the_corners_of_the_standard(raw: bytes, found: list[Event]) -> None:
    assert parsed([raw]) == found


@pytest.mark.parametrize("raw", [b"data: ", b": ", b"data: x\n", b"data\n"], ids=repr)
def test_what_never_ends_is_refused(raw: bytes) -> None:
    parser = Parser(max_bytes=100)
    body = raw + b"x" * 9 if raw.endswith(b" ") else raw
    with pytest.raises(EventTooLarge, match="larger than 100 bytes"):
        for piece in [body, *[body if body.endswith(b"\n") else b"x" * 10] * 100]:
            parser.feed(piece)


def test_what_was_read_no_longer_counts() -> None:
    parser = Parser(max_bytes=10)
    for _ in range(50):
        assert parser.feed(b": comment\ndata: 12\n\n") == [Event("message", "12")]
