"""The gateway's engine on upstreams that follow a script: who is asked, who is left out, what is told."""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pybase64 import b64encode

from audio_utils import Audio, decode_b64
from image import baked
from speech import release
from speech.caller import Caller
from speech.engines.base import Line, Segment
from speech.engines.gateway import upstreams as spread
from speech.engines.gateway.engine import GatewayConfig, GatewayEngine
from speech.engines.registry import choose
from speech.errors import Busy, CallerLeft, EngineFailed, InvalidInput, NotReady, OutOfMemory, SpeechError, StartupError
from speech.operations import OPERATIONS
from speech.service import Service
from speech.settings import Settings
from tests.conftest import ROOT, Served
from tests.gateway.conftest import Gateway
from tests.gateway.upstream import RATE_HZ, SOUND, FakeUpstream, serving

HELLO = Line("Hello there.", seed=5, eager=True)
NOT_READY = (503, {"detail": "loading", "code": "not_ready", "field": None}, {})
Two = list[FakeUpstream]


def said(engine: GatewayEngine, line: Line = HELLO) -> np.ndarray:
    """What comes of `line`, as 16-bit samples."""
    return np.rint(Audio.join(engine.speak(line)).samples * 32767).astype("<i2")


def asked(*upstreams: FakeUpstream) -> list[int]:
    return [len(each.bodies) for each in upstreams]


# What they are


def test_the_gateway_is_what_its_upstreams_are(upstreams: Two, gateway: Gateway) -> None:
    info = gateway(*upstreams, slots=3).info
    assert (info.name, info.model, info.context, info.grain) == ("csm", "a model", "conversation", "frame")
    assert (info.sample_rate_hz, info.speed, info.parallel) == (RATE_HZ, (0.25, 4.0), 6)
    assert info.notes[0] == "Speaks."
    assert asked(*upstreams) == [0, 0], "nothing is spoken to find out"


def test_nobody_there_says_who_and_what_to_do(gateway: Gateway) -> None:
    with serving(FakeUpstream()) as gone:
        pass
    with serving(FakeUpstream(status="loading")) as loading, pytest.raises(StartupError) as refused:
        gateway(gone, loading)
    message = str(refused.value)
    assert all(word in message for word in (gone.url, "cannot connect", loading.url, "'loading'", "--upstream"))


@pytest.mark.parametrize("missing", ["grain", "speakers", "sample_rate_hz"])
def test_another_kind_of_server_is_told_apart(missing: str, gateway: Gateway) -> None:
    other = FakeUpstream()
    del other.health[missing]
    with serving(other), pytest.raises(StartupError, match=missing):
        gateway(other)


@pytest.mark.parametrize("url", ["10.0.0.5:8000", "ftp://a.example", "http://"])
def test_what_is_no_address_is_told(url: str) -> None:
    with pytest.raises(StartupError, match="DUOLOGUE_UPSTREAMS"):
        GatewayEngine(GatewayConfig((url,)))


@pytest.mark.parametrize(("field", "value"), [("model", "another"), ("voices", ["a"]), ("sample_rate_hz", 16_000)])
def test_upstreams_that_differ_cannot_stand_in_for_each_other(
    upstreams: Two, gateway: Gateway, field: str, value: Any
) -> None:
    upstreams[1].health[field] = value
    with pytest.raises(StartupError, match=rf"do not speak alike.*{field}"):
        gateway(*upstreams)


def test_the_key_is_sent_to_those_it_is_for(upstreams: Two, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHUTES_API_KEY", "cpk_secret")
    monkeypatch.setenv("DUOLOGUE_API_KEY", "for another server")
    gateway(upstreams[0])
    assert upstreams[0].keys == {None}
    gateway(upstreams[1], key="mine")
    assert upstreams[1].keys == {"Bearer mine"}
    config = GatewayConfig(())
    for url in ("http://a.chutes.ai", "https://chutes.ai.example", "https://notchutes.ai", "https://a.example"):
        assert config.key_of(url) == "", url
    assert config.key_of("https://a-b.chutes.ai") == "cpk_secret"


# What is sent, and what comes back


def test_a_line_goes_as_it_is_and_comes_back_sample_by_sample(upstreams: Two, gateway: Gateway) -> None:
    engine = gateway(upstreams[0])
    line = replace(HELLO, speaker=0, temperature=0.5, top_k=7, max_duration_ms=1234)
    np.testing.assert_array_equal(said(engine, line), SOUND)
    (body,) = upstreams[0].bodies
    assert body == {
        "path": "/stream_speak",
        "text": "Hello there.",
        "speaker": 0,
        "seed": 5,
        "temperature": 0.5,
        "top_k": 7,
        "speed": 1.0,
        "max_duration_ms": 1234,
        "response_format": "pcm",
    }


def test_whether_it_was_cut_is_told(upstreams: Two, gateway: Gateway) -> None:
    engine = gateway(upstreams[0])
    for text, cut in (("Too long.", True), ("Hello.", False)):
        chunks = engine.speak(replace(HELLO, text=text))
        assert len(list(chunks)) == 2
        assert chunks.truncated is cut  # type: ignore[attr-defined]


def test_whether_it_lost_its_way_is_told(upstreams: Two, gateway: Gateway) -> None:
    engine = gateway(upstreams[0])
    for text, lost in (("Hm.", True), ("Hello.", False)):
        chunks = engine.speak(replace(HELLO, text=text))
        assert len(list(chunks)) == 2
        assert chunks.ran_away is lost  # type: ignore[attr-defined]


def test_a_sentence_that_nobody_hears_yet_is_asked_for_whole(gateway: Gateway) -> None:
    with serving(FakeUpstream(grain="sentence")) as one:
        engine = gateway(one)
        for eager in (True, False):
            np.testing.assert_array_equal(said(engine, replace(HELLO, eager=eager)), SOUND)
        assert [body["path"] for body in one.bodies] == ["/stream_speak", "/speak"]


def noise(seconds: float, seed: int = 0, level: float = 0.3) -> Audio:
    samples = np.random.default_rng(seed).uniform(-level, level, int(RATE_HZ * seconds)).astype(np.float32)
    return Audio(samples, RATE_HZ)


def test_a_conversation_is_encoded_once(upstreams: Two, gateway: Gateway) -> None:
    engine = gateway(*upstreams)
    turns = [Segment(f"Turn {number}.", number % 2, noise(1, number)) for number in range(5)]
    for count in range(6):
        said(engine, replace(HELLO, context=tuple(turns[:count])))
    copied = tuple(replace(turn, audio=Audio(turn.audio.samples.copy(), RATE_HZ)) for turn in turns)
    said(engine, replace(HELLO, context=copied))
    assert engine.encodings.encoded == 5
    sent = max((body.get("context", []) for each in upstreams for body in each.bodies), key=len)
    assert [(turn["text"], turn["speaker"]) for turn in sent] == [(turn.text, turn.speaker) for turn in turns]
    heard = decode_b64(sent[0]["audio_b64"], field="")
    np.testing.assert_allclose(heard.samples, turns[0].audio.samples, atol=1e-4)


def test_what_is_kept_encoded_is_bounded(upstreams: Two, gateway: Gateway) -> None:
    engine = gateway(upstreams[0])
    engine.encodings._max_bytes = 200_000  # three of these
    for seed in (0, 1, 2, 3, 3, 0):
        said(engine, replace(HELLO, context=(Segment("Yes.", 0, noise(1, seed)),)))
    assert engine.encodings.encoded == 5
    assert engine.encodings._held_bytes <= 200_000


@pytest.mark.parametrize(
    ("segment", "sent_ms"),
    [
        (Segment("Yes.", 0, noise(0.2)), 501),
        (Segment("A speech.", 0, noise(61)), 59_999),
        (Segment("", 0, noise(1)), 1000),
        (Segment("Silence.", 0, noise(1, level=1e-5)), None),
        (Segment("Nothing.", 0, Audio.silence(0, RATE_HZ)), None),
    ],
)
def test_context_is_made_to_fit_the_wire(
    segment: Segment, sent_ms: float | None, upstreams: Two, gateway: Gateway
) -> None:
    said(gateway(upstreams[0]), replace(HELLO, context=(segment,)))
    sent = upstreams[0].bodies[0].get("context", [])
    assert len(sent) == (sent_ms is not None)
    for each in sent:
        assert decode_b64(each["audio_b64"], field="").duration_ms == pytest.approx(sent_ms, abs=1)
        assert each["text"]


def test_of_a_long_conversation_the_newest_go_with_the_speakers_first(upstreams: Two, gateway: Gateway) -> None:
    turns = tuple(Segment(f"Turn {number}.", int(number > 0), noise(0.5, number)) for number in range(40))
    said(gateway(upstreams[0]), replace(HELLO, speaker=0, context=turns, max_duration_ms=1))
    (body,) = upstreams[0].bodies
    assert [turn["text"] for turn in body["context"]] == ["Turn 0.", *(f"Turn {number}." for number in range(25, 40))]
    assert body["max_duration_ms"] == 500, "the least the wire takes; the service cuts the rest"


def test_a_voice_of_its_own_needs_no_recording(gateway: Gateway) -> None:
    health = {"voices": ["a", "b"], "context": "voice", "speakers": ["a", "b"]}
    own, matched = Segment("Yes.", 1, noise(1), "a"), Segment("No.", 1, noise(1, 1), "match:1")
    recording, another = Segment("Hm.", 1, noise(1, 2)), Segment("Oh.", 0, noise(1, 3))
    with serving(FakeUpstream(**health)) as one:
        engine = gateway(one)
        assert [engine.voice_of(replace(HELLO, speaker=number)) for number in (0, 1)] == ["a", "b"]
        assert engine.voice_of(replace(HELLO, voice="b")) == "b"
        assert engine.voice_of(replace(HELLO, context=(another, own))) == "a"
        assert engine.voice_of(replace(HELLO, context=(recording, matched))) is None
        for context in ((another, own), (recording, matched, another), (matched,), ()):
            said(engine, replace(HELLO, context=context))
        told = [(body.get("voice"), [turn["text"] for turn in body.get("context", [])]) for body in one.bodies]
        assert told == [("a", []), (None, ["Hm."]), (None, ["No."]), (None, [])]


# Mistakes of the caller's


OURS = {"detail": "text: has no word; write one", "code": "invalid_input", "field": "text"}
WRAPPED = {"detail": f"Invalid request: Invalid request: {json.dumps(OURS)}"}


@pytest.mark.parametrize("body", [OURS, WRAPPED], ids=["ours", "wrapped"])
def test_a_mistake_is_told_under_the_callers_field_and_asked_once(
    upstreams: Two, gateway: Gateway, body: dict[str, Any]
) -> None:
    """Also through the gateway of Chutes, which wraps it up."""
    for each in upstreams:
        each.script.append((400, body, {}))
    with pytest.raises(InvalidInput) as refused:
        said(gateway(*upstreams), replace(HELLO, field="texts[3]"))
    assert refused.value.message == "texts[3]: has no word; write one"
    assert sum(asked(*upstreams)) == 1


def test_text_without_a_word_is_not_sent(upstreams: Two, gateway: Gateway) -> None:
    with pytest.raises(InvalidInput) as refused:
        gateway(*upstreams).speak(replace(HELLO, text="…", field="turns[1].text"))
    assert refused.value.field == "turns[1].text"
    assert sum(asked(*upstreams)) == 0


# Whom to ask


def test_lines_go_where_the_least_is_under_way_and_wait_where_all_is_full(upstreams: Two, gateway: Gateway) -> None:
    one, other = upstreams
    engine = gateway(one, other, slots=2)
    one.script.extend(["hold"] * 9)
    other.script.extend(["hold"] * 9)
    lines = [engine.speak(HELLO) for _ in range(6)]
    for each in upstreams:
        each.until(lambda each=each: len(each.bodies) == 2)  # type: ignore[misc]
    one.release.set()
    one.until(lambda: len(one.bodies) == 4)
    assert asked(one, other) == [4, 2]
    other.release.set()
    for line in lines:
        assert len(list(line)) == 2


def test_one_that_fails_is_left_out_and_the_line_goes_to_another(upstreams: Two, gateway: Gateway) -> None:
    one, other = upstreams
    engine = gateway(one, other)
    one.script.append(NOT_READY)
    for _ in range(6):
        np.testing.assert_array_equal(said(engine), SOUND)
    assert asked(one, other) == [1, 6]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Left out for no time at all."""
    monkeypatch.setattr(spread, "FIRST_OUT_S", 0.0)
    yield


@pytest.mark.usefixtures("quick")
def test_one_that_was_left_out_is_used_again_once_it_says_that_it_is_well(upstreams: Two, gateway: Gateway) -> None:
    one, other = upstreams
    engine = gateway(one, other)
    one.health["status"] = "loading"
    one.script.append(NOT_READY)
    while one.asked < 3:
        said(engine)
    assert asked(one) == [1]
    one.health["status"] = "ready"
    while asked(one) == [1]:
        said(engine)


@pytest.mark.usefixtures("quick")
def test_one_that_comes_back_as_another_is_not_used(upstreams: Two, gateway: Gateway) -> None:
    one, other = upstreams
    engine = gateway(one, other)
    one.health["model"] = "another"
    one.script.append(NOT_READY)
    while one.asked < 4:
        said(engine)
    assert asked(one) == [1]


@pytest.mark.usefixtures("quick")
def test_rather_nobody_than_another(upstreams: Two, gateway: Gateway) -> None:
    one = upstreams[0]
    engine = gateway(one)
    one.health["model"] = "another"
    one.script.extend([NOT_READY] * 9)
    while not engine._upstreams.all[0].is_other:
        with pytest.raises(NotReady):
            said(engine)
    one.script.clear()
    sent = len(one.bodies)
    with pytest.raises(NotReady):
        said(engine)
    assert asked(one) == [sent]


@pytest.mark.parametrize(
    "entry", [(400, {"detail": "text: no"}, {}), (429, {"detail": "full", "code": "busy", "field": None}, {})]
)
def test_one_that_turns_a_line_away_is_well(upstreams: Two, gateway: Gateway, entry: Any) -> None:
    engine = gateway(upstreams[0])
    upstreams[0].script.extend([NOT_READY, entry])
    for _ in range(2):
        with pytest.raises(SpeechError):
            said(engine)
    assert engine._upstreams.all[0].is_up


def test_one_that_changed_its_rate_is_not_listened_to(upstreams: Two, gateway: Gateway) -> None:
    one, other = upstreams
    engine = gateway(one, other)
    one.health["sample_rate_hz"] = 16_000
    for _ in range(3):
        np.testing.assert_array_equal(said(engine), SOUND)
    assert asked(one) == [1]


def test_it_is_left_out_for_longer_each_time_and_a_sound_makes_good(upstreams: Two, gateway: Gateway) -> None:
    engine = gateway(upstreams[0])
    upstream = engine._upstreams.all[0]
    told = []
    for _ in range(8):
        upstream._out_until_s = 0.0
        upstream.failed("it did")
        upstream.failed("and so did those beside it")
        told.append(round(upstream.out_s))
    assert told == [1, 2, 4, 8, 16, 32, 60, 60]
    said(engine)
    assert upstream.is_up
    upstream.failed("again")
    assert round(upstream.out_s) == 1


def test_a_server_that_answers_what_nobody_foresaw_is_left_alone_for_longer(
    upstreams: Two, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = gateway(upstreams[0])
    upstream = engine._upstreams.all[0]
    asked_for: list[None] = []

    async def describe() -> None:
        asked_for.append(None)
        raise ValueError("what is this?")

    monkeypatch.setattr(upstream, "describe", describe)
    upstream.failed("it did")
    upstream._out_until_s = 0.0
    while not asked_for:
        assert engine.load().unable
        time.sleep(0.001)
    for _ in range(20):
        engine.load()
        time.sleep(0.001)
    assert len(asked_for) == 1


def test_where_all_are_left_out_they_are_tried_all_the_same(upstreams: Two, gateway: Gateway) -> None:
    engine = gateway(*upstreams)
    for each in upstreams:
        each.script.append(NOT_READY)
    with pytest.raises(NotReady) as refused:
        said(engine)
    assert refused.value.retry_after_s
    assert asked(*upstreams) == [1, 1]
    np.testing.assert_array_equal(said(engine), SOUND)


@pytest.mark.usefixtures("quick")
def test_where_none_answers_it_says_that_it_is_unable_and_finds_out_when_that_is_over(
    upstreams: Two, gateway: Gateway
) -> None:
    one = upstreams[0]
    engine = gateway(one)
    service = Service(engine, Settings())
    service.start()
    assert service.not_ready is None
    one.health["status"] = "loading"
    one.script.append(NOT_READY)
    with pytest.raises(NotReady):
        said(engine)
    assert service.not_ready == "no server behind this gateway answers"
    one.health["status"] = "ready"
    while service.not_ready:
        time.sleep(0.01)
    assert len(one.bodies) == 1, "nothing was spoken to find out"


def test_one_that_is_full_is_passed_over(upstreams: Two, gateway: Gateway) -> None:
    one, other = upstreams
    engine = gateway(one, other)
    busy = (429, {"detail": "full", "code": "busy", "field": None}, {"Retry-After": "7"})
    one.script.append(busy)
    said(engine)
    assert asked(one, other) == [1, 1]
    said(engine)
    assert asked(one, other) == [2, 1], "it is not left out"
    one.script.append(busy)
    other.script.append(busy)
    with pytest.raises(Busy) as refused:
        said(engine)
    assert refused.value.retry_after_s == 7
    assert asked(one, other) == [3, 2]


def test_a_connection_that_breaks_before_the_first_sound_is_made_anew(upstreams: Two, gateway: Gateway) -> None:
    engine = gateway(upstreams[0])
    upstreams[0].script.append("refuse")
    np.testing.assert_array_equal(said(engine), SOUND)
    assert asked(upstreams[0]) == [2]
    upstreams[0].script.extend(["refuse"] * 9)
    with pytest.raises(NotReady):
        said(engine)
    assert asked(upstreams[0]) == [4], "once, and no more"


@pytest.mark.parametrize(("entry", "words"), [("break", "broke off"), ("fail", "the engine broke")])
def test_after_the_first_sound_nothing_is_said_again(upstreams: Two, gateway: Gateway, entry: str, words: str) -> None:
    engine = gateway(*upstreams)
    upstreams[0].script.append(entry)
    chunks = engine.speak(HELLO)
    assert len(next(chunks).samples)
    with pytest.raises(EngineFailed, match=words):
        next(chunks)
    assert asked(*upstreams) == [1, 0]


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [(500, "engine_failed", EngineFailed), (503, "out_of_memory", OutOfMemory), (500, "internal", EngineFailed),
     (401, "unauthorised", EngineFailed), (502, "", NotReady)],
)  # fmt: skip
def test_what_fails_everywhere_is_told(
    upstreams: Two, gateway: Gateway, status: int, code: str, kind: type[SpeechError]
) -> None:
    for each in upstreams:
        each.script.append((status, {"detail": "no", "code": code, "field": None}, {}))
    with pytest.raises(kind):
        said(gateway(*upstreams))
    assert asked(*upstreams) == [1, 1]


# Leaving


def test_a_caller_who_leaves_is_hung_up_for_at_the_upstream(upstreams: Two, gateway: Gateway) -> None:
    one = upstreams[0]
    engine = gateway(one, slots=1)
    for times, entry in enumerate(("hold", "stay")):
        one.script.append(entry)
        caller = Caller()
        chunks = engine.speak(replace(HELLO, caller=caller))
        if entry == "stay":
            next(chunks)
        one.until(lambda: not one.script)
        caller.leave()
        with pytest.raises(CallerLeft):
            next(chunks)
        one.until(lambda times=times: one.hung_up == times + 1)  # type: ignore[misc]
    with pytest.raises(CallerLeft):
        engine.speak(replace(HELLO, caller=caller))
    np.testing.assert_array_equal(said(engine), SOUND)


def test_who_leaves_while_waiting_for_room_takes_none(upstreams: Two, gateway: Gateway) -> None:
    one = upstreams[0]
    engine = gateway(one, slots=1)
    one.script.append("hold")
    first = engine.speak(HELLO)
    one.until(lambda: len(one.bodies) == 1)
    caller = Caller()
    second = engine.speak(replace(HELLO, caller=caller))
    caller.leave()
    with pytest.raises(CallerLeft):
        next(second)
    one.release.set()
    assert len(list(first)) == 2
    said(engine)
    assert asked(one) == [2]


@pytest.mark.parametrize("how", ["closed", "dropped", "dropped before it was asked for"])
def test_chunks_that_nobody_wants_stop_the_upstream(upstreams: Two, gateway: Gateway, how: str) -> None:
    one = upstreams[0]
    engine = gateway(one, slots=1)
    one.script.append("stay")
    chunks = engine.speak(HELLO)
    one.until(lambda: not one.script)
    if how != "dropped before it was asked for":
        next(chunks)
    if how == "closed":
        chunks.close()
        assert next(chunks, None) is None
    else:
        del chunks
        gc.collect()
    one.until(lambda: one.hung_up == 1)
    np.testing.assert_array_equal(said(engine), SOUND)


def test_who_speaks_when_it_closes_is_told(upstreams: Two) -> None:
    one = upstreams[0]
    engine = GatewayEngine(GatewayConfig((one.url,)))
    one.script.extend(["stay", "hold"])
    begun, waiting = engine.speak(HELLO), engine.speak(HELLO)
    one.until(lambda: len(one.bodies) == 2)
    with ThreadPoolExecutor() as pool:
        told = [pool.submit(list, chunks) for chunks in (begun, waiting)]
        engine.close()
        assert [type(each.exception()) for each in told] == [NotReady, NotReady]
    with pytest.raises(NotReady):
        engine.speak(HELLO)
    engine.close()


def test_the_fake_tells_what_a_server_tells(kokoro: Served) -> None:
    """What the gateway reads is what /health has."""
    health = kokoro.http.get("/health").json()
    assert FakeUpstream().health.keys() <= health.keys()


# Settings


def test_it_is_chosen_by_name_and_wants_to_know_whom_to_ask(upstreams: Two) -> None:
    with pytest.raises(StartupError, match="DUOLOGUE_UPSTREAMS"):
        choose(Settings(engine="gateway", upstreams=" , "))
    named = ", ".join(each.url + "/" for each in upstreams)
    engine = choose(Settings(engine="gateway", upstreams=named, upstream_slots=2, upstream_key="mine"))
    assert engine.info.parallel == 4
    assert upstreams[1].keys == {"Bearer mine"}
    engine.close()


def test_a_chute_is_no_gateway_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any(path.startswith(("clients/", "speech/engines/gateway/")) for path in release.paths(ROOT))
    monkeypatch.setitem(sys.modules, "speech.engines.gateway.engine", None)
    with pytest.raises(StartupError, match="self-hosted server alone"):
        choose(Settings(engine="gateway", upstreams="http://127.0.0.1:9"))


def test_the_key_is_neither_shown_nor_baked() -> None:
    settings = Settings(engine="gateway", username="somebody", upstream_key="secret-key", upstreams="http://a.example")
    assert "secret-key" not in repr(settings)
    assert "UPSTREAM" not in str(baked(settings))


# A voice over several turns


def test_a_voice_stays_the_same_through_a_gateway(kokoro: Served) -> None:
    """A stock voice by its name, a recording's by the recording, though the upstream remembers neither."""
    service = Service(GatewayEngine(GatewayConfig((kokoro.url,))), Settings())
    service.start()
    contextual = OPERATIONS["contextual_speak"]

    def voice(**body: Any) -> str:
        return contextual(service, body | {"seed": 1}, Caller()).headers["X-Voice"]

    try:
        assert voice(text="Yes.", session_id="one", voice="af_sky") == "af_sky"
        assert voice(text="No.", session_id="one") == "af_sky"
        recording = (ROOT / "tests/data/recordings/psx__austen_f.wav").read_bytes()
        given = [{"text": "What she reads.", "speaker": 1, "audio_b64": b64encode(recording).decode()}]
        matched = voice(text="Yes.", session_id="two", context=given)
        assert matched.startswith("match:")
        assert voice(text="No.", session_id="two") == matched
    finally:
        service.close()
