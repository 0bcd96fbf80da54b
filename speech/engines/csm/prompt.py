"""What the backbone reads before it speaks: earlier segments, then the text, within its positions.

A segment is text rows then audio rows (SesameAILabs/csm, generator.py): each text id in the last of C + 1 columns,
each frame's codes in the first C, and an all-zero frame to close the sound. Knows no tensors but the rows it builds.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from loguru import logger

from speech.engines.csm.guards import frame_cap
from speech.engines.csm.mimi import frames_of
from speech.errors import InvalidInput

if TYPE_CHECKING:
    from speech.engines.base import Line, Segment
    from speech.engines.csm.tokenizer import TextTokenizer


@dataclass(frozen=True, slots=True)
class Heard:
    """An earlier segment as it stands in the prompt.

    ids: its text. frames: its sound. samples: float32[n], the sound itself. sound_key: of the sound alone. key: of
    all rows from the prompt's start to this segment's end, since keys and values depend on all that went before.
    """

    ids: tuple[int, ...]
    frames: int
    samples: np.ndarray
    sound_key: bytes
    key: bytes

    @property
    def rows(self) -> int:
        return len(self.ids) + self.frames + 1


@dataclass(frozen=True, slots=True)
class Prompt:
    """heard: what stays of the context, oldest first. ids: the text to be spoken. frames: the most it may take."""

    heard: tuple[Heard, ...]
    ids: tuple[int, ...]
    frames: int

    @property
    def rows(self) -> int:
        return sum(each.rows for each in self.heard) + len(self.ids)


def plan(line: Line, tokenizer: TextTokenizer, *, positions: int, samples_per_frame: int, rate_hz: int) -> Prompt:
    """The prompt for `line` in a model of so many positions, prompt and output together.

    Where a conversation is too long its oldest segments are left out whole; never the first by the line's own
    speaker, which is the voice to be kept, and never the text. Raises InvalidInput where even that is too long, and
    where the text has nothing that can be said.
    """
    if not any(char.isalnum() for char in line.text):
        raise InvalidInput(line.field, "has no word to speak", "write words or numbers")
    ids = tuple(tokenizer.encode(line.text, line.speaker))
    frames = min(frame_cap(line.text), frames_of(line.max_duration_ms * rate_hz // 1000, samples_per_frame))
    room = positions - frames - len(ids)
    if room < 0:
        raise InvalidInput(
            line.field,
            f"is {len(ids)} tokens long and its sound up to {frames} frames, and the model holds {positions} in all",
            "send it in shorter parts",
        )
    measure = partial(_measure, tokenizer=tokenizer, samples_per_frame=samples_per_frame)
    sizes = [measure(segment) for segment in line.context]
    voice = next((i for i, segment in enumerate(line.context) if segment.speaker == line.speaker), None)
    kept = list(range(len(sizes)))

    def length() -> int:
        return sum(len(sizes[i][0]) + sizes[i][1] + 1 for i in kept)

    for oldest in range(len(sizes)):
        if length() <= room:
            break
        if oldest != voice:
            kept.remove(oldest)
    if length() > room:
        assert voice is not None
        raise InvalidInput(
            f"context[{voice}]",
            f"is the voice to be kept and takes {length()} of the model's {positions} positions; the text and its "
            f"sound leave {room}",
            "send a shorter reference, a shorter text or a smaller max_duration_ms",
        )
    if len(kept) < len(sizes):
        logger.info(
            "the conversation is longer than {} positions: the oldest {} of {} segments are left out",
            positions, len(sizes) - len(kept), len(sizes),
        )  # fmt: skip
    heard, key = [], b""
    for i in kept:
        segment, (segment_ids, segment_frames) = line.context[i], sizes[i]
        samples = np.ascontiguousarray(segment.audio.samples, dtype=np.float32)
        sound_key = _digest(samples.tobytes())
        # The ids hold the speaker and the text.
        key = _digest(key + np.array(segment_ids, dtype=np.int64).tobytes() + sound_key)
        heard.append(Heard(segment_ids, segment_frames, samples, sound_key, key))
    return Prompt(tuple(heard), ids, frames)


def text_rows(ids: tuple[int, ...], codebooks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens int64 [n, C + 1] and their mask, bool."""
    tokens = torch.zeros(len(ids), codebooks + 1, dtype=torch.int64)
    tokens[:, -1] = torch.tensor(ids)
    mask = torch.zeros(tokens.shape, dtype=torch.bool)
    mask[:, -1] = True
    return tokens, mask


def sound_rows(codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """codes: int64 [frames, C]. Tokens int64 [frames + 1, C + 1] with the closing frame of zeros, and their mask."""
    frames, codebooks = codes.shape
    tokens = torch.zeros(frames + 1, codebooks + 1, dtype=torch.int64)
    tokens[:frames, :-1] = codes.cpu()
    mask = torch.ones(tokens.shape, dtype=torch.bool)
    mask[:, -1] = False
    return tokens, mask


def _measure(segment: Segment, *, tokenizer: TextTokenizer, samples_per_frame: int) -> tuple[tuple[int, ...], int]:
    ids = tuple(tokenizer.encode(segment.text, segment.speaker))
    return ids, frames_of(len(segment.audio.samples), samples_per_frame)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
