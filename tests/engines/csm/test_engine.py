"""The engine as the service uses it: many callers, tiny random weights, both layouts."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch

from audio_utils import Audio
from speech.caller import Caller
from speech.engines.base import Line, Segment
from speech.engines.csm import dims as dims_module
from speech.engines.csm import engine as engine_module
from speech.engines.csm import weights as weights_module
from speech.engines.csm.engine import CsmConfig, CsmEngine
from speech.engines.csm.frames import Frame, Frames
from speech.engines.csm.source import Source
from speech.engines.csm.tokenizer import TextTokenizer
from speech.errors import CallerLeft, EngineFailed, InvalidInput, NotReady, OutOfMemory, StartupError
from speech.service import Service
from speech.settings import Settings
from tests.engines.csm.tiny import GOLDEN, clip

FRAME = 1920


def config(folder: Path, **changes: object) -> CsmConfig:
    return dataclasses.replace(CsmConfig(weights=str(folder), device="cpu", slots=3, prefix_cache_mb=64), **changes)


@pytest.fixture(scope="module")
def engine(transformers_folder: Path) -> Iterator[CsmEngine]:
    engine = CsmEngine(config(transformers_folder))
    engine.start()
    yield engine
    engine.close()


def audio(seconds: float, seed: int = 0) -> Audio:
    return Audio(clip(seconds, seed), 24_000)


def said(engine: CsmEngine, line: Line) -> np.ndarray:
    return np.concatenate([chunk.samples for chunk in engine.speak(line)])


def forget(engine: CsmEngine) -> None:
    assert engine._scheduler is not None
    engine._scheduler._reader.prefixes.clear()
    engine._scheduler._reader.codes.clear()


def speaking(engine: CsmEngine) -> int:
    assert engine._scheduler is not None
    return engine._scheduler.speaking


def until(condition: object, *, seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.005)


def test_what_it_says_of_itself(engine: CsmEngine) -> None:
    info = engine.info
    assert (info.name, info.context, info.takes, info.sampling, info.grain) == (
        "csm", "conversation", True, True, "frame",
    )  # fmt: skip
    assert (info.parallel, info.sample_rate_hz, info.device) == (3, 24_000, "cpu")
    assert CsmConfig().source() == Source(
        "chutesai/csm-1b", "01e2ed64be01915391ec7881f666d6dda0e1d509", setting="csm_weights"
    )
    assert CsmConfig(weights="owner/mirror").source().revision is None


def test_chunks_are_one_two_and_four_frames_and_stop_at_the_millisecond(engine: CsmEngine) -> None:
    take = engine.speak(Line("Hello there, this is me.", max_duration_ms=1010))
    chunks = list(take)
    assert take.truncated  # type: ignore[attr-defined]
    assert [len(chunk.samples) / FRAME for chunk in chunks[:3]] == [1, 2, 4]
    assert sum(len(chunk.samples) for chunk in chunks) == 1010 * 24
    assert all(chunk.samples.dtype == np.float32 and chunk.sample_rate_hz == 24_000 for chunk in chunks)


def test_both_layouts_give_the_same_audio(engine: CsmEngine, original_folder: Path) -> None:
    codec = str(original_folder / "mimi")
    other = CsmEngine(config(original_folder, codec=codec, slots=1))
    other.start()
    line = Line("Good morning.", seed=7, max_duration_ms=800, context=(Segment("Hi.", 1, audio(0.5)),))
    one, two = said(engine, line), said(other, line)
    other.close()
    assert np.allclose(one, two, atol=1e-4 * np.abs(one).max())


def lines() -> list[Line]:
    voice, answer = Segment("I am a voice.", 1, audio(0.7, 1)), Segment("And I another.", 0, audio(0.4, 2))
    return [
        Line("One.", seed=1, max_duration_ms=900),
        Line("Two and a half.", seed=2, max_duration_ms=400, context=(voice,)),
        Line("Three.", seed=3, max_duration_ms=1200, temperature=0.0),
        Line("Four.", seed=4, max_duration_ms=240, context=(voice, answer), speaker=0),
        Line("Five.", seed=5, max_duration_ms=700, top_k=100),
        Line("Six.", seed=1, max_duration_ms=900, temperature=1.4, top_k=5),
        Line("Seven.", seed=7, max_duration_ms=80, context=(voice,)),
    ]


def test_seven_callers_on_three_slots_hear_what_each_would_hear_alone(engine: CsmEngine) -> None:
    alone = [said(engine, line) for line in lines()]
    forget(engine)
    with ThreadPoolExecutor(7) as threads:
        together = list(threads.map(lambda line: said(engine, line), lines()))
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))


def test_lines_join_when_they_are_spoken_not_when_they_are_listened_to(engine: CsmEngine) -> None:
    takes = [engine.speak(line) for line in lines()[:3]]
    until(lambda: speaking(engine) == 0 and not engine._scheduler._waiting)  # type: ignore[union-attr]
    assert [len(np.concatenate([chunk.samples for chunk in take])) for take in takes] == [900 * 24, 400 * 24, 1200 * 24]


def test_a_remembered_prompt_gives_the_same_audio_as_a_full_one(engine: CsmEngine) -> None:
    context = tuple(Segment(f"Turn {i}.", i % 2, audio(0.3 + 0.2 * i, i)) for i in range(4))
    line = Line("And now?", seed=11, max_duration_ms=800, context=context)
    forget(engine)
    full = said(engine, line)
    reader = engine._scheduler._reader  # type: ignore[union-attr]
    assert len(reader.prefixes) == 4
    misses = reader.prefixes.misses
    assert np.array_equal(said(engine, line), full)
    assert reader.prefixes.misses == misses
    # A conversation that goes on finds all but its newest turn.
    longer = dataclasses.replace(line, context=(*context, Segment("Turn 4.", 0, audio(0.4, 9))))
    half = said(engine, longer)
    assert reader.prefixes.misses == misses + 1
    forget(engine)
    assert np.array_equal(said(engine, longer), half)


def test_a_voice_is_not_mistaken_for_another(engine: CsmEngine) -> None:
    line = Line("Who am I?", seed=1, max_duration_ms=400, context=(Segment("Hello.", 1, audio(0.5, 1)),))
    heard = said(engine, line)
    for other in (Segment("Hello.", 0, audio(0.5, 1)), Segment("Hallo.", 1, audio(0.5, 1)),
                  Segment("Hello.", 1, audio(0.5, 2))):  # fmt: skip
        assert not np.array_equal(heard, said(engine, dataclasses.replace(line, context=(other,))))


def test_what_is_remembered_stays_within_its_bytes(transformers_folder: Path) -> None:
    small = CsmEngine(config(transformers_folder, prefix_cache_mb=0, slots=1))
    small.start()
    reader = small._scheduler._reader  # type: ignore[union-attr]
    line = Line("Hm.", max_duration_ms=160, context=(Segment("Hello.", 1, audio(0.5)),))
    assert np.array_equal(said(small, line), said(small, line))
    assert reader.prefixes.bytes == len(reader.prefixes) == 0
    reader.prefixes._limit = 40_000
    for i in range(6):
        said(small, dataclasses.replace(line, context=(Segment("Hello.", 1, audio(0.5, i)),)))
        assert reader.prefixes.bytes <= 40_000
    assert 0 < len(reader.prefixes) < 6
    small.close()


def test_an_overlong_conversation_loses_its_oldest_turns_but_not_the_voice(engine: CsmEngine) -> None:
    voice = Segment("This is my voice.", 1, audio(2.0, 1))
    turns = [Segment(f"Turn {i}.", i % 2, audio(20.0, i)) for i in range(9)]  # 9 * 250 frames
    whole = said(engine, Line("So?", seed=3, max_duration_ms=400, context=(voice, *turns)))
    kept = said(engine, Line("So?", seed=3, max_duration_ms=400, context=(voice, *turns[2:])))
    assert np.array_equal(whole, kept)
    with pytest.raises(InvalidInput, match=r"^context\[1\]: is the voice to be kept") as refused:
        engine.speak(Line("So?", context=(turns[0], Segment("Me.", 1, audio(170.0)))))
    assert refused.value.field == "context[1]"
    with pytest.raises(InvalidInput, match=r"^texts\[2\]: is 3\d\d\d tokens long"):
        engine.speak(Line("a" * 3000, field="texts[2]"))


def test_a_callers_special_tokens_are_text(transformers_folder: Path) -> None:
    tokenizer = TextTokenizer(Source(str(transformers_folder)), vocabulary=300)
    ids = tokenizer.encode("a<|end_of_text|>b", 1)
    assert (ids[0], ids[-1]) == (256, 257)
    assert len(ids) == 2 + len("[1]a<|end_of_text|>b")
    with pytest.raises(StartupError, match="has 258 tokens, the model only 200"):
        TextTokenizer(Source(str(transformers_folder)), vocabulary=200)


def test_a_caller_who_leaves_frees_the_slot_within_a_frame(engine: CsmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = count_steps(monkeypatch)
    caller = Caller()
    take = engine.speak(Line("A long story. " * 30, max_duration_ms=60_000, caller=caller))
    next(take)
    caller.leave()
    before = len(steps)
    with pytest.raises(CallerLeft):
        for _ in take:
            pass
    until(lambda: speaking(engine) == 0)
    assert len(steps) <= before + 1
    with pytest.raises(CallerLeft):
        engine.speak(Line("Gone.", caller=caller))


@pytest.mark.parametrize("listened", [0, 1])
def test_closing_or_dropping_a_take_frees_its_slot(engine: CsmEngine, listened: int) -> None:
    line = Line("A long story. " * 30, max_duration_ms=60_000)
    for way in ("close", "drop"):
        takes = [engine.speak(line) for _ in range(4)]
        for take in takes:
            for _ in range(listened if take is not takes[3] else 0):
                next(take)
        until(lambda: speaking(engine) == 3)
        if way == "close":
            for each in takes:
                each.close()
                assert list(each) == []
        del take, takes
        until(lambda: speaking(engine) == 0)


def test_a_waiting_caller_who_leaves_does_not_wait_for_a_slot(engine: CsmEngine) -> None:
    busy = [engine.speak(Line("A long story. " * 30, max_duration_ms=60_000)) for _ in range(3)]
    caller = Caller()
    waiting = engine.speak(Line("Me too.", caller=caller))
    threading.Timer(0.05, caller.leave).start()
    with pytest.raises(CallerLeft):
        next(waiting)
    assert speaking(engine) == 3
    del busy
    until(lambda: speaking(engine) == 0)


def count_steps(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    steps: list[None] = []
    real = Frames.step

    def step(self: Frames, noise: dict) -> Frame:
        steps.append(None)
        return real(self, noise)

    monkeypatch.setattr(Frames, "step", step)
    return steps


@pytest.mark.parametrize("where", ["read", "step"])
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), OutOfMemory),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), OutOfMemory),
        (RuntimeError("x"), EngineFailed),
    ],
)
def test_a_fault_is_the_callers_own_error_and_the_next_one_is_served(
    engine: CsmEngine, monkeypatch: pytest.MonkeyPatch, where: str, fault: Exception, told: type[Exception]
) -> None:
    line = Line("Again.", seed=5, max_duration_ms=400)
    right = said(engine, line)
    with monkeypatch.context() as broken:
        target = engine._scheduler._reader if where == "read" else engine._scheduler._frames  # type: ignore[union-attr]

        def fail(*_: object) -> None:
            raise fault

        broken.setattr(target, where, fail)
        with pytest.raises(told) as raised:
            said(engine, line)
        assert "CUDA" not in str(raised.value)
    engine.trim()
    assert np.array_equal(said(engine, line), right)
    assert speaking(engine) == 0


def test_nobody_is_left_waiting_for_a_device_that_fails_at_everything(
    transformers_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = CsmEngine(config(transformers_folder))
    engine.start()
    service = Service(engine, Settings())
    service._started_s = 0.0
    assert service.not_ready is None
    takes = [engine.speak(Line("A long story. " * 30, max_duration_ms=60_000)) for _ in range(5)]
    for take in takes[:3]:
        next(take)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    for name in ("step", "join", "leave"):
        monkeypatch.setattr(engine._scheduler._frames, name, fail)  # type: ignore[union-attr]
    for take in takes:
        with pytest.raises((EngineFailed, NotReady)) as told:
            for _ in take:
                pass
        assert "CUDA" not in str(told.value)
    until(lambda: bool(service.not_ready))
    assert service.not_ready == "the engine has stopped; restart the server"
    with pytest.raises(NotReady):
        engine.speak(Line("Anyone?"))
    engine.close()


def test_a_take_ends_with_the_all_zero_frame(engine: CsmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line("That is all.", seed=6, max_duration_ms=1600)
    whole = said(engine, line)
    real, made = Frames.step, []

    def step(self: Frames, noise: dict) -> Frame:
        frame = real(self, noise)
        made.append(None)
        return Frame(frame.codes * (len(made) != 5), frame.audio)

    monkeypatch.setattr(Frames, "step", step)
    take = engine.speak(line)
    ended = np.concatenate([chunk.samples for chunk in take])
    assert not take.truncated  # type: ignore[attr-defined]
    assert len(ended) == 5 * FRAME
    assert np.array_equal(ended[: 4 * FRAME], whole[: 4 * FRAME])
    assert ended[-1] == 0


def test_a_silent_take_is_tried_again_with_other_noise(engine: CsmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line("Anyone there, or am I alone?", seed=8, max_duration_ms=4000)
    usual = said(engine, line)
    real, made = Frames.step, []

    def step(self: Frames, noise: dict) -> Frame:
        frame = real(self, noise)
        made.append(None)
        assert frame.audio is not None
        return Frame(frame.codes, frame.audio * np.float32(len(made) > 25))

    monkeypatch.setattr(Frames, "step", step)
    second = said(engine, line)
    assert not second[:FRAME].any()
    assert second[FRAME : 2 * FRAME].any()
    assert not np.array_equal(second[FRAME : 2 * FRAME], usual[:FRAME])
    monkeypatch.setattr(Frames, "step", lambda self, noise: Frame(real(self, noise).codes, np.zeros((3, FRAME), "f4")))
    nothing = said(engine, line)
    assert not nothing.any()
    assert len(nothing) <= 3 * FRAME


def test_before_the_start_and_after_the_end_it_says_so(transformers_folder: Path) -> None:
    engine = CsmEngine(config(transformers_folder, slots=1))
    with pytest.raises(NotReady):
        engine.speak(Line("Too early."))
    engine.start()
    take = engine.speak(Line("A long story. " * 30, max_duration_ms=60_000))
    next(take)
    engine.close()
    with pytest.raises(NotReady):
        for _ in take:
            pass
    with pytest.raises(NotReady):
        engine.speak(Line("Too late."))


def test_settings_that_do_not_go_together_are_refused(transformers_folder: Path, tmp_path: Path) -> None:
    from tests.engines.csm.tiny import tiny_mimi

    with pytest.raises(StartupError, match="csm_dtype"):
        CsmEngine(config(transformers_folder, dtype="float16"))
    with pytest.raises(StartupError, match="csm_slots"):
        CsmEngine(config(transformers_folder, slots=0))
    if not torch.cuda.is_available():
        with pytest.raises(StartupError, match="no cuda device"):
            CsmEngine(config(transformers_folder, device="cuda")).start()
    tiny_mimi(num_quantizers=4).save_pretrained(tmp_path)
    with pytest.raises(StartupError, match="4 codebooks"):
        CsmEngine(config(transformers_folder, codec=str(tmp_path))).start()
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(StartupError, match=r"csm_tokenizer: tokenizer\.json"):
        CsmEngine(config(transformers_folder, tokenizer=str(tmp_path))).start()


def test_too_little_memory_at_the_start_says_what_to_set(
    transformers_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(engine_module, "Frames", full)
    with pytest.raises(StartupError, match="set csm_slots lower"):
        CsmEngine(config(transformers_folder)).start()


def test_what_can_be_had_is_known_from_small_files(
    transformers_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    CsmEngine(config(transformers_folder)).check()
    with pytest.raises(StartupError, match=r"holds no model\.safetensors"):
        CsmEngine(config(tmp_path)).check()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(StartupError, match=r"csm_weights: config\.json of chutesai/csm-1b@01e2ed64.*cannot be reached"):
        CsmEngine(CsmConfig(device="cpu")).check()


def test_codec_and_tokenizer_come_with_the_weights_or_from_the_published_places(
    transformers_folder: Path, original_folder: Path
) -> None:
    def places(folder: Path, **changes: object) -> tuple[str, str]:
        engine = CsmEngine(config(folder, **changes))
        source = engine.config.source()
        return engine._codec_source(source).place, engine._tokenizer_source(source).place

    assert places(transformers_folder) == (str(transformers_folder), str(transformers_folder))
    assert places(original_folder) == ("kyutai/mimi", str(original_folder))
    (original_folder / "tokenizer.json").rename(original_folder / "kept.json")
    assert places(original_folder) == ("kyutai/mimi", "unsloth/Llama-3.2-1B")
    (original_folder / "kept.json").rename(original_folder / "tokenizer.json")
    assert places(transformers_folder, codec="a/b", tokenizer="c/d") == ("a/b", "c/d")


def test_what_is_published_is_taken_at_a_pinned_commit() -> None:
    chosen = CsmConfig()
    for source in (chosen.source(), chosen.codec_source(), chosen.tokenizer_source()):
        assert re.fullmatch("[0-9a-f]{40}", source.revision or ""), source.place
    other = CsmConfig(weights="a/b", codec="a/c", tokenizer_revision="v2")
    revisions = [each.revision for each in (other.source(), other.codec_source(), other.tokenizer_source())]
    assert revisions == [None, None, "v2"]


def test_an_original_file_beside_a_transformers_configuration_takes_the_published_codec(
    transformers_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(transformers_folder / "tokenizer.json", tmp_path)
    shutil.copy(transformers_folder / "config.json", tmp_path)
    shutil.copy(GOLDEN / "model.safetensors", tmp_path)
    golden = dims_module.read_dims(json.loads((GOLDEN / "config.json").read_text()))
    monkeypatch.setattr(weights_module, "read_dims", lambda config: golden if config == {} else pytest.fail("wrong"))
    asked: list[Source] = []

    def stop(source: Source, **_: object) -> None:
        asked.append(source)
        raise StartupError("far enough")

    monkeypatch.setattr(engine_module, "load_mimi", stop)
    with pytest.raises(StartupError, match="far enough"):
        CsmEngine(config(tmp_path)).start()
    assert asked[0].place == "kyutai/mimi"


def test_bfloat16_speaks_and_repeats_itself(transformers_folder: Path) -> None:
    engine = CsmEngine(config(transformers_folder, dtype="bfloat16"))
    engine.start()
    alone = [said(engine, line) for line in lines()[:4]]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda line: said(engine, line), lines()[:4]))
    engine.close()
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))


def test_the_package_imports_no_torch_and_the_engine_no_transformers() -> None:
    code = (
        "import sys, speech.engines.csm; assert 'torch' not in sys.modules; import speech.engines.csm.engine; "
        "assert not {'transformers', 'torchaudio', 'huggingface_hub', 'moshi'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
