"""Both published layouts of a CSM into one set of tensors, straight to their device and dtype.

The original layout has torchtune's names and rotates interleaved pairs; transformers' has its own names and rotates
halves. Here pairs are rotated, as one complex product; query, key and value are one matrix, and so are gate and up:
each file tensor is copied, piece by piece, into its place in the tensor that stays, so that no second copy is held.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

import torch
from loguru import logger

from speech.engines.csm.dims import ModelDims, StackDims, read_dims
from speech.engines.csm.source import Source, safetensors_files
from speech.engines.csm.tensorfile import TensorFiles
from speech.errors import StartupError


@dataclass(slots=True)
class Layer:
    """One transformer layer; matrices are `[out, in]`, or stand-ins with the same `F.linear` meaning (see int8.py)."""

    norm1: torch.Tensor  # [D]
    qkv: Any  # [(H + 2 K) * d, D]: queries, keys, values
    out: Any  # [D, H * d]
    norm2: torch.Tensor  # [D]
    gate_up: Any  # [2 F, D]
    down: Any  # [D, F]


@dataclass(slots=True)
class Stack:
    layers: list[Layer]
    norm: torch.Tensor  # [D]


@dataclass(slots=True)
class Weights:
    """All tensors of a CSM. D: backbone width, E: depth width, V: audio ids, C: codebooks."""

    dims: ModelDims
    text_embed: torch.Tensor  # [text_vocab, D]
    audio_embed: torch.Tensor  # [C * V, D]; row c * V + id
    backbone: Stack
    head0: Any  # [V, D]
    projection: torch.Tensor  # [E, D]
    depth: Stack
    heads: list[Any]  # C - 1 times [V, E]


@dataclass(frozen=True, slots=True)
class Target:
    """Where a file's tensor goes. names: what it may be called there. shape: its shape there.

    how: "copy" as it is; "halves" rows of rotary halves to interleaved pairs, a head at a time; "turn" each `[E, V]`
    of the stack of heads to its own `[V, E]`.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    places: list[torch.Tensor]
    how: Literal["copy", "halves", "turn"] = "copy"
    head_dim: int = 0


def load_weights(source: Source, *, device: torch.device, dtype: torch.dtype) -> Weights:
    """A checked CSM from `source`; StartupError names what is missing, misnamed or misshaped."""
    began = time.monotonic()
    config = source.json("config.json") or {}
    files = TensorFiles(safetensors_files(source, config=config))
    original = is_original(files)
    # One repository may describe one layout in config.json and hold the other in model.safetensors.
    dims = read_dims(config if original != ("hidden_size" in config) else {})
    check(targets(allocate(dims, torch.device("meta"), dtype), original=original), files)
    weights = allocate(dims, device, dtype)
    for target in targets(weights, original=original):
        fill(target, files)
    logger.info(
        "CSM from {} ({} layout, {} on {}) loaded in {:.1f} s",
        source, "original" if original else "transformers", str(dtype).removeprefix("torch."), device,
        time.monotonic() - began,
    )  # fmt: skip
    return weights


def is_original(files: TensorFiles) -> bool:
    """Whether the names are the original's; StartupError where they are no CSM's."""
    names = files.shapes
    if any(name.startswith("backbone_model.") for name in names):
        return False
    if any(name.startswith("backbone.layers.") for name in names):
        return True
    some = ", ".join(sorted(names)[:3])
    raise StartupError(f"the weight files hold no CSM: neither backbone nor backbone_model is there, but {some}")


def allocate(dims: ModelDims, device: torch.device, dtype: torch.dtype) -> Weights:
    """Tensors of the right shapes with nothing in them yet."""

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(shape, device=device, dtype=dtype)

    def stack(d: StackDims) -> Stack:
        layers = [
            Layer(
                norm1=empty(d.dim),
                qkv=empty(d.qkv, d.dim),
                out=empty(d.dim, d.heads * d.head_dim),
                norm2=empty(d.dim),
                gate_up=empty(2 * d.ffn, d.dim),
                down=empty(d.dim, d.ffn),
            )
            for _ in range(d.layers)
        ]
        return Stack(layers, empty(d.dim))

    wide, deep, vocab = dims.backbone.dim, dims.depth.dim, dims.audio_vocab
    return Weights(
        dims=dims,
        text_embed=empty(dims.text_vocab, wide),
        audio_embed=empty(dims.codebooks * vocab, wide),
        backbone=stack(dims.backbone),
        head0=empty(vocab, wide),
        projection=empty(deep, wide),
        depth=stack(dims.depth),
        heads=[empty(vocab, deep) for _ in range(dims.codebooks - 1)],
    )


def targets(weights: Weights, *, original: bool) -> list[Target]:
    """Every tensor a checkpoint must hold, and where it goes."""
    dims = weights.dims
    deep, vocab = dims.depth.dim, dims.audio_vocab

    def whole(place: torch.Tensor, *names: str) -> Target:
        return Target(names, tuple(place.shape), [place])

    if original:
        found = [
            whole(weights.text_embed, "text_embeddings.weight"),
            whole(weights.audio_embed, "audio_embeddings.weight"),
            whole(weights.head0, "codebook0_head.weight"),
            whole(weights.projection, "projection.weight"),
        ]
        heads_name = "audio_head"
        stacks = (("backbone.", weights.backbone, dims.backbone), ("decoder.", weights.depth, dims.depth))
        norm = "norm.scale"
    else:
        found = [
            whole(weights.text_embed, "embed_text_tokens.weight"),
            # The two are one tensor; a checkpoint may hold it under either name.
            whole(
                weights.audio_embed,
                "backbone_model.embed_tokens.embed_audio_tokens.weight",
                "depth_decoder.model.embed_tokens.weight",
            ),
            whole(weights.head0, "lm_head.weight"),
            whole(weights.projection, "depth_decoder.model.inputs_embeds_projector.weight"),
        ]
        heads_name = "depth_decoder.codebooks_head.weight"
        stacks = (
            ("backbone_model.", weights.backbone, dims.backbone),
            ("depth_decoder.model.", weights.depth, dims.depth),
        )
        norm = "norm.weight"
    found.append(Target((heads_name,), (dims.codebooks - 1, deep, vocab), list(weights.heads), "turn"))
    for prefix, stack, stack_dims in stacks:
        found.append(whole(stack.norm, prefix + norm))
        for index, layer in enumerate(stack.layers):
            found += _layer_targets(layer, stack_dims, f"{prefix}layers.{index}.", original=original)
    return found


def _layer_targets(layer: Layer, d: StackDims, prefix: str, *, original: bool) -> list[Target]:
    queries, keys = d.heads * d.head_dim, d.kv_heads * d.head_dim
    q, k, v = layer.qkv[:queries], layer.qkv[queries : queries + keys], layer.qkv[queries + keys :]
    gate, up = layer.gate_up[: d.ffn], layer.gate_up[d.ffn :]
    rotary: Literal["copy", "halves"]
    if original:
        names = ["attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.output_proj", "mlp.w1", "mlp.w3", "mlp.w2"]
        norms = ["sa_norm.scale", "mlp_norm.scale"]
        rotary = "copy"
    else:
        names = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
        names += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
        norms = ["input_layernorm.weight", "post_attention_layernorm.weight"]
        rotary = "halves"
    places = [q, k, v, layer.out, gate, up, layer.down]
    found = [
        Target((f"{prefix}{name}.weight",), tuple(place.shape), [place], rotary if index < 2 else "copy", d.head_dim)
        for index, (name, place) in enumerate(zip(names, places, strict=True))
    ]
    for name, place in zip(norms, (layer.norm1, layer.norm2), strict=True):
        found.append(Target((prefix + name,), tuple(place.shape), [place]))
    return found


# Tensors some writers add that say nothing new; the codec has its own loader.
HARMLESS = ("codec_model.", "depth_decoder.model.embed_tokens.", "backbone_model.embed_tokens.audio_tokens_offsets")


def check(wanted: list[Target], files: TensorFiles) -> None:
    """Raise StartupError, naming tensors, unless `files` hold exactly what is wanted."""
    known = {name for target in wanted for name in target.names}
    extra = [
        name for name in files.shapes
        if name not in known and not name.startswith(HARMLESS) and not name.endswith("inv_freq")
    ]  # fmt: skip
    problems = []
    for target in wanted:
        names = [name for name in target.names if name in files]
        if not names:
            near = get_close_matches(target.names[0], extra, n=1)
            problems.append(f"{target.names[0]} is missing" + (f" (is it {near[0]}?)" if near else ""))
            continue
        if files.shapes[names[0]] != target.shape:
            found, right = list(files.shapes[names[0]]), list(target.shape)
            problems.append(f"{names[0]} has shape {found}, and config.json makes it {right}")
    problems += [f"{name} is not part of a CSM of these dimensions" for name in extra]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise StartupError(f"the weight files do not fit: {'; '.join(problems[:5])}{more}")


def fill(target: Target, files: TensorFiles) -> None:
    """Copy one file tensor, in pieces, into its place."""
    name = next(name for name in target.names if name in files)
    if target.how == "turn":
        _, deep, vocab = target.shape
        places = iter(target.places)
        for piece in files.pieces(name, deep * vocab):
            for head in piece.view(-1, deep, vocab):
                next(places).copy_(head.t())
        return
    place = target.places[0]
    columns = math.prod(target.shape[1:])
    rows = target.head_dim if target.how == "halves" else 1
    at = 0
    for piece in files.pieces(name, rows * columns):
        # [heads, 2, d / 2, D] to [heads, d / 2, 2, D]: a head's first and second halves, in turns.
        ordered = piece.view(-1, 2, rows // 2, columns).transpose(1, 2) if target.how == "halves" else piece
        block = ordered.reshape(-1, *target.shape[1:])
        place[at : at + len(block)].copy_(block)
        at += len(block)
