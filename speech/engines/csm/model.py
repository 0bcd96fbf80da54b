"""The two transformers of CSM-1B: the backbone that reads a conversation, the depth decoder that fills in a frame.

The published model (SesameAILabs/csm, models.py): a row of the prompt is the sum of the embeddings of its filled
columns; the backbone's last hidden state gives codebook 0; the depth decoder starts from that state and goes on from
code to code. Knows nothing of requests, text or sound. S: slots, D: backbone width, E: depth width, C: codebooks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from speech.engines.csm.device import keep_bits
from speech.engines.csm.dims import Rope, StackDims
from speech.engines.csm.weights import Stack, Weights

FEW_ROWS = 32
"""A frame's products have as many rows as there are slots; a prompt's have more, and take the usual way."""

Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def linear(x: torch.Tensor, weight: Any) -> torch.Tensor:
    """x: [..., in] times a matrix `[out, in]`, or times a quantised stand-in for one."""
    if not isinstance(weight, torch.Tensor):
        return weight(x)
    rows = x.numel() // x.shape[-1]
    if x.dtype is torch.bfloat16 and rows <= FEW_ROWS and x.device.type == "cpu":
        return _few_rows(x.reshape(rows, -1), weight).view(*x.shape[:-1], -1)
    return F.linear(x, weight)


def _few_rows(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """[rows, in] to [rows, out]: the matrix from the left and never by a single vector, which torch's CPU build
    answers 1.2 to 2.8 times faster in bfloat16 than the usual way round (bench/LOG.md)."""
    rows = len(x)
    columns = (x.expand(2, -1) if rows == 1 else x).contiguous().t()
    return torch.mm(weight, columns)[:, :rows].t().contiguous()


def rotary_table(rope: Rope, head_dim: int, positions: int, device: torch.device) -> torch.Tensor:
    """What a pair is multiplied by at every position: complex64 [positions, head_dim / 2]."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    frequencies = 1.0 / rope.theta**exponents
    if rope.factor is not None:
        wavelengths = 2 * math.pi / frequencies
        # 0 where a wavelength is longer than original / low (stretched), 1 where shorter than original / high (kept).
        kept = ((rope.original / wavelengths - rope.low) / (rope.high - rope.low)).clamp(0, 1)
        frequencies = kept * frequencies + (1 - kept) * frequencies / rope.factor
    angles = torch.arange(positions, dtype=torch.float32)[:, None] * frequencies
    return torch.polar(torch.ones_like(angles), angles).to(device)


def rotate(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """x: [B, n, H, d], in pairs; table: complex [B or 1, n, 1, d / 2]. Turns each pair by its position's angle."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * table).flatten(-2).to(x.dtype)


def grouped_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """q: [B, n, H, d]; k, v: [B, K, T, d]; mask: from `grouped_mask`. Returns [B, n, H * d].

    The H / K queries that share a key are laid beside each other, so that keys are never repeated in memory.
    """
    batch, n, heads, width = q.shape
    shared = k.shape[1]
    group = heads // shared
    q = q.view(batch, n, shared, group, width).permute(0, 2, 3, 1, 4).reshape(batch, shared, group * n, width)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return y.view(batch, shared, group, n, width).permute(0, 3, 1, 2, 4).reshape(batch, n, heads * width)


def grouped_mask(mask: torch.Tensor, group: int, dtype: torch.dtype) -> torch.Tensor:
    """bool [B or 1, n, T] for each query that shares a key, [B or 1, 1, group * n, T], as what is added to the scores:
    attention would make that of it anew in every layer."""
    mask = (mask if mask.shape[1] == 1 else mask.repeat(1, group, 1))[:, None]
    return torch.zeros(mask.shape, device=mask.device, dtype=dtype).masked_fill_(~mask, float("-inf"))


class Transformer:
    """A stack of pre-norm layers and the norm after them. attend(layer, q, k, v) stores k and v, each [B, n, K, d],
    and returns [B, n, H * d]; it is where the backbone's prompt, the backbone's frame and the depth decoder differ."""

    def __init__(self, stack: Stack, dims: StackDims, *, eps: float, positions: int, device: torch.device) -> None:
        self._stack = stack
        self._dims = dims
        self._eps = eps
        self.group = dims.heads // dims.kv_heads
        self.table = rotary_table(dims.rope, dims.head_dim, positions, device)

    def layers(self, x: torch.Tensor, table: torch.Tensor, attend: Attend) -> torch.Tensor:
        """x: [B, n, D]; table: the positions' angles, as `rotate` takes them."""
        batch, n, width = x.shape
        heads, shared = self._dims.heads, self._dims.kv_heads
        for index, layer in enumerate(self._stack.layers):
            h = F.rms_norm(x, (width,), layer.norm1, self._eps)
            qkv = linear(h, layer.qkv).view(batch, n, -1, self._dims.head_dim)
            turned = rotate(qkv[:, :, : heads + shared], table)
            y = attend(index, turned[:, :, :heads], turned[:, :, heads:], qkv[:, :, heads + shared :])
            x = x + linear(y, layer.out)
            h = F.rms_norm(x, (width,), layer.norm2, self._eps)
            gate, up = linear(h, layer.gate_up).chunk(2, dim=-1)
            x = x + linear(F.silu(gate) * up, layer.down)
        return x

    def norm(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, (x.shape[-1],), self._stack.norm, self._eps)


class Csm:
    """The computations of a frame and of a prompt, on tensors that stay where they are.

    codes: ids a codebook may take, 0 .. codes - 1; ids above are embedded but never drawn. Everything runs under
    `torch.inference_mode`, which the caller enters.
    """

    def __init__(self, weights: Weights, *, codes: int | None = None) -> None:
        dims = weights.dims
        self.dims = dims
        self.weights = weights
        self.codes = min(codes or dims.audio_vocab, dims.audio_vocab)
        self.device = weights.text_embed.device
        keep_bits(self.device)
        self.dtype = weights.text_embed.dtype
        self._backbone = Transformer(
            weights.backbone, dims.backbone, eps=dims.norm_eps, positions=dims.max_positions, device=self.device
        )
        self._depth = Transformer(
            weights.depth, dims.depth, eps=dims.norm_eps, positions=dims.codebooks, device=self.device
        )
        self._depth_causal = torch.ones(dims.codebooks, dims.codebooks, dtype=torch.bool, device=self.device).tril()
        self._steps = torch.arange(dims.codebooks, device=self.device)
        self._offsets = self._steps * dims.audio_vocab
        self._positions = torch.arange(dims.max_positions, device=self.device)
        self._depth_embed = self._project_embeddings()

    def _project_embeddings(self) -> torch.Tensor:
        """The depth decoder's inputs, projected ahead: [(C - 1) * V, E]. Saves C - 1 products a frame."""
        dims, table = self.dims, self.weights.audio_embed
        rows = (dims.codebooks - 1) * dims.audio_vocab
        projected = torch.empty(rows, dims.depth.dim, device=self.device, dtype=self.dtype)
        for at in range(0, rows, dims.audio_vocab):
            block = slice(at, at + dims.audio_vocab)
            projected[block] = F.linear(table[block], self.weights.projection)
        return projected

    def new_cache(self, slots: int) -> torch.Tensor:
        """Keys and values of the backbone: [layers, 2, S, K, positions, d]."""
        d = self.dims.backbone
        shape = (d.layers, 2, slots, d.kv_heads, self.dims.max_positions, d.head_dim)
        return torch.zeros(shape, device=self.device, dtype=self.dtype)

    def new_depth_cache(self, slots: int) -> torch.Tensor:
        """Keys and values of the depth decoder within one frame: [layers, 2, S, K, C, d]."""
        d = self.dims.depth
        shape = (d.layers, 2, slots, d.kv_heads, self.dims.codebooks, d.head_dim)
        return torch.zeros(shape, device=self.device, dtype=self.dtype)

    def embed_rows(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Rows of a prompt. tokens: int64 [n, C + 1], codes then text; mask: bool, which are filled. [n, D]."""
        total = torch.zeros(len(tokens), self.dims.backbone.dim, device=self.device)
        for column in range(self.dims.codebooks):
            codes = tokens[:, column] + column * self.dims.audio_vocab
            total += F.embedding(codes * mask[:, column], self.weights.audio_embed) * mask[:, column, None]
        total += F.embedding(tokens[:, -1] * mask[:, -1], self.weights.text_embed) * mask[:, -1, None]
        return total.to(self.dtype)

    def embed_frame(self, codes: torch.Tensor) -> torch.Tensor:
        """codes: int64 [S, C]. Returns [S, D]."""
        return F.embedding(codes + self._offsets, self.weights.audio_embed).sum(1, dtype=torch.float32).to(self.dtype)

    def prefill(self, x: torch.Tensor, cache: torch.Tensor, slot: int, start: int) -> None:
        """Write the keys and values of rows x [n, D] at positions start .. start + n - 1 of one slot."""
        end = start + len(x)
        seen = self._positions[None, :end] <= self._positions[start:end, None]
        mask = grouped_mask(seen[None], self._backbone.group, self.dtype)

        def attend(index: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            keys, values = cache[index, :, slot : slot + 1]
            keys[:, :, start:end] = k.transpose(1, 2)
            values[:, :, start:end] = v.transpose(1, 2)
            return grouped_attention(q, keys[:, :, :end], values[:, :, :end], mask)

        self._backbone.layers(x[None], self._backbone.table[None, start:end, None], attend)

    def step(self, x: torch.Tensor, positions: torch.Tensor, cache: torch.Tensor, context: int) -> torch.Tensor:
        """One backbone step for every slot. x: [S, D]; positions: int64 [S], each below `context`. Returns [S, D]."""
        every = torch.arange(len(x), device=self.device)
        seen = self._positions[None, :context] <= positions[:, None]
        mask = grouped_mask(seen[:, None], self._backbone.group, self.dtype)

        def attend(index: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            keys, values = cache[index]
            keys[every, :, positions] = k[:, 0]
            values[every, :, positions] = v[:, 0]
            return grouped_attention(q, keys[:, :, :context], values[:, :, :context], mask)

        table = self._backbone.table[positions][:, None, None]
        return self._backbone.norm(self._backbone.layers(x[:, None], table, attend)[:, 0])

    def depth_step(self, x: torch.Tensor, at: torch.Tensor, cache: torch.Tensor) -> torch.Tensor:
        """The depth decoder at codebook positions `at`, int64 [n]. x: [S, n, E]. Returns the last state [S, E]."""
        mask = grouped_mask(self._depth_causal[at][None], self._depth.group, self.dtype)

        def attend(index: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            keys, values = cache[index]
            keys.index_copy_(2, at, k.transpose(1, 2))
            values.index_copy_(2, at, v.transpose(1, 2))
            return grouped_attention(q, keys, values, mask)

        table = self._depth.table[at][None, :, None]
        return self._depth.norm(self._depth.layers(x, table, attend)[:, -1])

    def fill_frame(self, hidden: torch.Tensor, depth_cache: torch.Tensor,
                   choose: Callable[[int, torch.Tensor], torch.Tensor]) -> torch.Tensor:  # fmt: skip
        """All codes of a frame from the backbone's state [S, D]. choose(codebook, logits [S, codes]) -> int64 [S].

        The depth decoder's first pass has two positions, the state and code 0; then one a code. Its cache starts
        anew every frame: what an earlier frame left lies behind the causal mask. Returns int64 [S, C].
        """
        codes = [choose(0, linear(hidden, self.weights.head0)[:, : self.codes])]
        first = F.embedding(codes[0], self._depth_embed)
        x = torch.stack([F.linear(hidden, self.weights.projection), first], dim=1)
        at = self._steps[:2]
        for book in range(1, self.dims.codebooks):
            state = self.depth_step(x, at, depth_cache)
            codes.append(choose(book, linear(state, self.weights.heads[book - 1])[:, : self.codes]))
            if book < self.dims.codebooks - 1:
                at = self._steps[book + 1 : book + 2]
                x = F.embedding(codes[book] + self._offsets[book], self._depth_embed)[:, None]
        return torch.stack(codes, dim=1)
