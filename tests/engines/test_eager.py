"""The first sound early, and nobody hears where the pieces meet: held against the same line said in one go."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from audio_utils import Audio
from speech.caller import Caller
from speech.engines import eager, embedded, graph
from speech.engines.base import Engine, Line, Segment
from speech.engines.hibari import HibariEngine
from speech.engines.kokoro import levels
from speech.engines.kokoro.engine import KokoroEngine
from speech.engines.kokoro.model import SOUND, Model, loaded, stored
from speech.engines.kokoro.voices import VOICES, style_table
from speech.errors import CallerLeft
from tests.ears import quiet_spans_ms, similarity, word_error_rate

SAID = (
    "The weather is lovely today, and I would rather be outside.",
    "We sat on the steps behind the kitchen and listened to the rain until noon.",
)
"""With a comma and without a mark."""

SLOWEST_RTF = {"kokoro": 0.55, "hibari": 0.1}

FRAME_MS = 25


@functools.cache
def started(name: str) -> Engine:
    engine: Engine = KokoroEngine(threads=2) if name == "kokoro" else HibariEngine()
    engine.start()
    return engine


@functools.cache
def said(name: str, text: str, eagerly: bool) -> list[Audio]:
    return list(started(name).speak(Line(text, eager=eagerly)))


def in_one_stretch(name: str, text: str) -> list[Audio]:
    """As an eager line is drawn, but undivided."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(eager, "Pace", functools.partial(eager.Pace, first_ms=100_000, most_ms=100_000))
        return list(started(name).speak(Line(text, eager=True)))


both = pytest.mark.parametrize("name", ["kokoro", "hibari"])
each_text = pytest.mark.parametrize("text", SAID)


def level_db(samples: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(samples**2)))


def pauses_ms(audio: Audio) -> list[float]:
    """The quiet between words, longest first."""
    inner = [
        length for start, length in quiet_spans_ms(audio) if start > 200 and start + length < audio.duration_ms - 200
    ]
    return sorted(inner, reverse=True)


@both
@each_text
class TestAgainstOneGo:
    def test_the_first_piece_is_short_and_each_next_is_made_while_those_before_are_heard(
        self, name: str, text: str
    ) -> None:
        lengths_ms = [piece.duration_ms for piece in said(name, text, True)]
        assert lengths_ms[0] < 650
        assert len(said(name, text, False)) == 1
        heard_ms = 0.0
        for length_ms in lengths_ms:
            assert heard_ms == 0 or SLOWEST_RTF[name] * length_ms < heard_ms
            heard_ms += length_ms

    def test_the_same_words_are_heard_for_as_long_in_the_same_voice(self, name: str, text: str) -> None:
        pieces, whole = Audio.join(said(name, text, True)), Audio.join(said(name, text, False))
        assert word_error_rate(text, pieces) <= word_error_rate(text, whole) + 0.05
        assert pieces.duration_ms == pytest.approx(whole.duration_ms, rel=0.03)
        assert similarity(pieces, whole) > 0.93

    def test_no_pause_click_or_step_in_level_where_pieces_meet(self, name: str, text: str) -> None:
        pieces, (whole,), (undivided,) = said(name, text, True), said(name, text, False), in_one_stretch(name, text)
        joined = Audio.join(pieces).samples
        longest, usual = pauses_ms(Audio.join(pieces)), pauses_ms(whole)
        assert max(longest, default=0) <= max(usual, default=0) + 60
        steps = np.abs(np.diff(joined))
        ends = np.cumsum([len(piece.samples) for piece in pieces])
        assert len(ends) > 1
        for seam in ends[:-1]:
            assert steps[seam - 1] <= np.quantile(steps, 0.999)
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            assert abs(level_db(joined[start:end]) - level_db(undivided.samples[start:end])) < 1
            assert abs(level_db(joined[start:end]) - level_db(whole.samples[start:end])) < 4


@both
def test_a_long_text_is_not_read_before_it_is_heard(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    reader = embedded.phonemizer(british=False)

    def counting(british: bool):
        return lambda text: read.append(text) or reader(text)

    engine = started(name)
    monkeypatch.setattr(embedded, "phonemizer", counting)
    chunks = engine.speak(Line("This is a short one. " * 400, eager=True))
    next(chunks)
    assert len(read) == 1
    chunks.close()


@both
def test_who_leaves_between_pieces_ends_the_work(name: str) -> None:
    caller = Caller()
    chunks = started(name).speak(Line(" and ".join(SAID), eager=True, caller=caller))
    next(chunks)
    caller.leave()
    with pytest.raises(CallerLeft):
        next(chunks)


def test_a_matched_voice_says_a_short_sentence_whole_and_a_long_one_in_pieces() -> None:
    engine = started("kokoro")
    hum = np.sin(np.arange(48_000) * 2 * np.pi * 140 / 24_000).astype(np.float32) * 0.3
    somebody = (Segment("Mm.", 1, Audio(hum, 24_000)),)
    assert str(engine.voice_of(Line("Mm.", context=somebody))).startswith("match:")
    assert len(list(engine.speak(Line("Nice to meet you.", context=somebody, eager=True)))) == 1
    chunks = engine.speak(Line(SAID[1], context=somebody, eager=True))
    assert next(chunks).duration_ms < 650
    chunks.close()


@pytest.mark.parametrize("eagerly", [False, True])
def test_lines_said_together_are_what_they_are_alone(eagerly: bool) -> None:
    engine = started("kokoro")
    texts = ["The first of them speaks.", "And so does the other one."]
    assert engine.info.parallel == len(texts)
    alone = [Audio.join(said("kokoro", text, eagerly)).samples for text in texts]
    lines = [engine.speak(Line(text, eager=eagerly)) for text in texts]
    with ThreadPoolExecutor() as pool:
        together = list(pool.map(lambda chunks: Audio.join(chunks).samples, lines))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


@dataclass
class Stub:
    threads: int


def test_lines_share_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = KokoroEngine(threads=5)
    monkeypatch.setattr(engine, "_models", [Stub(threads) for threads in (5, 2, 1)])
    shared = []
    with ExitStack() as lines:
        for _ in range(7):
            lines.enter_context(engine._one_more())
            shared.append(engine._model.threads)
    assert shared == [5, 2, 1, 1, 1, 1, 1]
    assert engine._model.threads == 5


@pytest.fixture(scope="module")
def models() -> list[Model]:
    return loaded([2, 1, 3])


@pytest.fixture(scope="module")
def model(models: list[Model]) -> Model:
    return models[0]


def test_on_any_number_of_threads_it_is_the_same_sound(models: list[Model]) -> None:
    tokens = embedded.token_ids("hˌW ɑɹ ju?")
    style = style_table("af_heart")[np.newaxis, len(tokens) - 3]
    first, *others = (model.whole(model.outline(tokens, style, Caller())) for model in models)
    for other in others:
        np.testing.assert_array_equal(first, other)


def test_the_stored_levels_are_those_of_the_voices(model: Model) -> None:
    voice = VOICES["bm_george"]
    fresh = levels.taken(model, style_table(voice.id), voice.british, Caller())
    for kept, taken in zip(levels.stored()[voice.id], fresh, strict=True):
        np.testing.assert_allclose(kept, taken, rtol=0.01, atol=1e-3)


def test_a_model_in_two_parts_says_what_it_said_in_one(model: Model) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 3
    one = onnxruntime.InferenceSession(stored(), options, providers=["CPUExecutionProvider"])
    tokens = embedded.token_ids("həlˈO.")
    style = style_table("af_heart")[np.newaxis, len(tokens) - 3]
    inputs = {"tokens": np.array([tokens]), "style": style, "speed": np.ones(1, np.float32)}
    (expected,) = one.run([SOUND], inputs)
    np.testing.assert_array_equal(model.whole(model.outline(tokens, style, Caller())), expected.reshape(-1))


class TestStretches:
    loudness = arrays(np.float32, st.integers(8, 2000), elements=st.floats(-10, 10, width=32))

    @given(loudness, st.floats(0.05, 0.6))
    @settings(deadline=None)
    def test_they_follow_each_other_and_none_is_late(self, loudness: np.ndarray, rtf: float) -> None:
        pace = eager.Pace(rtf)
        parts = eager.stretches(loudness, FRAME_MS, pace)
        assert all(before[1] == after[0] for before, after in pairwise(parts))
        assert 0 <= parts[0][0] < parts[-1][1] <= len(loudness)
        ahead_ms = 0.0
        for number, (start, stop) in enumerate(parts):
            length_ms = (stop - start) * FRAME_MS
            assert length_ms <= max(pace.most_ms, pace.first_ms) + eager.LEAST_MS
            made_in_ms = rtf * (length_ms + pace.overhead_ms)
            assert number == 0 or made_in_ms <= ahead_ms + rtf * (pace.first_ms + pace.overhead_ms + eager.LEAST_MS)
            ahead_ms = max(0.0, ahead_ms - made_in_ms) + length_ms

    @given(loudness)
    @settings(deadline=None)
    def test_drawn_from_one_sound_they_are_that_sound(self, loudness: np.ndarray) -> None:
        one = np.random.default_rng(0).uniform(0.1, 0.5, len(loudness) * 10).astype(np.float32)
        parts = eager.stretches(loudness, FRAME_MS, eager.Pace(0.4))
        pieces = list(eager.drawn(parts, lambda start, stop: one[start * 10 : stop * 10], keep_samples=0))
        np.testing.assert_allclose(np.concatenate(pieces), one[parts[0][0] * 10 : parts[-1][1] * 10], atol=1e-6)

    @given(loudness, st.floats(0, 20_000))
    @settings(deadline=None)
    def test_they_are_no_shorter_where_the_listener_has_something_to_hear(
        self, loudness: np.ndarray, ahead_ms: float
    ) -> None:
        at_once, later = (eager.stretches(loudness, FRAME_MS, eager.Pace(0.4, ahead)) for ahead in (0, ahead_ms))
        assert len(later) <= len(at_once)
        if ahead_ms > 0.4 * (FRAME_MS * len(loudness) + 200) and FRAME_MS * len(loudness) < 4000:
            assert len(later) == 1

    def test_the_silence_that_was_not_drawn_is_there_all_the_same(self) -> None:
        one = np.full(3000, 0.5, np.float32)
        (piece,) = eager.drawn([(0, 300)], lambda start, stop: one[start * 10 : stop * 10], keep_samples=70)
        np.testing.assert_array_equal(piece, np.pad(one, 70))
        soft = np.concatenate([np.full(40, 1e-4), one, np.full(40, 1e-4)]).astype(np.float32)
        (piece,) = eager.drawn([(0, 308)], lambda start, stop: soft[start * 10 : stop * 10], keep_samples=70)
        assert len(piece) == 3140
        assert not piece[[*range(31), *range(-31, 0)]].any(), "what is soft comes out of silence, and goes into it"
        np.testing.assert_array_equal(piece[70:-70], one)

    def test_filters_and_encoders_can_take_each_piece(self) -> None:
        one = np.full(3000, 0.5, np.float32)
        for piece in eager.drawn([(0, 100), (100, 300)], lambda a, b: one[a * 10 : b * 10], keep_samples=70):
            assert piece.flags.c_contiguous

    def test_what_is_silent_around_a_sentence_is_left_out(self) -> None:
        one = np.concatenate([np.zeros(1000), np.full(3000, 0.5), np.zeros(1000)]).astype(np.float32)
        loudness = np.where(one[::10] > 0, 5.0, -9.0)
        parts = eager.stretches(loudness, FRAME_MS, eager.Pace(0.4))
        pieces = eager.drawn(parts, lambda start, stop: one[start * 10 : stop * 10], keep_samples=30)
        np.testing.assert_allclose(np.concatenate(list(pieces)), one[970:4030], atol=1e-6)

    @given(arrays(np.float32, 50, elements=st.floats(-4, 4, width=32)))
    def test_nothing_exceeds_full_scale_and_what_is_soft_stays(self, samples: np.ndarray) -> None:
        bounded = eager.bounded(samples)
        assert np.abs(bounded).max() <= 1
        soft = np.abs(samples) <= eager.KNEE
        np.testing.assert_array_equal(bounded[soft], samples[soft])


@pytest.fixture(scope="module", autouse=True)
def let_go() -> Iterator[None]:
    yield
    started.cache_clear()
    said.cache_clear()


def test_a_graph_is_read_as_it_was_written() -> None:
    twice = graph.operation("Add", ["x", "x"], "twice")
    four = graph.renamed(graph.operation("Mul", ["twice", "twice"], "any"), "four")
    inputs = {name: graph.value(name) for name in ("x", "unused")}
    head = bytes.fromhex("0809420408001011")  # ir_version 9; opset 17 of the default domain
    model = graph.read(graph.Graph((twice, four), {}, inputs, head).part(["four"]))
    assert [node.op_type for node in model.nodes] == ["Add", "Mul"]
    assert list(model.inputs) == ["x"]
    x = np.arange(3, dtype=np.float32)
    run = onnxruntime.InferenceSession(model.part(["four"], ["twice"]), providers=["CPUExecutionProvider"]).run
    np.testing.assert_array_equal(run(None, {"twice": x})[0], x * x)
    with pytest.raises(KeyError):
        model.part(["five"])
