"""The CSM engine against transformers, in one process, full size, on random weights made on the spot.

    python -m bench.csm_engine [--device cuda] [--dtype bfloat16] [--int8 | --no-int8] [--frames 50] [--streams 1,4]

On CPU the engine is timed a second time with its matrices in eight bits; `--int8` does so on cuda too. Transformers
comes last, since compiling can take it minutes on cuda. Prints a table, then one JSON line. Needs torch, transformers
and this repository, no weights and no network. Random weights are as fast as real ones: nothing here depends on what
is said. A frame is 80 ms of sound, codec included for the engine and left out for transformers. `bench/LOG.md` keeps
what was measured where, and what did not help.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import logging
import platform
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

if importlib.util.find_spec("loguru") is None:
    # The only thing of the repository's requirements that these rooms import; its messages do not matter here.
    sys.modules["loguru"] = types.ModuleType("loguru")
    sys.modules["loguru"].logger = logging.getLogger("csm")  # type: ignore[attr-defined]

from speech.engines.csm.dims import CSM_1B, ModelDims, StackDims
from speech.engines.csm.frames import Frames
from speech.engines.csm.int8 import to_int8
from speech.engines.csm.mimi import MimiDecoder, MimiEncoder
from speech.engines.csm.mimi_weights import MimiDims, MimiWeights, mimi_shapes
from speech.engines.csm.model import Csm
from speech.engines.csm.prompt import Heard, Prompt
from speech.engines.csm.reader import Reader
from speech.engines.csm.sampling import Noise
from speech.engines.csm.weights import Weights, allocate

FRAME_MS = 80
VOICE_S = 10
TEXT_IDS = tuple(range(100, 120))  # a sentence of some twenty tokens
REPEATS = 3


@dataclass
class Result:
    device: str
    dtype: str
    torch: str
    threads: int
    bandwidth_gb_s: float = 0.0
    floor_ms: dict[str, float] = field(default_factory=dict)
    transformers_ms: dict[str, float | str] = field(default_factory=dict)
    engine_ms: dict[str, dict[int, float]] = field(default_factory=dict)
    first_audio_ms: dict[str, float] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)


def say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed_ms(work: Callable[[], object], device: torch.device) -> float:
    wait(device)
    began = time.perf_counter()
    work()
    wait(device)
    return 1000 * (time.perf_counter() - began)


def bandwidth(device: torch.device) -> float:
    """Bytes read a second, in GB/s: the best of a few sums over more than any cache holds."""
    big = torch.ones((2048 if device.type == "cuda" else 512) * 2**20 // 4, device=device)
    big.sum()
    return big.nbytes / min(timed_ms(big.sum, device) for _ in range(5)) / 1e6


def bytes_a_frame(weights: Weights) -> int:
    """What must be read for a frame: the backbone once, the depth decoder once for every codebook after the first,
    and each head once. Embeddings are single rows, and keys and values are left out."""

    def stack(which: str) -> int:
        layers = getattr(weights, which).layers
        return sum(matrix.nbytes for layer in layers for matrix in (layer.qkv, layer.out, layer.gate_up, layer.down))

    heads = weights.head0.nbytes + sum(head.nbytes for head in weights.heads)
    return stack("backbone") + (weights.dims.codebooks - 1) * stack("depth") + heads + weights.projection.nbytes


def scatter(tensor: torch.Tensor, scale: float = 0.02) -> None:
    """Something random, quickly: one small block over and over."""
    flat = tensor.view(-1)
    block = torch.randn(1_000_003, dtype=torch.float32).mul_(scale).to(tensor.device, tensor.dtype)
    for at in range(0, len(flat), len(block)):
        flat[at : at + len(block)] = block[: len(flat) - at]


def random_weights(dims: ModelDims, device: torch.device, dtype: torch.dtype) -> Weights:
    weights = allocate(dims, device, dtype)
    for tensor in (weights.text_embed, weights.audio_embed, weights.head0, weights.projection, *weights.heads):
        scatter(tensor)
    for stack in (weights.backbone, weights.depth):
        stack.norm.fill_(1)
        for layer in stack.layers:
            layer.norm1.fill_(1)
            layer.norm2.fill_(1)
            for matrix in (layer.qkv, layer.out, layer.gate_up, layer.down):
                scatter(matrix)
    return weights


def random_mimi(dims: MimiDims, device: torch.device) -> MimiWeights:
    tensors = {name: torch.empty(shape, device=device) for name, shape in mimi_shapes(dims).items()}
    for name, tensor in tensors.items():
        if name.endswith(("cluster_usage", "layernorm.weight")):
            tensor.fill_(1)
        else:
            scatter(tensor)
    return MimiWeights(dims, tensors)


def bench_transformers(result: Result, dims: ModelDims, device: torch.device, dtype: torch.dtype, frames: int) -> None:
    """ms a frame of `generate`: the difference between a long and a short run, so that the prompt is not counted."""
    from transformers import CsmConfig, CsmForConditionalGeneration
    from transformers.initialization import no_init_weights

    def stack(d: StackDims) -> dict[str, int]:
        return {
            "hidden_size": d.dim, "intermediate_size": d.ffn, "num_hidden_layers": d.layers,
            "num_attention_heads": d.heads, "num_key_value_heads": d.kv_heads, "head_dim": d.head_dim,
        }  # fmt: skip

    vocab = {"vocab_size": dims.audio_vocab, "num_codebooks": dims.codebooks}
    depth = {**stack(dims.depth), **vocab, "backbone_hidden_size": dims.backbone.dim}
    config = CsmConfig(
        **stack(dims.backbone), **vocab, text_vocab_size=dims.text_vocab, depth_decoder_config=depth, dtype=dtype
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    with no_init_weights(), device:
        model = CsmForConditionalGeneration(config).eval()
    torch.set_default_dtype(before)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1) if "norm" in name else scatter(parameter)
    ids = torch.tensor([TEXT_IDS], device=device)

    def generate(count: int, cache: str | None, compiled: bool) -> float:
        model.depth_decoder.generation_config.cache_implementation = cache
        extra: dict[str, object] = {"cache_implementation": cache} if cache else {}
        if not compiled:
            model.generation_config.disable_compile = model.depth_decoder.generation_config.disable_compile = True
        return timed_ms(
            lambda: model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, depth_decoder_do_sample=False,
                min_new_tokens=count, max_new_tokens=count, **extra,
            ),
            device,
        )  # fmt: skip

    ways: list[tuple[str, str | None, bool]] = [("eager", None, False), ("static cache", "static", False)]
    if device.type == "cuda":
        ways.append(("static cache, compiled", "static", True))
    for label, *way in ways:
        try:
            say(f"transformers, {label}")
            generate(2, *way)
            few = 1
            long = min(generate(frames, *way) for _ in range(REPEATS))
            short = min(generate(few, *way) for _ in range(REPEATS))
            result.transformers_ms[label] = (long - short) / (frames - few)
        except Exception as error:  # what a release of transformers cannot do is a result too
            result.transformers_ms[label] = f"{type(error).__name__}: {error}"[:120]


@torch.inference_mode()
def bench_streams(model: Csm, codec: MimiDecoder, streams: int, frames: int) -> float:
    """ms a frame with all of so many slots speaking, each after a voice of ten seconds."""
    run = Frames(model, codec, slots=streams)
    run.warm()
    start = VOICE_S * 1000 // FRAME_MS + 60
    row = torch.zeros(model.dims.backbone.dim, device=model.device, dtype=model.dtype)
    noise = {}
    for slot in range(streams):
        run.join(slot, row, start, temperature=0.9, top_k=50)
        noise[slot] = Noise(slot, take=0, codebooks=model.dims.codebooks, ranks=run.ranks(50))
    if start + 1 + REPEATS * frames > model.dims.max_positions:
        raise SystemExit(f"--frames {frames} is past the model's {model.dims.max_positions} positions")
    run.step(noise)

    def several() -> None:
        for _ in range(frames):
            run.step(noise)

    return min(timed_ms(several, model.device) for _ in range(REPEATS)) / frames


@torch.inference_mode()
def bench_first_audio(model: Csm, codec: MimiDecoder, encoder: MimiEncoder) -> dict[str, float]:
    """Engine time from a line to its first 80 ms: without a voice, with a new one, with one that was read before."""
    run = Frames(model, codec, slots=1)
    run.warm()
    reader = Reader(model, encoder, prefix_bytes=1_000_000_000)

    def voiced(seed: int) -> Prompt:
        clip = np.random.default_rng(seed).standard_normal(VOICE_S * 24_000).astype(np.float32) * 0.1
        heard = Heard(TEXT_IDS * 2, VOICE_S * 1000 // FRAME_MS, clip, b"sound%d" % seed, b"prompt%d" % seed)
        return Prompt((heard,), TEXT_IDS, 100)

    def first(prompt: Prompt) -> None:
        row, position = reader.read(prompt, run, 0)
        run.join(0, row, position, temperature=0.9, top_k=50)
        run.step({0: Noise(1, take=0, codebooks=model.dims.codebooks, ranks=run.ranks(50))})
        run.leave(0)

    plain = Prompt((), TEXT_IDS, 100)
    for prompt in (plain, voiced(0), voiced(0)):  # what is loaded on first use
        first(prompt)
    return {
        "no voice": min(timed_ms(lambda: first(plain), model.device) for _ in range(REPEATS)),
        "10 s voice, new": min(timed_ms(lambda n=n: first(voiced(n)), model.device) for n in range(1, 1 + REPEATS)),
        "10 s voice, read before": min(timed_ms(lambda: first(voiced(0)), model.device) for _ in range(REPEATS)),
    }


def bench_engine(result: Result, weights: Weights, mimi: MimiWeights, *, name: str, streams: str, frames: int) -> None:
    """name: of what the matrices are held in."""
    result.floor_ms[name] = bytes_a_frame(weights) / result.bandwidth_gb_s / 1e6
    with torch.inference_mode():
        model, codec = Csm(weights, codes=mimi.dims.codebook_size), MimiDecoder(mimi)
        say(f"engine, {name}, first audio")
        for voice, ms in bench_first_audio(model, codec, MimiEncoder(mimi)).items():
            result.first_audio_ms[f"{name}, {voice}"] = ms
    result.engine_ms[name] = {}
    for count in map(int, streams.split(",")):
        say(f"engine, {name}, {count} at once")
        result.engine_ms[name][count] = bench_streams(model, codec, count, frames)


def ratios(result: Result) -> dict[str, float]:
    found = {}
    for name, times in result.engine_ms.items():
        one = times.get(1)
        if one is None:
            continue
        found[f"{name} / its floor"] = one / result.floor_ms[name]
        if 4 in times:
            found[f"{name}, 4 streams / 1, ms a frame"] = times[4] / one
        for label, ms in result.transformers_ms.items():
            if not isinstance(ms, str):
                found[f"transformers {label} / {name}"] = ms / one
    return found


def report(result: Result) -> None:
    print(f"{result.device}, {result.dtype}, torch {result.torch}, {result.threads} threads, "
          f"reads {result.bandwidth_gb_s:.0f} GB/s")  # fmt: skip
    print(f"{'':40}{'ms a frame':>12}{'RTF':>8}{'frames/s':>10}")

    def row(name: str, ms: float, streams: int = 1) -> None:
        print(f"{name:40}{ms:12.2f}{ms / FRAME_MS:8.3f}{1000 * streams / ms:10.1f}")

    for name, ms in result.floor_ms.items():
        row(f"floor, {name}: bytes read / bandwidth", ms)
    for label, told in result.transformers_ms.items():
        if isinstance(told, str):
            print(f"transformers, {label}: {told}")
        else:
            row(f"transformers, {label}", told)
    for name, times in result.engine_ms.items():
        for streams, ms in times.items():
            row(f"engine, {name}, {streams} stream{'s' if streams > 1 else ''}", ms, streams)
    for name, ms in result.first_audio_ms.items():
        print(f"{'first audio, ' + name:40}{ms:12.2f}")
    for name, ratio in result.ratios.items():
        print(f"{name:40}{ratio:12.2f}")


def tiny() -> tuple[ModelDims, MimiDims]:
    """Sizes to try the script itself with."""
    rope = CSM_1B.backbone.rope
    small = StackDims(layers=2, heads=4, kv_heads=2, dim=64, ffn=128, head_dim=16, rope=rope)
    codec = MimiDims(width=32, filters=4, codebooks=4, codebook_size=64, codebook_dim=16, layers=2, heads=4,
                     kv_heads=4, head_dim=8, ffn=48)  # fmt: skip
    return ModelDims(small, small, text_vocab=300, audio_vocab=67, codebooks=4), codec


def main() -> None:
    on_cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if on_cuda else "cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--int8", action=argparse.BooleanOptionalAction, help="time the engine in eight bits too")
    parser.add_argument("--frames", type=int, default=50 if on_cuda else 8)
    parser.add_argument("--streams", default="1,4,8,16,32,64" if on_cuda else "1,4")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--without-transformers", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="a small model, to try the script itself")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    device, dtype = torch.device(asked.device), getattr(torch, asked.dtype)
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU {platform.machine()}"
    result = Result(machine, asked.dtype, torch.__version__, asked.threads)
    dims, mimi_dims = tiny() if asked.tiny else (CSM_1B, MimiDims())
    say("memory bandwidth")
    result.bandwidth_gb_s = bandwidth(device)
    work = {"streams": asked.streams, "frames": asked.frames}
    with torch.inference_mode():
        weights, mimi = random_weights(dims, device, dtype), random_mimi(mimi_dims, device)
    bench_engine(result, weights, mimi, name=asked.dtype, **work)
    if device.type == "cpu" if asked.int8 is None else asked.int8:
        with torch.inference_mode():
            to_int8(weights)
        bench_engine(result, weights, mimi, name="int8", **work)
    del weights, mimi
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if not asked.without_transformers:
        result.ratios = ratios(result)
        report(result)  # what there is so far, in case that the rest is cut off
        print()
        bench_transformers(result, dims, device, dtype, asked.frames)
    result.ratios = ratios(result)
    report(result)
    print(json.dumps(result.__dict__))


if __name__ == "__main__":
    main()
