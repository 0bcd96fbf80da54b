"""Kokoro-82M (int8, ONNX) on the CPU: 28 English voices, and a recording's voice by approximate match."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from audio_utils import Audio
from speech.engines import eager, embedded
from speech.engines.base import EngineInfo, Line, Load, Segment
from speech.engines.kokoro import levels
from speech.engines.kokoro.match import VoiceMatch
from speech.engines.kokoro.model import FRAME_SAMPLES, Levels, Model, Outline, loaded
from speech.engines.kokoro.voices import VOICES, style_table
from speech.errors import NotReady

REFERENCE_MS = 20_000
"""A voice is matched on at most this much of what its speaker said."""

FRAME_MS = 1000 * FRAME_SAMPLES / embedded.SAMPLE_RATE_HZ

SLOWEST_RTF = 0.55
"""Up to which an eager line does not falter: drawing on one thread, which has others beside it."""

OUTLINE_RTF = 0.05
"""The same for the outline."""

WORTH_LEVELS = 65
"""Phonemes (4 s) up to which a matched voice says a sentence whole: to take the voice's levels would cost as much."""

KEPT_MATCHES = 64
"""A style is 0.5 MB; matched ones are kept so that a session's voice outlives its reference."""


@dataclass(slots=True, eq=False)
class KokoroVoice:
    """id: a stock voice's name, or `match:` and a digest. style: float32[510, 256], a row for each token count.
    levels: at which it is drawn eagerly; a matched voice's are None until they are needed."""

    id: str
    style: np.ndarray
    british: bool
    levels: Levels | None = None

    @property
    def is_stock(self) -> bool:
        return self.id in VOICES


class KokoroEngine:
    """The embedded default. threads: of the processor. The lines under way share them evenly, which makes more speech
    in all than all threads for one after the other: on two threads a sentence is not drawn twice as fast."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._stock = {
            id: KokoroVoice(id, style_table(id), voice.british, levels.stored()[id]) for id, voice in VOICES.items()
        }
        self.info = EngineInfo(
            name="kokoro",
            model="Kokoro-82M int8",
            sample_rate_hz=embedded.SAMPLE_RATE_HZ,
            device="cpu",
            voices=tuple(self._stock),
            context="voice",
            takes=False,
            sampling=False,
            grain="sentence",
            parallel=threads,
            notes=(
                "English only.",
                "A recording in context decides its speaker's voice by approximate match; its words change nothing.",
                "The same text gives the same take: seed, temperature and top_k change nothing.",
            ),
        )
        self._models: list[Model] = []  # for all threads, for half of them, and so on
        self._lines: set[object] = set()
        self._match = VoiceMatch()
        self._matched: OrderedDict[str, KokoroVoice] = OrderedDict()
        self._lock = threading.Lock()

    def start(self) -> None:
        halvings = [self._threads >> halved for halved in range(self._threads.bit_length())]
        self._models = loaded(halvings)
        embedded.finished(self.speak(Line("Ready.")))

    def voice_of(self, line: Line) -> str | None:
        return self._voice(line).id

    def speak(self, line: Line) -> Generator[Audio]:
        voice = self._voice(line)
        spoken = embedded.phonemes(line, british=voice.british)
        return self._chunks(spoken, voice, line)

    def _chunks(self, spoken: Iterator[str], voice: KokoroVoice, line: Line) -> Generator[Audio]:
        pace = eager.Pace(rtf=SLOWEST_RTF, ahead_ms=line.ahead_ms)
        with self._one_more():
            for phoneme_string in spoken:
                line.caller.check()
                tokens = embedded.token_ids(phoneme_string)
                row = len(tokens) - 3  # row n - 1 for n tokens, without the two paddings
                if line.eager and (voice.is_stock or row >= WORTH_LEVELS):
                    style = levels.steady_style(voice.style, row)
                    yield from self._stretches(self._model.outline(tokens, style, line.caller), voice, pace)
                else:
                    style = voice.style[row, np.newaxis]
                    yield embedded.chunk(self._model.whole(self._model.outline(tokens, style, line.caller)))

    def _stretches(self, outline: Outline, voice: KokoroVoice, pace: eager.Pace) -> Iterator[Audio]:
        if voice.levels is None:  # a matched voice's first eager line
            voice.levels = levels.taken(self._model, voice.style, voice.british, outline.caller)
            pace.took(pace.ahead_ms)  # as long as a long sentence
        held = voice.levels
        pace.took(OUTLINE_RTF * outline.frames * FRAME_MS)
        parts = eager.stretches(outline.loudness.reshape(-1, 2).mean(1), FRAME_MS, pace)

        def sound(start: int, stop: int) -> np.ndarray:
            outline.caller.check()
            first, last = start == parts[0][0], stop == parts[-1][1]
            return self._model.stretch(outline, start, stop, held, first=first, last=last)

        for samples in eager.drawn(parts, sound, embedded.EDGE_SAMPLES):
            yield Audio(samples, embedded.SAMPLE_RATE_HZ)

    @property
    def _model(self) -> Model:
        """The one to draw with just now."""
        if not self._models:
            raise NotReady("the server is shutting down; send the request again", retry_after_s=1)
        share = self._threads // max(1, len(self._lines))
        return next((model for model in self._models if model.threads <= share), self._models[-1])

    @contextmanager
    def _one_more(self) -> Iterator[None]:
        """One line more is spoken. Takes no lock: it may end wherever a line that was dropped is collected."""
        line = object()
        self._lines.add(line)
        try:
            yield
        finally:
            self._lines.discard(line)

    def _voice(self, line: Line) -> KokoroVoice:
        """Who says `line`: the voice it names, else as its speaker sounded before, else that number's stock one."""
        if line.voice:
            return self._stock[line.voice]
        said = [segment for segment in line.context if segment.speaker == line.speaker]
        if not said:
            return self._stock[embedded.SPEAKERS[line.speaker]]
        with self._lock:
            for segment in said:
                known = segment.voice and (self._stock.get(segment.voice) or self._matched.get(segment.voice))
                if known:
                    return known
        return self._matching(_reference(said))

    def _matching(self, reference: Audio) -> KokoroVoice:
        voice_id = "match:" + hashlib.sha256(reference.samples.tobytes()).hexdigest()[:12]
        with self._lock:
            if voice_id in self._matched:
                self._matched.move_to_end(voice_id)
                return self._matched[voice_id]
        match = self._match.match(reference)
        nearest = self._stock[match.nearest_voice]
        voice = nearest if match.is_stock else KokoroVoice(voice_id, match.style, nearest.british)
        with self._lock:
            self._matched[voice_id] = voice
            if len(self._matched) > KEPT_MATCHES:
                self._matched.popitem(last=False)
        return voice

    def load(self) -> Load:
        return Load()

    def trim(self) -> None:
        """Nothing is kept between lines but matched styles, which are bounded."""

    def close(self) -> None:
        self._models = []


def _reference(said: list[Segment]) -> Audio:
    """The sound of `said`, oldest first, up to REFERENCE_MS."""
    joined = Audio.join([segment.audio for segment in said])
    return Audio(joined.samples[: REFERENCE_MS * joined.sample_rate_hz // 1000], joined.sample_rate_hz)
