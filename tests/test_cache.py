"""The cache: what it keeps, what it lets go, and that two requests share audio only where nothing differs."""

from __future__ import annotations

import json
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

import schemas
from cache import AudioCache, content_key


@dataclass(frozen=True)
class Entry:
    nbytes: int


def test_the_longest_unused_goes_first() -> None:
    cache: AudioCache[Entry] = AudioCache(capacity=2, max_bytes=100)
    cache.put("a", Entry(1))
    cache.put("b", Entry(1))
    assert cache.get("a")
    cache.put("c", Entry(1))
    assert cache.get("a")
    assert not cache.get("b")
    assert cache.get("c")


def test_bounded_in_bytes_also_when_replaced() -> None:
    cache: AudioCache[Entry] = AudioCache(capacity=10, max_bytes=10)
    for _ in range(5):
        cache.put("a", Entry(6))
    assert cache.get("a") == Entry(6)
    cache.put("b", Entry(6))
    assert len(cache) == 1
    cache.put("huge", Entry(11))
    assert not cache.get("huge")


def test_no_capacity_keeps_nothing() -> None:
    cache: AudioCache[Entry] = AudioCache(capacity=0, max_bytes=10)
    cache.put("a", Entry(1))
    assert not cache.get("a")


REQUESTS = st.fixed_dictionaries(
    {"text": st.sampled_from(["Hi.", "Hi. ", "hi.", "Hi.,1"])},
    optional={
        "speaker": st.integers(0, 1),
        "max_duration_ms": st.integers(500, 90_000),
        "seed": st.none() | st.integers(0, 2**63 - 1),
        "temperature": st.floats(0, 2),
        "top_k": st.integers(1, 2048),
        "response_format": st.sampled_from(["wav", "flac", "mp3", "opus", "aac", "pcm"]),
    },
)


def key(raw: dict[str, object]) -> tuple[str, str]:
    request = schemas.parse(schemas.PlainSpeakRequest, raw)
    return content_key(request=request.model_dump()), json.dumps(request.model_dump(), sort_keys=True)


@given(REQUESTS, REQUESTS)
def test_keys_are_equal_where_every_field_is_and_only_there(one: dict[str, object], other: dict[str, object]) -> None:
    (one_key, one_fields), (other_key, other_fields) = key(one), key(other)
    assert (one_key == other_key) == (one_fields == other_fields)


@given(REQUESTS, st.data())
def test_any_one_field_changes_the_key(raw: dict[str, object], data: st.DataObject) -> None:
    changed = schemas.parse(schemas.PlainSpeakRequest, raw).model_dump()
    name = data.draw(st.sampled_from(sorted(schemas.PlainSpeakRequest.model_fields)))
    values = {
        "text": "Other.",
        "speaker": 1 - changed["speaker"],
        "max_duration_ms": 500 if changed["max_duration_ms"] != 500 else 501,
        "seed": 1 if changed["seed"] != 1 else 2,
        "temperature": 0.5 if changed["temperature"] != 0.5 else 0.6,
        "top_k": 7 if changed["top_k"] != 7 else 8,
        "voice": "alloy" if changed["voice"] != "alloy" else "ash",
        "speed": 2.0 if changed["speed"] != 2.0 else 0.5,
        "response_format": "flac" if changed["response_format"] != "flac" else "mp3",
    }
    assert values.keys() == schemas.PlainSpeakRequest.model_fields.keys(), "a new field needs a value here"
    assert key(raw)[0] != key(changed | {name: values[name]})[0]
