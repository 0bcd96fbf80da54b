"""Mimi in a stream: codes to sound with a state for every slot, and sound to codes.

Kyutai's Mimi (arXiv 2410.00037, section 3.3.1): a split residual quantiser at 12.5 frames a second, a transposed
convolution to 25 steps a second, a transformer that sees 250 steps, and SEANet convolutions to 24 kHz; the encoder
is the same backwards. Everything is causal, so a stream needs only what each part still remembers: the last inputs
of a convolution, the overhang of a transposed one, the last keys and values. One-shot is a stream of one piece.
S: slots, T: steps (25 a second), W: width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from speech.engines.csm.device import keep_bits
from speech.engines.csm.mimi_weights import STEPS_PER_FRAME, MimiDims, MimiWeights
from speech.engines.csm.model import grouped_attention, grouped_mask

# The codebooks' own guard against dividing by an entry that was never used (kyutai/moshi, core_vq.py).
USAGE_FLOOR = 1e-5


class MimiState:
    """What a decoder remembers of each slot: float32 [S, n], cut into named parts, and the steps heard, int64 [S]."""

    def __init__(self, parts: dict[str, tuple[int, ...]], slots: int, device: torch.device) -> None:
        sizes = {name: int(np.prod(shape)) for name, shape in parts.items()}
        self._memory = torch.zeros(slots, sum(sizes.values()), device=device)
        self.steps = torch.zeros(slots, dtype=torch.int64, device=device)
        self._parts: dict[str, torch.Tensor] = {}
        at = 0
        for name, shape in parts.items():
            self._parts[name] = self._memory[:, at : at + sizes[name]].view(slots, *shape)
            at += sizes[name]

    def __getitem__(self, name: str) -> torch.Tensor:
        """The part `name`: [S, ...]."""
        return self._parts[name]

    def reset(self, slot: int) -> None:
        """`slot` has heard nothing."""
        self._memory[slot].zero_()
        self.steps[slot] = 0

    def tensors(self) -> list[torch.Tensor]:
        return [self._memory, self.steps]


class MimiDecoder:
    """Codes to sound, any number of frames at a time, for all slots together."""

    def __init__(self, weights: MimiWeights) -> None:
        self.dims = weights.dims
        self.samples_per_frame = weights.dims.samples_per_frame
        self._weights = weights
        self._w = weights.tensors
        d = weights.dims
        self._device = self._w["upsample.conv.weight"].device
        keep_bits(self._device)
        self._tables = {side: _codebooks(weights, side) for side in ("semantic", "acoustic")}
        self._convs = {"decoder.layers.0.conv": (d.width, d.kernel)}
        widest = d.filters * 2 ** len(d.ratios)
        self._overhangs = {"upsample.conv": (d.width, STEPS_PER_FRAME)}
        for stage, ratio in enumerate(d.ratios):
            channels = widest // 2 ** (stage + 1)
            self._overhangs[f"decoder.layers.{3 * stage + 2}.conv"] = (channels, ratio)
            self._convs[f"decoder.layers.{3 * stage + 3}.block.1.conv"] = (channels, d.residual_kernel)
        self._last = f"decoder.layers.{3 * len(d.ratios) + 2}.conv"
        self._convs[self._last] = (d.filters, d.last_kernel)

    def new_state(self, slots: int, *, max_frames: int) -> MimiState:
        """Fresh memory for `slots` streams that are fed at most `max_frames` at a time."""
        d = self.dims
        # The first of a piece's steps must still see its whole window after the last was written.
        ring = d.window + STEPS_PER_FRAME * max_frames - 1
        ring = -(-ring // 8) * 8  # of a length that attention's kernels take as it is
        parts: dict[str, tuple[int, ...]] = {"ring": (d.layers, 2, d.kv_heads, ring, d.head_dim)}
        parts |= {name: (channels, kernel - 1) for name, (channels, kernel) in self._convs.items()}
        parts |= {name: (channels, stride) for name, (channels, stride) in self._overhangs.items()}
        return MimiState(parts, slots, self._device)

    def step(self, codes: torch.Tensor, state: MimiState | None, sounding: torch.Tensor | None = None) -> torch.Tensor:
        """The next frames of every slot. codes: int64 [S, C, n]; sounding: bool [S], where False feeds silence in
        place of the codes, to let the decoder ring out. Returns float32 [S, n * samples_per_frame]."""
        assert state is not None
        x = self._dequantize(codes)
        if sounding is not None:
            x = x * sounding[:, None, None]
        x = self._transposed("upsample.conv", x, state)
        x = self._transformer(x.transpose(1, 2), state).transpose(1, 2)
        x = self._conv("decoder.layers.0.conv", x, state)
        for stage in range(len(self.dims.ratios)):
            x = self._transposed(f"decoder.layers.{3 * stage + 2}.conv", F.elu(x), state)
            block = f"decoder.layers.{3 * stage + 3}.block"
            y = F.elu(self._conv(f"{block}.1.conv", F.elu(x), state))
            x = x + F.conv1d(y, self._w[f"{block}.3.conv.weight"], self._w[f"{block}.3.conv.bias"])
        return self._conv(self._last, F.elu(x), state)[:, 0]

    def _dequantize(self, codes: torch.Tensor) -> torch.Tensor:
        """int64 [S, C, n] to latents [S, W, n]: the sum of the codebooks' entries, each half projected on its own."""
        split = self.dims.semantic
        halves = []
        for side, part in (("semantic", codes[:, :split]), ("acoustic", codes[:, split:])):
            offsets = torch.arange(part.shape[1], device=codes.device)[:, None] * self.dims.codebook_size
            summed = F.embedding(part + offsets, self._tables[side].flatten(0, 1)).sum(1)
            projection = self._w[f"quantizer.{side}_residual_vector_quantizer.output_proj.weight"][:, :, 0]
            halves.append(F.linear(summed, projection))
        return (halves[0] + halves[1]).transpose(1, 2)

    def _conv(self, name: str, x: torch.Tensor, state: MimiState) -> torch.Tensor:
        """A causal convolution; its memory is the last kernel - 1 inputs. x: [S, channels, n]."""
        before = state[name]
        whole = torch.cat([before, x], dim=2)
        before.copy_(whole[:, :, whole.shape[2] - before.shape[2] :])
        return F.conv1d(whole, self._w[f"{name}.weight"], self._w[f"{name}.bias"])

    def _transposed(self, name: str, x: torch.Tensor, state: MimiState) -> torch.Tensor:
        """A causal transposed convolution with kernel 2 * stride. [S, channels, n] to [S, out, n * stride].

        Each input lays two strides of output: one on its own place and one on the next input's, and what the last
        one lays beyond the end is the memory. As one matrix product it is several times faster on CPU than torch's
        own for the few steps of a frame.
        """
        overhang = state[name]  # [S, out, stride]
        stride = overhang.shape[2]
        weight = self._w[f"{name}.weight"]  # [channels, out, 2 * stride], or [channels, 1, 2 * stride] a channel each
        steps = x.transpose(1, 2)
        if weight.shape[1] == 1:
            laid = steps[..., None] * weight[:, 0]
        else:
            laid = (steps @ weight.flatten(1)).unflatten(2, weight.shape[1:])
        own, next_ones = laid.split(stride, dim=3)  # [S, n, out, stride] each
        y = own + torch.cat([overhang[:, None], next_ones[:, :-1]], dim=1)
        overhang.copy_(next_ones[:, -1])
        y = y.transpose(1, 2).flatten(2)
        bias = self._w.get(f"{name}.bias")
        return y if bias is None else y + bias[:, None]

    def _transformer(self, x: torch.Tensor, state: MimiState) -> torch.Tensor:
        """x: [S, T, W]. Keys and values go round a ring; what a ring place holds is known from the steps alone."""
        slots, count, _ = x.shape
        ring = state["ring"]
        size = ring.shape[4]
        steps = state.steps[:, None] + torch.arange(count, device=x.device)  # [S, T]
        latest = steps[:, -1:]
        places = torch.arange(size, device=x.device)
        held = latest - (latest - places) % size  # [S, ring]: the newest step that fell on each place, or before 0
        distance = steps[:, :, None] - held[:, None]
        mask = _mask((distance >= 0) & (distance < self.dims.window) & (held >= 0)[:, None], self.dims)
        every = torch.arange(slots, device=x.device)[:, None]

        def attend(index: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            keys, values = ring[:, index, 0], ring[:, index, 1]
            keys[every, :, steps % size] = k
            values[every, :, steps % size] = v
            return grouped_attention(q, keys, values, mask)

        x = _transformer(self._weights, "decoder_transformer", x, steps, attend)
        state.steps.add_(count)
        return x


class MimiEncoder:
    """Sound to codes, whole references at a time."""

    def __init__(self, weights: MimiWeights) -> None:
        self.dims = weights.dims
        self._weights = weights
        self._w = weights.tensors
        self._device = self._w["upsample.conv.weight"].device
        keep_bits(self._device)
        self._tables = {side: _codebooks(weights, side) for side in ("semantic", "acoustic")}

    def encode(self, clips: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """float32[n] at the codec's rate each, to int64 [frames, C] each, where frames = ceil(n / samples_per_frame).

        Clips are filled up with silence at their ends, as the original fills up a last frame; the codec is causal, so
        that a shorter clip's frames do not change by it.
        """
        frame = self.dims.samples_per_frame
        frames = [frames_of(len(clip), frame) for clip in clips]
        x = torch.zeros(len(clips), 1, max(frames) * frame)
        for row, clip in zip(x, clips, strict=True):
            row[0, : len(clip)] = torch.from_numpy(np.ascontiguousarray(clip, dtype=np.float32))
        codes = self._quantize(self._latents(x.to(self._device)))
        return [each[:count] for each, count in zip(codes, frames, strict=True)]

    def _latents(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 1, samples] to [B, W, frames]."""
        x = self._conv("encoder.layers.0.conv", x)
        for stage, ratio in enumerate(reversed(self.dims.ratios)):
            block = f"encoder.layers.{3 * stage + 1}.block"
            y = self._conv(f"{block}.1.conv", F.elu(x))
            x = x + self._conv(f"{block}.3.conv", F.elu(y))
            x = self._conv(f"encoder.layers.{3 * stage + 3}.conv", F.elu(x), stride=ratio)
        x = self._conv(f"encoder.layers.{3 * len(self.dims.ratios) + 2}.conv", F.elu(x))
        x = self._transformer(x.transpose(1, 2)).transpose(1, 2)
        # Two kernel steps hang over the start, where this one layer repeats its first input instead of silence.
        x = F.pad(x, (STEPS_PER_FRAME, 0), mode="replicate")
        return F.conv1d(x, self._w["downsample.conv.weight"], stride=STEPS_PER_FRAME)

    def _conv(self, name: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        weight = self._w[f"{name}.weight"]
        x = F.pad(x, (weight.shape[2] - stride, 0))
        return F.conv1d(x, weight, self._w[f"{name}.bias"], stride=stride)

    def _transformer(self, x: torch.Tensor) -> torch.Tensor:
        steps = torch.arange(x.shape[1], device=x.device)[None]
        distance = steps[:, :, None] - steps[:, None]
        mask = _mask((distance >= 0) & (distance < self.dims.window), self.dims)

        def attend(index: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return grouped_attention(q, k.transpose(1, 2), v.transpose(1, 2), mask)

        return _transformer(self._weights, "encoder_transformer", x, steps, attend)

    def _quantize(self, x: torch.Tensor) -> torch.Tensor:
        """Latents [B, W, frames] to int64 [B, frames, C]: each codebook's nearest entry to what the last ones left."""
        codes = []
        for side in ("semantic", "acoustic"):
            projection = self._w[f"quantizer.{side}_residual_vector_quantizer.input_proj.weight"][:, :, 0]
            left = F.linear(x.transpose(1, 2), projection)
            for table in self._tables[side]:
                nearest = torch.cdist(left, table[None].expand(len(left), -1, -1)).argmin(dim=2)
                left = left - F.embedding(nearest, table)
                codes.append(nearest)
        return torch.stack(codes, dim=2)


def frames_of(samples: int, samples_per_frame: int) -> int:
    """Frames that hold `samples`; even nothing takes one."""
    return max(1, -(-samples // samples_per_frame))


def _mask(mask: torch.Tensor, d: MimiDims) -> torch.Tensor:
    return grouped_mask(mask, d.heads // d.kv_heads, torch.float32)


def _rotate(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """x: [B, T, H, d]; table: cos and sin, [2, B, T, 1, d / 2]. Mimi's files pair x_j with x_{j + d/2}."""
    cos, sin = table
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _codebooks(weights: MimiWeights, side: str) -> torch.Tensor:
    """A quantiser's entries, [codebooks, size, dim]; files hold each as a sum over its uses and their number."""
    d = weights.dims
    count = d.semantic if side == "semantic" else d.codebooks - d.semantic
    tables = []
    for index in range(count):
        name = f"quantizer.{side}_residual_vector_quantizer.layers.{index}.codebook"
        usage = weights.tensors[f"{name}.cluster_usage"].clamp(min=USAGE_FLOOR)
        tables.append(weights.tensors[f"{name}.embed_sum"] / usage[:, None])
    return torch.stack(tables)


def _transformer(weights: MimiWeights, side: str, x: torch.Tensor, steps: torch.Tensor,
                 attend: Callable[..., torch.Tensor]) -> torch.Tensor:  # fmt: skip
    """Either transformer: pre-norm layers whose branches are scaled. x: [B, T, W]; steps: int64 [B, T]."""
    w, d = weights.tensors, weights.dims
    batch, count, width = x.shape
    exponents = torch.arange(0, d.head_dim, 2, dtype=torch.float32, device=x.device) / d.head_dim
    angles = steps[:, :, None, None] * (1.0 / d.theta**exponents)
    table = torch.stack([angles.cos(), angles.sin()])
    for index in range(d.layers):
        name = f"{side}.layers.{index}"
        norm = f"{name}.input_layernorm"
        h = F.layer_norm(x, (width,), w[f"{norm}.weight"], w[f"{norm}.bias"], d.norm_eps)
        q, k, v = (
            F.linear(h, w[f"{name}.self_attn.{which}_proj.weight"]).view(batch, count, -1, d.head_dim)
            for which in "qkv"
        )
        y = attend(index, _rotate(q, table), _rotate(k, table), v)
        x = x + F.linear(y, w[f"{name}.self_attn.o_proj.weight"]) * w[f"{name}.self_attn_layer_scale.scale"]
        norm = f"{name}.post_attention_layernorm"
        h = F.layer_norm(x, (width,), w[f"{norm}.weight"], w[f"{norm}.bias"], d.norm_eps)
        h = F.linear(F.gelu(F.linear(h, w[f"{name}.mlp.fc1.weight"])), w[f"{name}.mlp.fc2.weight"])
        x = x + h * w[f"{name}.mlp_layer_scale.scale"]
    return x
