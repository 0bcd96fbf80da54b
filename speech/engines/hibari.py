"""hibari: one voice in 8 MB, a hundred times faster than it speaks on one core."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
from hibari import dsp
from hibari.voices import DEFAULT, voice_path

from audio_utils import Audio
from speech.engines import eager, embedded, graph
from speech.engines.base import EngineInfo, Line, Load

# Names in the graph
FEATURES = "/Concat_43_output_0"
PITCH = "f0"
LOUDNESS = -1  # the last of the features
SPECTRA = ("lh", "theta", "ln", "lr", "phi")

REACH = 10
"""Frames of 12.5 ms that are drawn on either side of a stretch and left out: its ends would sound otherwise. More
change nothing that is heard."""

SLOWEST_RTF = 0.1
"""Up to which an eager line does not falter."""


class HibariEngine:
    """The fastest embedded engine. Takes `seed`, which changes its breath noise and nothing else."""

    def __init__(self) -> None:
        self.info = EngineInfo(
            name="hibari",
            model="hibari-tts 0.2.1",
            sample_rate_hz=embedded.SAMPLE_RATE_HZ,
            device="cpu",
            voices=(embedded.SPEAKERS[0],),
            context="none",
            takes=False,
            sampling=False,
            grain="sentence",
            parallel=1,
            notes=(
                "English only.",
                "One voice: speaker 0 and speaker 1 sound the same.",
                "context and reference recordings are refused: this engine cannot use them.",
                "seed changes the noise in the sound, not the reading; temperature and top_k change nothing.",
            ),
        )
        self._outline: onnxruntime.InferenceSession | None = None
        self._draw: onnxruntime.InferenceSession | None = None

    def start(self) -> None:
        stored = graph.read(Path(voice_path(DEFAULT)).read_bytes())
        self._outline = _session(stored.part([FEATURES, PITCH]))
        self._draw = _session(stored.part(SPECTRA, [FEATURES]))
        embedded.finished(self.speak(Line("Ready.")))

    def voice_of(self, line: Line) -> str | None:
        return self.info.voices[0]

    def speak(self, line: Line) -> Generator[Audio]:
        spoken = embedded.phonemes(line, british=False)
        return self._chunks(spoken, line)

    def _chunks(self, spoken: Iterator[str], line: Line) -> Generator[Audio]:
        assert self._outline is not None, "start() comes first"
        noise = np.random.default_rng(line.seed)
        pace = eager.Pace(rtf=SLOWEST_RTF, ahead_ms=line.ahead_ms)
        for phoneme_string in spoken:
            line.caller.check()
            inputs = {
                "ids": np.asarray([embedded.token_ids(phoneme_string)], np.int64),
                "speed": np.ones(1, np.float32),  # a pace is made of it afterwards: see bench/LOG.md
            }
            features, pitch = self._outline.run([FEATURES, PITCH], inputs)
            if line.eager:
                yield from self._stretches(features, pitch[0], noise, pace, line)
            else:
                yield embedded.chunk(dsp.synth(*self._spectra(features), pitch[0], noise))

    def _spectra(self, features: np.ndarray) -> list[np.ndarray]:
        """The five parts of the sound's spectrum, float32[601, frames] each."""
        assert self._draw is not None
        return [each[0] for each in self._draw.run(list(SPECTRA), {FEATURES: features})]

    def _stretches(
        self, features: np.ndarray, pitch: np.ndarray, noise: np.random.Generator, pace: eager.Pace, line: Line
    ) -> Iterator[Audio]:
        frames = len(pitch)
        pulses = dsp.pulses(pitch)

        def sound(start: int, stop: int) -> np.ndarray:
            line.caller.check()
            first, last = max(0, start - REACH), min(frames, stop + REACH)
            spectra = self._spectra(features[:, :, first:last])
            samples = _voiced(spectra, pulses[first * dsp.HOP : last * dsp.HOP], noise)
            return samples[(start - first) * dsp.HOP : (stop - first) * dsp.HOP]

        parts = eager.stretches(features[0, LOUDNESS], 1000 * dsp.HOP / embedded.SAMPLE_RATE_HZ, pace)
        for samples in eager.drawn(parts, sound, embedded.EDGE_SAMPLES):
            yield Audio(samples, embedded.SAMPLE_RATE_HZ)

    def load(self) -> Load:
        return Load()

    def trim(self) -> None:
        """Nothing is kept between lines."""

    def close(self) -> None:
        self._outline = self._draw = None


def _voiced(spectra: list[np.ndarray], pulses: np.ndarray, noise: np.random.Generator) -> np.ndarray:
    """`dsp.synth` with the pulses of the voice given, so that those of one stretch go on from those before it."""
    harmonic, turn, breath, free, phase = spectra
    sound = dsp.stft(pulses, harmonic.shape[1]) * _spectrum(harmonic, np.pi * np.tanh(turn))
    real, imaginary = noise.standard_normal((2, *breath.shape), dtype=np.float32)
    sound += (real + 1j * imaginary) * dsp.ex(breath)
    sound += _spectrum(free, phase)
    return dsp.ola(sound)


def _spectrum(log_level: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """complex64, of these levels and angles."""
    turned = np.empty(angle.shape, np.complex64)
    np.cos(angle, out=turned.real)
    np.sin(angle, out=turned.imag)
    turned *= dsp.ex(log_level)
    return turned


def _session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
