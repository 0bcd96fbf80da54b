"""Makes the two files of speech/engines/kokoro/data that are not Kokoro's own: the speaker encoder and the voice map.

    npm pack kokoro-js@1.2.1 && tar xzf kokoro-js-1.2.1.tgz      # 54 voices, Apache-2.0
    python -m bench.fit_voice_match --voices package/voices      # about 40 minutes on one core

Needs Resemblyzer (and so torch) and onnx to write the encoder; what is made needs onnxruntime alone. The map at hand is
where the fit starts: what the new styles do not tell stays as it was, so every run adds to the ones before.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from resemblyzer import VoiceEncoder

from bench.spoken import STOCK_TEXTS, TEXTS, Speaker
from speech.engines.kokoro import match, speaker_embedding
from speech.engines.kokoro.voices import IDS, VOICES, style_tables

HALVES = (slice(0, 128), slice(128, 256))
"""Of a style: how the voice sounds, and how it moves. The two are varied apart from each other."""

STOCK_CLIPS = 10
TO_STYLE_RIDGE = 1.0
TO_EMBEDDING_RIDGE = 3.0
"""Chosen by five-fold cross-validation, and by what came nearest to people."""

STOCK_WEIGHT = 0.15
"""A stock voice is heard ten times, so that each of its clips counts for less than a style heard once."""


def export_encoder() -> None:
    """Resemblyzer's network as ONNX: mels float32[b, frames, 40] to embeddings float32[b, 256] of unit length."""
    state = {name: value.detach().numpy() for name, value in VoiceEncoder("cpu", verbose=False).named_parameters()}
    stored, nodes = [], [helper.make_node("Transpose", ["mels"], ["x0"], perm=[1, 0, 2])]

    def weight(name: str, value: np.ndarray) -> str:
        """Kept in float16, widened when the network is loaded."""
        stored.append(numpy_helper.from_array(np.ascontiguousarray(value).astype(np.float16), f"{name}_half"))
        nodes.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
        return name

    def gates(name: str) -> np.ndarray:
        """torch's order input, forget, candidate, output becomes ONNX's input, output, forget, candidate."""
        into, forget, candidate, out = np.split(state[name], 4)
        return np.concatenate([into, out, forget, candidate])

    for axis in (0, 1):
        stored.append(numpy_helper.from_array(np.array([axis]), f"axis{axis}"))
    for n in range(3):
        given = weight(f"given{n}", gates(f"lstm.weight_ih_l{n}")[None])
        hidden = weight(f"hidden{n}", gates(f"lstm.weight_hh_l{n}")[None])
        biases = np.concatenate([gates(f"lstm.bias_ih_l{n}"), gates(f"lstm.bias_hh_l{n}")])
        inputs = [f"x{n}", given, hidden, weight(f"bias{n}", biases[None])]
        nodes.append(helper.make_node("LSTM", inputs, [f"y{n}", f"last{n}"], hidden_size=256))
        nodes.append(helper.make_node("Squeeze", [f"y{n}", "axis1"], [f"x{n + 1}"]))
    linear = ["last", weight("linear", state["linear.weight"]), weight("linear_bias", state["linear.bias"])]
    nodes.append(helper.make_node("Squeeze", ["last2", "axis0"], ["last"]))
    nodes.append(helper.make_node("Gemm", linear, ["raw"], transB=1))
    nodes.append(helper.make_node("Relu", ["raw"], ["positive"]))
    nodes.append(helper.make_node("LpNormalization", ["positive"], ["embeddings"], axis=1, p=2))
    mels = helper.make_tensor_value_info("mels", TensorProto.FLOAT, ["b", "frames", 40])
    embeddings = helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["b", 256])
    graph = helper.make_graph(nodes, "speaker_encoder", [mels], [embeddings], stored)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), speaker_embedding.NETWORK
    )


class Styles:
    """Draws styles that a person might have. voices: float32[54, 256], Kokoro's own."""

    def __init__(self, voices: np.ndarray, seed: int) -> None:
        self._voices = voices
        self._mean = voices.mean(0)
        self._draw = np.random.default_rng(seed)
        self._axes = []
        for half in HALVES:
            _, spread, axes = np.linalg.svd(voices[:, half] - self._mean[half], full_matrices=False)
            self._axes.append(axes * (spread / np.sqrt(len(voices) - 1))[:, None])

    def draw(self) -> np.ndarray:
        """float32[256]: anywhere among the voices (60%), a mix of a few (20%) or near one (20%), slightly off them."""
        kind = self._draw.random()
        if kind < 0.6:
            style = self._mean + self._spread(self._draw.uniform(0.7, 1.2))
        elif kind < 0.8:
            style = np.concatenate([self._mix() @ self._voices[:, half] for half in HALVES])
        else:
            style = self._voices[self._draw.integers(len(self._voices))] + self._spread(0.5)
        return (style + self._draw.standard_normal(256) * self._draw.choice([0, 0.03, 0.06])).astype(np.float32)

    def _mix(self) -> np.ndarray:
        return self._draw.dirichlet(np.full(len(self._voices), 0.15))

    def _spread(self, size: float) -> np.ndarray:
        return np.concatenate([self._draw.standard_normal(len(axes)) * size @ axes for axes in self._axes])


def speak_all(voices: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings and styles, float32[n, 256] each: STOCK_CLIPS of every stock voice, then `count` drawn styles."""
    speaker, styles, drift = Speaker(), Styles(voices, seed), match.drift()
    embeddings, spoken = [], []

    def add(text: str, table: np.ndarray, british: bool) -> None:
        embeddings.append(speaker_embedding.embed(speaker.say(text, table, british)))
        spoken.append(table.mean(0))

    for number, (voice, table) in enumerate(zip(IDS, style_tables(), strict=True)):
        for clip in range(STOCK_CLIPS):
            add(STOCK_TEXTS[(5 * number + clip) % len(STOCK_TEXTS)], table, VOICES[voice].british)
    for number in range(count):
        add(TEXTS[number % len(TEXTS)], styles.draw() + drift, False)
        if number % 20 == 0:
            print(f"{number} of {count} styles", flush=True)
    return np.array(embeddings), np.array(spoken)


def fit(embeddings: np.ndarray, styles: np.ndarray, start: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of voice_match.npz, as match._fit says. start: float[256, 256], the `to_style` to start from."""
    stock = embeddings[: len(IDS) * STOCK_CLIPS].reshape(len(IDS), STOCK_CLIPS, 256).mean(1)
    weight = np.ones(len(embeddings))
    weight[: len(IDS) * STOCK_CLIPS] = STOCK_WEIGHT
    embedding_mean = np.average(embeddings, axis=0, weights=weight)
    style_mean = np.average(styles, axis=0, weights=weight)
    embeddings, styles = embeddings - embedding_mean, styles - style_mean
    return {
        "stock_embeddings": stock / np.linalg.norm(stock, axis=1, keepdims=True),
        "embedding_mean": embedding_mean,
        "style_mean": style_mean,
        "to_style": start + ridge(embeddings, styles - embeddings @ start, weight, TO_STYLE_RIDGE),
        "to_embedding": ridge(styles, embeddings, weight, TO_EMBEDDING_RIDGE),
    }


def ridge(given: np.ndarray, wanted: np.ndarray, weight: np.ndarray, strength: float) -> np.ndarray:
    """float[256, 256] that takes `given` to `wanted` with the least weighted squared error and small entries."""
    weighted = given.T * weight
    return np.linalg.solve(weighted @ given + strength * np.eye(given.shape[1]), weighted @ wanted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voices", type=Path, required=True, help="the folder of kokoro-js's .bin voices")
    parser.add_argument("--styles", type=int, default=700, help="how many to draw and speak")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    export_encoder()
    tables = [np.fromfile(file, "<f4").reshape(510, 256).mean(0) for file in sorted(args.voices.glob("*.bin"))]
    start = np.load(match.FITTED)["to_style"].astype(np.float64)
    fitted = fit(*speak_all(np.array(tables), args.styles, args.seed), start)
    np.savez(match.FITTED, **{name: value.astype(np.float16) for name, value in fitted.items()})


if __name__ == "__main__":
    main()
