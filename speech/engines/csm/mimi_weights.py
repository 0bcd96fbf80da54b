"""Mimi's tensors and sizes, from a repository or folder in transformers' layout.

They lie in one's own files (`kyutai/mimi`), or inside a CSM checkpoint under `codec_model.`; the names after that
are the same. Always float32: the codec is small (79M) and its error is heard.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from loguru import logger

from speech.engines.csm.source import Source, safetensors_files
from speech.engines.csm.tensorfile import TensorFiles
from speech.errors import StartupError


@dataclass(frozen=True, slots=True)
class MimiDims:
    """Sizes of a Mimi; the defaults are the published one's (kyutai/mimi, config.json)."""

    sample_rate_hz: int = 24_000
    width: int = 512
    filters: int = 64
    ratios: tuple[int, ...] = (8, 6, 5, 4)
    kernel: int = 7
    last_kernel: int = 3
    residual_kernel: int = 3
    compress: int = 2
    codebooks: int = 32
    semantic: int = 1
    codebook_size: int = 2048
    codebook_dim: int = 256
    layers: int = 8
    heads: int = 8
    kv_heads: int = 8
    head_dim: int = 64
    ffn: int = 2048
    window: int = 250
    theta: float = 10_000.0
    norm_eps: float = 1e-5

    @property
    def samples_per_step(self) -> int:
        """Samples of one transformer position: 8 * 6 * 5 * 4 = 960, so 25 positions a second."""
        product = 1
        for ratio in self.ratios:
            product *= ratio
        return product

    @property
    def samples_per_frame(self) -> int:
        """Samples of one frame of codes: two positions, 1920, so 12.5 frames a second."""
        return STEPS_PER_FRAME * self.samples_per_step


STEPS_PER_FRAME = 2

# What the streaming decoder takes for granted; a checkpoint that differs is refused.
FIXED = {
    "audio_channels": 1, "num_residual_layers": 1, "use_causal_conv": True, "trim_right_ratio": 1.0,
    "use_conv_shortcut": False, "attention_bias": False, "hidden_act": "gelu", "pad_mode": "constant",
}  # fmt: skip


def read_mimi_dims(config: dict[str, Any]) -> MimiDims:
    """Sizes from kyutai/mimi's config.json, or from the `codec_config` of a CSM's."""
    config = config.get("codec_config", config)
    for key, value in FIXED.items():
        if config.get(key, value) != value:
            raise StartupError(f"the codec's config.json has {key} {config[key]!r}; only {value!r} is supported")
    default = MimiDims()
    rope = config.get("rope_parameters") or {}
    width = int(config.get("hidden_size", default.width))
    heads = int(config.get("num_attention_heads", default.heads))
    inner = int(config.get("vector_quantization_hidden_dimension", default.codebook_dim))
    if int(config.get("codebook_dim", default.codebook_dim) or width) != inner or inner == width:
        raise StartupError("the codec's codebook_dim and vector_quantization_hidden_dimension must agree")
    if int(config.get("upsample_groups", width)) != width:
        raise StartupError("the codec's upsample_groups must be its hidden_size: one filter a channel")
    return MimiDims(
        sample_rate_hz=int(config.get("sampling_rate", default.sample_rate_hz)),
        width=width,
        filters=int(config.get("num_filters", default.filters)),
        ratios=tuple(config.get("upsampling_ratios") or default.ratios),
        kernel=int(config.get("kernel_size", default.kernel)),
        last_kernel=int(config.get("last_kernel_size", default.last_kernel)),
        residual_kernel=int(config.get("residual_kernel_size", default.residual_kernel)),
        compress=int(config.get("compress", default.compress)),
        codebooks=int(config.get("num_quantizers", default.codebooks)),
        semantic=int(config.get("num_semantic_quantizers", default.semantic)),
        codebook_size=int(config.get("codebook_size", default.codebook_size)),
        codebook_dim=inner,
        layers=int(config.get("num_hidden_layers", default.layers)),
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or width // heads),
        ffn=int(config.get("intermediate_size", default.ffn)),
        window=int(config.get("sliding_window", default.window)),
        theta=float(rope.get("rope_theta") or config.get("rope_theta") or default.theta),
        norm_eps=float(config.get("norm_eps", default.norm_eps)),
    )


def mimi_shapes(d: MimiDims) -> dict[str, tuple[int, ...]]:
    """Every tensor a Mimi must have, with its shape."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, *shape: int, bias: int | None = None) -> None:
        shapes[f"{name}.weight"] = shape
        if bias is not None:
            shapes[f"{name}.bias"] = (bias,)

    def residual(name: str, channels: int) -> None:
        inner = channels // d.compress
        conv(f"{name}.block.1.conv", inner, channels, d.residual_kernel, bias=inner)
        conv(f"{name}.block.3.conv", channels, inner, 1, bias=channels)

    # Modules of the two stacks are numbered with their activations, so a stage takes three numbers.
    widest = d.filters * 2 ** len(d.ratios)
    conv("decoder.layers.0.conv", widest, d.width, d.kernel, bias=widest)
    conv("encoder.layers.0.conv", d.filters, 1, d.kernel, bias=d.filters)
    for stage, ratio in enumerate(d.ratios):
        channels = widest // 2**stage
        conv(f"decoder.layers.{3 * stage + 2}.conv", channels, channels // 2, 2 * ratio, bias=channels // 2)
        residual(f"decoder.layers.{3 * stage + 3}", channels // 2)
    for stage, ratio in enumerate(reversed(d.ratios)):
        channels = d.filters * 2**stage
        residual(f"encoder.layers.{3 * stage + 1}", channels)
        conv(f"encoder.layers.{3 * stage + 3}.conv", 2 * channels, channels, 2 * ratio, bias=2 * channels)
    last = 3 * len(d.ratios) + 2
    conv(f"decoder.layers.{last}.conv", 1, d.filters, d.last_kernel, bias=1)
    conv(f"encoder.layers.{last}.conv", d.width, widest, d.last_kernel, bias=d.width)
    conv("upsample.conv", d.width, 1, 2 * STEPS_PER_FRAME)
    conv("downsample.conv", d.width, d.width, 2 * STEPS_PER_FRAME)
    for side in ("encoder_transformer", "decoder_transformer"):
        for index in range(d.layers):
            name = f"{side}.layers.{index}"
            for norm in ("input_layernorm", "post_attention_layernorm"):
                conv(f"{name}.{norm}", d.width, bias=d.width)
            for which, heads in (("q", d.heads), ("k", d.kv_heads), ("v", d.kv_heads)):
                conv(f"{name}.self_attn.{which}_proj", heads * d.head_dim, d.width)
            conv(f"{name}.self_attn.o_proj", d.width, d.heads * d.head_dim)
            conv(f"{name}.mlp.fc1", d.ffn, d.width)
            conv(f"{name}.mlp.fc2", d.width, d.ffn)
            shapes[f"{name}.self_attn_layer_scale.scale"] = (d.width,)
            shapes[f"{name}.mlp_layer_scale.scale"] = (d.width,)
    for side, count in (("semantic", d.semantic), ("acoustic", d.codebooks - d.semantic)):
        name = f"quantizer.{side}_residual_vector_quantizer"
        conv(f"{name}.input_proj", d.codebook_dim, d.width, 1)
        conv(f"{name}.output_proj", d.width, d.codebook_dim, 1)
        for index in range(count):
            shapes[f"{name}.layers.{index}.codebook.embed_sum"] = (d.codebook_size, d.codebook_dim)
            shapes[f"{name}.layers.{index}.codebook.cluster_usage"] = (d.codebook_size,)
    return shapes


@dataclass(frozen=True, slots=True)
class MimiWeights:
    dims: MimiDims
    tensors: dict[str, torch.Tensor]


def holds_mimi(source: Source) -> bool:
    """Whether a CSM's weight files have its codec in them, whatever its config.json describes."""
    files = TensorFiles(safetensors_files(source, config=source.json("config.json") or {}))
    return any(name.startswith("codec_model.") for name in files.shapes)


def load_mimi(source: Source, *, device: torch.device) -> MimiWeights:
    """A checked Mimi from `source`; StartupError names what is missing or misshaped."""
    config = source.json("config.json") or {}
    files = TensorFiles(safetensors_files(source, config=config))
    dims = read_mimi_dims(config)
    prefix = "codec_model." if any(name.startswith("codec_model.") for name in files.shapes) else ""
    shapes = mimi_shapes(dims)
    problems = [f"{prefix}{name} is missing" for name in shapes if prefix + name not in files]
    problems += [
        f"{prefix}{name} has shape {list(files.shapes[prefix + name])}, and config.json makes it {list(shape)}"
        for name, shape in shapes.items()
        if prefix + name in files and files.shapes[prefix + name] != shape
    ]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise StartupError(f"{source.setting}: the codec in {source} does not fit: {'; '.join(problems[:5])}{more}")
    tensors = {name: files.read(prefix + name).to(device, torch.float32) for name in shapes}
    logger.info("Mimi from {} loaded", source)
    return MimiWeights(dims, tensors)
