"""Reads a prompt into a slot: sounds to codes, rows to keys and values, what is remembered copied instead."""

from __future__ import annotations

import torch

from speech.engines.csm.frames import Frames
from speech.engines.csm.mimi import MimiEncoder
from speech.engines.csm.model import Csm
from speech.engines.csm.prefix import Remembered
from speech.engines.csm.prompt import Heard, Prompt, sound_rows, text_rows


class Reader:
    """Used by one thread, under `torch.inference_mode`."""

    def __init__(self, model: Csm, encoder: MimiEncoder, *, prefix_bytes: int) -> None:
        self._model = model
        self._encoder = encoder
        self.prefixes = Remembered(limit_bytes=prefix_bytes)
        # Codes are some hundred times smaller than keys and values, so they outlive them by far.
        self.codes = Remembered(limit_bytes=max(1, prefix_bytes // 16))

    def read(self, prompt: Prompt, frames: Frames, slot: int) -> tuple[torch.Tensor, int]:
        """Fill `slot`'s cache with all rows but the last; returns that row, [D], and its position."""
        at = self._recall(prompt, frames, slot)
        for heard in prompt.heard[at.segments :]:
            tokens, mask = self._rows(heard)
            self._model.prefill(self._embed(tokens, mask), frames.cache, slot, at.position)
            end = at.position + heard.rows
            self.prefixes.put(heard.key, frames.cache[:, :, slot, :, at.position : end].clone())
            at.position = end
        self.prefixes.touch([heard.key for heard in prompt.heard])
        rows = self._embed(*text_rows(prompt.ids, self._model.dims.codebooks))
        self._model.prefill(rows[:-1], frames.cache, slot, at.position)
        return rows[-1], at.position + len(rows) - 1

    def _recall(self, prompt: Prompt, frames: Frames, slot: int) -> _Reached:
        """Copy the longest remembered beginning into the slot."""
        at = _Reached()
        for heard in prompt.heard:
            block = self.prefixes.get(heard.key)
            if block is None:
                break
            frames.cache[:, :, slot, :, at.position : at.position + heard.rows] = block
            at.position += heard.rows
            at.segments += 1
        return at

    def _rows(self, heard: Heard) -> tuple[torch.Tensor, torch.Tensor]:
        codes = self.codes.get(heard.sound_key)
        if codes is None:
            # One at a time: what a reference becomes must not depend on which others were not remembered.
            codes = self._encoder.encode([heard.samples])[0].to("cpu", torch.int16)
            self.codes.put(heard.sound_key, codes)
        text, sound = text_rows(heard.ids, self._model.dims.codebooks), sound_rows(codes.long())
        return torch.cat([text[0], sound[0]]), torch.cat([text[1], sound[1]])

    def _embed(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self._model.embed_rows(tokens.to(self._model.device), mask.to(self._model.device))


class _Reached:
    """How far a prompt is in the cache: rows, and whole segments."""

    def __init__(self) -> None:
        self.position = 0
        self.segments = 0
