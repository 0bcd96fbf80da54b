"""Who is speaking, as 256 numbers, without torch.

The network is Resemblyzer's voice encoder (Apache-2.0, resemble-ai/Resemblyzer 0.1.4): 40 mel bands into three LSTM
layers of 256, a linear layer, a ReLU, unit length. onnxruntime runs it here on one thread, from weights narrowed to
float16 (see data/README.md): 25 ms for 12.8 s of speech, where numpy took 65 and fought for cores with whoever else
was busy. Only finding the silences and setting the level are ours. Knows nothing of Kokoro.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime

from audio_utils import Audio

RATE_HZ = 16_000
WINDOW = 400  # 25 ms, also the FFT's length: 201 frequencies
HOP = 160  # 10 ms
MELS = 40
PARTIAL_FRAMES = 160  # the network hears 1.6 s at a time
MAX_PARTIALS = 8  # 12.8 s of speech; more changes the answer little and costs time
MAX_AUDIO_S = 20  # what is looked at for speech, from the middle of a longer recording
SPEECH_DBFS = -22  # all speech is brought to this, Kokoro's own level: the mel bands are powers, so level matters
NETWORK = Path(__file__).parent / "data" / "speaker_encoder.onnx"


def embed(audio: Audio) -> np.ndarray:
    """float32[256] of unit length: the direction is the voice. Silence gives zeros."""
    wav = speech_only(at_16k(audio))
    rms = np.sqrt(np.mean(wav**2)) if len(wav) else 0.0
    if rms == 0:
        return np.zeros(256, np.float32)
    mean = network(partials(mel_powers(wav * (10 ** (SPEECH_DBFS / 20) / rms)))).mean(0)
    return mean / np.linalg.norm(mean)


def at_16k(audio: Audio) -> np.ndarray:
    """float32[n] at 16 kHz, at most MAX_AUDIO_S of it."""
    start = max(0, (len(audio.samples) - MAX_AUDIO_S * audio.sample_rate_hz) // 2)
    middle = audio.samples[start : start + MAX_AUDIO_S * audio.sample_rate_hz]
    return Audio(middle, audio.sample_rate_hz).resampled(RATE_HZ).samples


def speech_only(wav: np.ndarray) -> np.ndarray:
    """`wav` with the long pauses taken out: float32[n] at 16 kHz, in steps of 30 ms.

    A step is kept when it, or one within 150 ms, is less than 35 dB below the loud steps (their 95th percentile).
    """
    step = 480
    steps = wav[: len(wav) // step * step].reshape(-1, step)
    if not len(steps):
        return wav
    level = np.mean(steps**2, axis=1)
    loud = level > np.quantile(level, 0.95) * 10**-3.5
    near = np.convolve(loud, np.ones(11), "same") > 0
    return steps[near].reshape(-1)


def mel_powers(wav: np.ndarray) -> np.ndarray:
    """float32[frames, 40], a frame every 10 ms, as librosa.feature.melspectrogram gives them."""
    padded = np.pad(wav, WINDOW // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    power = np.abs(np.fft.rfft(frames * hann.astype(np.float32))) ** 2
    return (power @ _mel_filters()).astype(np.float32)


def partials(mel: np.ndarray) -> np.ndarray:
    """float32[b, 160, 40]: up to MAX_PARTIALS stretches of 1.6 s that cover `mel` evenly; a short one is repeated."""
    short = PARTIAL_FRAMES - len(mel)
    if short > 0:
        mel = np.pad(mel, ((0, short), (0, 0)), "wrap")
    count = min(MAX_PARTIALS, -(-len(mel) // PARTIAL_FRAMES))
    starts = np.linspace(0, len(mel) - PARTIAL_FRAMES, count).astype(int)
    return np.stack([mel[s : s + PARTIAL_FRAMES] for s in starts])


def network(mels: np.ndarray) -> np.ndarray:
    """float32[b, frames, 40] to float32[b, 256], each of unit length."""
    return _session().run(None, {"mels": mels})[0]


@cache
def _session() -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(NETWORK, options, providers=["CPUExecutionProvider"])


@cache
def _mel_filters() -> np.ndarray:
    """float32[201, 40]: triangles of equal area, evenly spaced on Slaney's mel scale up to 8 kHz.

    That scale is linear (200/3 Hz a mel) below 1 kHz and logarithmic (27 mels to a factor of 6.4) above.
    """
    top = 15 + 27 * np.log(8000 / 1000) / np.log(6.4)
    mels = np.linspace(0, top, MELS + 2)
    hz = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * np.log(6.4) / 27))
    low, mid, high = hz[:-2], hz[1:-1], hz[2:]
    f = np.linspace(0, RATE_HZ / 2, WINDOW // 2 + 1)[:, None]
    triangles = np.maximum(0, np.minimum((f - low) / (mid - low), (high - f) / (high - mid)))
    return (triangles * 2 / (high - low)).astype(np.float32)
