"""Tiny random models, made at test time: transformers' own classes with sizes that fit in a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CsmConfig, CsmForConditionalGeneration, MimiModel
from transformers import MimiConfig as HfMimiConfig

CODEBOOKS, CODES = 6, 64
GOLDEN = Path(__file__).parents[2] / "data" / "csm_tiny_original"

ROPE = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 32.0}
MIMI: dict[str, Any] = {
    "model_type": "mimi", "num_quantizers": CODEBOOKS, "codebook_size": CODES, "hidden_size": 32, "num_filters": 4,
    "num_hidden_layers": 2, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 4,
    "codebook_dim": 16, "vector_quantization_hidden_dimension": 16, "upsample_groups": 32,
}  # fmt: skip


def tiny_config() -> CsmConfig:
    """Sizes in other proportions than the golden data's: three heads a key, heads wider than dim / heads."""
    backbone_rope = ROPE | {"low_freq_factor": 0.125, "high_freq_factor": 0.5, "original_max_position_embeddings": 1024}
    depth_rope = ROPE | {
        "low_freq_factor": 0.001953125, "high_freq_factor": 0.0078125, "original_max_position_embeddings": 16,
    }  # fmt: skip
    return CsmConfig(
        num_codebooks=CODEBOOKS, vocab_size=CODES + 3, text_vocab_size=300, hidden_size=48, intermediate_size=80,
        num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2, head_dim=16, rope_parameters=backbone_rope,
        pad_token_id=298, codebook_pad_token_id=CODES + 2, bos_token_id=256, audio_token_id=298,
        audio_eos_token_id=299, codec_config=dict(MIMI),
        depth_decoder_config={
            "num_codebooks": CODEBOOKS, "backbone_hidden_size": 48, "vocab_size": CODES + 3, "hidden_size": 32,
            "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "rope_parameters": depth_rope,
        },
    )  # fmt: skip


def scatter(model: torch.nn.Module, seed: int) -> None:
    """Weights large enough that every part tells: transformers' own start is so small that all logits are alike."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in list(model.named_parameters()) + list(model.named_buffers()):
            if not parameter.is_floating_point() or name.endswith(("inv_freq", "initialized")):
                continue
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("cluster_usage"):
                parameter.copy_(noise.abs() + 0.5)
            elif ("norm" in name and name.endswith("weight")) or name.endswith("scale"):
                parameter.copy_(1 + 0.2 * noise)
            elif parameter.dim() == 1:
                parameter.copy_(0.1 * noise)
            elif "embed" in name or "codebook." in name:
                parameter.copy_(noise)
            else:
                fan_in = parameter[0].numel()
                parameter.copy_(noise / fan_in**0.5)


def tiny_csm(seed: int = 0) -> CsmForConditionalGeneration:
    model = CsmForConditionalGeneration(tiny_config()).eval()
    scatter(model, seed)
    model.depth_decoder.model.embed_tokens.weight = model.backbone_model.embed_tokens.embed_audio_tokens.weight
    return model


def tiny_mimi(seed: int = 1, **changes: Any) -> MimiModel:
    model = MimiModel(HfMimiConfig(**(MIMI | changes))).eval()
    scatter(model, seed)
    return model


def write_tokenizer(folder: Path) -> None:
    """One token a byte, and the two that frame a text, under the ids their place in the tiny vocabulary gives."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>"])
    tokenizer.save(str(folder / "tokenizer.json"))


def write_transformers(folder: Path, seed: int = 0) -> Path:
    """A folder as `sesame/csm-1b` is laid out: model, codec and tokenizer in one."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny_csm(seed).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def write_original(folder: Path, like: Path) -> Path:
    """The model of a transformers-layout folder under the original's names, its codec and tokenizer beside it.

    A second way to the same place, and so a check of the loader's renaming and of its turning of rotary rows.
    """
    config = json.loads((like / "config.json").read_text())
    old = load_file(like / "model.safetensors")
    new: dict[str, torch.Tensor] = {}
    plain = {
        "embed_text_tokens.weight": "text_embeddings.weight", "lm_head.weight": "codebook0_head.weight",
        "depth_decoder.model.embed_tokens.weight": "audio_embeddings.weight",
        "backbone_model.embed_tokens.embed_audio_tokens.weight": "audio_embeddings.weight",
        "depth_decoder.model.inputs_embeds_projector.weight": "projection.weight",
        "depth_decoder.codebooks_head.weight": "audio_head",
    }  # fmt: skip
    inner = {
        "self_attn.q_proj": "attn.q_proj", "self_attn.k_proj": "attn.k_proj", "self_attn.v_proj": "attn.v_proj",
        "self_attn.o_proj": "attn.output_proj", "mlp.gate_proj": "mlp.w1", "mlp.up_proj": "mlp.w3",
        "mlp.down_proj": "mlp.w2", "input_layernorm.weight": "sa_norm.scale",
        "post_attention_layernorm.weight": "mlp_norm.scale", "norm.weight": "norm.scale",
    }  # fmt: skip
    codec = {}
    for name, value in old.items():
        if name.startswith("codec_model."):
            codec[name.removeprefix("codec_model.")] = value
            continue
        if name in plain:
            new[plain[name]] = value
            continue
        changed = name.replace("backbone_model.", "backbone.").replace("depth_decoder.model.", "decoder.")
        sizes = config if name.startswith("backbone") else config["depth_decoder_config"]
        width = sizes["head_dim"]
        turned = value
        if ".q_proj" in name or ".k_proj" in name:
            turned = value.view(-1, 2, width // 2, value.shape[1]).transpose(1, 2).reshape(value.shape)
        for theirs, ours in inner.items():
            if theirs in changed:
                changed = changed.replace(theirs, ours)
                break
        new[changed] = turned.contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(new, folder / "model.safetensors")

    def stack(sizes: dict[str, Any]) -> dict[str, int]:
        return {
            "num_layers": sizes["num_hidden_layers"], "num_heads": sizes["num_attention_heads"],
            "num_kv_heads": sizes["num_key_value_heads"], "embed_dim": sizes["hidden_size"],
            "intermediate_dim": sizes["intermediate_size"], "head_dim": sizes["head_dim"],
        }  # fmt: skip

    dims = {
        "backbone": stack(config), "decoder": stack(config["depth_decoder_config"]),
        "text_vocab_size": config["text_vocab_size"], "audio_vocab_size": config["vocab_size"],
        "audio_num_codebooks": config["num_codebooks"],
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(dims))
    mimi = folder / "mimi"
    mimi.mkdir(exist_ok=True)
    save_file(codec, mimi / "model.safetensors")
    (mimi / "config.json").write_text(json.dumps(config["codec_config"]))
    write_tokenizer(folder)
    return folder


def clip(seconds: float, seed: int = 0) -> np.ndarray:
    """Something that sounds: float32[n] at 24 kHz."""
    random = np.random.default_rng(seed)
    time = np.arange(int(seconds * 24_000)) / 24_000
    tone = np.sin(2 * np.pi * random.uniform(90, 300) * time) * (0.3 + 0.2 * np.sin(2 * np.pi * 3 * time))
    return (tone + 0.05 * random.standard_normal(len(time))).astype(np.float32)
