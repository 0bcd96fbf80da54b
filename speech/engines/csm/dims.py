"""How large a CSM is, read from a checkpoint's config.json in either layout, and checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from speech.errors import StartupError


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary positions. With `factor`, Llama 3's scaling: wavelengths over original / low are stretched by `factor`,
    those under original / high are kept, those between are blended (Llama 3.1's own `apply_scaling`)."""

    theta: float = 500_000.0
    factor: float | None = 32.0
    low: float = 1.0
    high: float = 4.0
    original: float = 8192.0


@dataclass(frozen=True, slots=True)
class StackDims:
    """One transformer: the backbone or the depth decoder."""

    layers: int
    heads: int
    kv_heads: int
    dim: int
    ffn: int
    head_dim: int
    rope: Rope

    @property
    def qkv(self) -> int:
        """Rows of the fused query, key and value projection."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim


@dataclass(frozen=True, slots=True)
class ModelDims:
    """A whole CSM. audio_vocab: ids a codebook can have, specials included; max_positions: prompt plus output."""

    backbone: StackDims
    depth: StackDims
    text_vocab: int
    audio_vocab: int
    codebooks: int
    norm_eps: float = 1e-5
    max_positions: int = 2048


# The two Llama shapes the original names in its config.json.
FLAVORS = {
    "llama-1B": {"num_layers": 16, "num_heads": 32, "num_kv_heads": 8, "embed_dim": 2048, "intermediate_dim": 8192},
    "llama-100M": {"num_layers": 4, "num_heads": 8, "num_kv_heads": 2, "embed_dim": 1024, "intermediate_dim": 8192},
}

CSM_1B = ModelDims(
    backbone=StackDims(layers=16, heads=32, kv_heads=8, dim=2048, ffn=8192, head_dim=64, rope=Rope()),
    depth=StackDims(layers=4, heads=8, kv_heads=2, dim=1024, ffn=8192, head_dim=128, rope=Rope()),
    text_vocab=128_256,
    audio_vocab=2051,
    codebooks=32,
)


def read_dims(config: dict[str, Any]) -> ModelDims:
    """The dimensions `config` describes; StartupError where it lacks one or they do not go together."""
    try:
        dims = _transformers(config) if "hidden_size" in config else _original(config)
    except (KeyError, TypeError, ValueError) as error:
        raise StartupError(f"config.json does not describe a CSM: {error!r} is missing or wrong") from error
    for name, stack in (("backbone", dims.backbone), ("depth decoder", dims.depth)):
        if min(stack.layers, stack.heads, stack.kv_heads, stack.dim, stack.ffn) < 1 or stack.heads % stack.kv_heads:
            raise StartupError(f"config.json: the {name}'s sizes do not go together: {stack}")
        if stack.head_dim % 2:
            raise StartupError(f"config.json: the {name}'s heads have an odd width, {stack.head_dim}")
    if dims.codebooks < 2:
        raise StartupError(f"config.json: {dims.codebooks} codebook; a CSM has at least two")
    return dims


def _original(config: dict[str, Any]) -> ModelDims:
    config = config.get("args", config)
    rope = Rope(theta=float(config.get("rope_base", 500_000)), factor=float(config.get("rope_scale_factor", 32)))

    def stack(role: str, default: str) -> StackDims:
        flavor = config.get(f"{role}_flavor", default)
        if role not in config and flavor not in FLAVORS:
            raise StartupError(f"config.json: {role}_flavor {flavor!r} is not known; known are {', '.join(FLAVORS)}")
        sizes = config.get(role) or FLAVORS[flavor]
        return StackDims(
            layers=int(sizes["num_layers"]),
            heads=int(sizes["num_heads"]),
            kv_heads=int(sizes["num_kv_heads"]),
            dim=int(sizes["embed_dim"]),
            ffn=int(sizes["intermediate_dim"]),
            head_dim=int(sizes.get("head_dim") or int(sizes["embed_dim"]) // int(sizes["num_heads"])),
            rope=rope,
        )

    return ModelDims(
        backbone=stack("backbone", "llama-1B"),
        depth=stack("decoder", "llama-100M"),
        text_vocab=int(config.get("text_vocab_size", CSM_1B.text_vocab)),
        audio_vocab=int(config.get("audio_vocab_size", CSM_1B.audio_vocab)),
        codebooks=int(config.get("audio_num_codebooks", CSM_1B.codebooks)),
        norm_eps=float(config.get("norm_eps", 1e-5)),
        max_positions=int(config.get("max_seq_len", 2048)),
    )


def _transformers(config: dict[str, Any]) -> ModelDims:
    if config.get("tie_codebooks_embeddings") is False:
        raise StartupError("config.json: audio embeddings that are not shared with the depth decoder are not supported")
    depth = config["depth_decoder_config"]
    return ModelDims(
        backbone=_transformers_stack(config),
        depth=_transformers_stack(depth),
        text_vocab=int(config["text_vocab_size"]),
        audio_vocab=int(config["vocab_size"]),
        codebooks=int(config["num_codebooks"]),
        norm_eps=float(config.get("rms_norm_eps", 1e-5)),
        max_positions=int(config.get("max_position_embeddings", 2048)),
    )


def _transformers_stack(config: dict[str, Any]) -> StackDims:
    heads, dim = int(config["num_attention_heads"]), int(config["hidden_size"])
    return StackDims(
        layers=int(config["num_hidden_layers"]),
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        dim=dim,
        ffn=int(config["intermediate_size"]),
        head_dim=int(config.get("head_dim") or dim // heads),
        rope=_transformers_rope(config),
    )


def _transformers_rope(config: dict[str, Any]) -> Rope:
    """Since version 5 transformers writes `rope_parameters`; before, `rope_theta` and `rope_scaling`."""
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = float(scaling.get("rope_theta") or config.get("rope_theta") or 500_000)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return Rope(theta=theta, factor=None)
    if kind != "llama3":
        raise StartupError(f"config.json: rotary positions of type {kind!r} are not supported; llama3 and default are")
    return Rope(
        theta=theta,
        factor=float(scaling["factor"]),
        low=float(scaling["low_freq_factor"]),
        high=float(scaling["high_freq_factor"]),
        original=float(scaling["original_max_position_embeddings"]),
    )
