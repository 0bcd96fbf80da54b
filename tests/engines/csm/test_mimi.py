"""The streaming codec equals transformers' one-shot Mimi."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from speech.engines.csm.mimi import MimiDecoder, MimiEncoder
from speech.engines.csm.mimi_weights import MimiWeights, load_mimi
from speech.engines.csm.source import Source
from speech.errors import StartupError
from tests.engines.csm.tiny import CODEBOOKS, CODES, clip, tiny_mimi

CPU = torch.device("cpu")
FRAMES = 300  # 600 steps: the ring of 250 goes round more than twice


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mimi")
    tiny_mimi().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def weights(folder: Path) -> MimiWeights:
    return load_mimi(Source(str(folder), setting="codec"), device=CPU)


@pytest.fixture(scope="module")
def codes() -> torch.Tensor:
    return torch.randint(0, CODES, (2, CODEBOOKS, FRAMES), generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def one_shot(codes: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return tiny_mimi().decode(codes).audio_values[:, 0]


@torch.inference_mode()
@pytest.mark.parametrize("chunk", [1, 2, 7])
def test_any_chunk_size_equals_one_shot(
    weights: MimiWeights, codes: torch.Tensor, one_shot: torch.Tensor, chunk: int
) -> None:
    decoder = MimiDecoder(weights)
    state = decoder.new_state(2, max_frames=chunk)
    made = torch.cat([decoder.step(piece, state) for piece in codes.split(chunk, dim=2)], dim=1)
    assert made.shape == one_shot.shape == (2, FRAMES * 1920)
    assert (made - one_shot).abs().max() < 1e-4 * one_shot.abs().max()


@torch.inference_mode()
def test_a_slot_that_is_reset_has_heard_nothing_and_its_neighbour_does_not_notice(
    weights: MimiWeights, codes: torch.Tensor
) -> None:
    decoder = MimiDecoder(weights)
    alone, state = decoder.new_state(2, max_frames=1), decoder.new_state(2, max_frames=1)
    frames = codes[:, :, :12]
    first = [decoder.step(frames[:, :, at : at + 1], alone) for at in range(12)]
    for at in range(6):
        decoder.step(frames[:, :, at : at + 1], state)
    state.reset(0)
    for at in range(6):
        mixed = torch.stack([frames[0, :, at], frames[1, :, at + 6]])[:, :, None]
        made = decoder.step(mixed, state)
        assert torch.equal(made[0], first[at][0])
        assert torch.equal(made[1], first[at + 6][1])


@torch.inference_mode()
def test_a_slot_that_does_not_sound_rings_out(weights: MimiWeights, codes: torch.Tensor) -> None:
    decoder = MimiDecoder(weights)
    state = decoder.new_state(2, max_frames=1)
    decoder.step(codes[:, :, :1], state)
    tail = decoder.step(torch.zeros(2, CODEBOOKS, 1, dtype=torch.int64), state, torch.tensor([False, True]))
    assert not torch.allclose(tail[0], tail[1])


@torch.inference_mode()
def test_encoding_equals_transformers_and_batching_changes_nothing(weights: MimiWeights) -> None:
    clips = [clip(0.8, 1), clip(24.0, 2), clip(1.6, 3)]  # whole frames; the middle one is longer than the window
    encoder = MimiEncoder(weights)
    together = encoder.encode(clips)
    theirs = tiny_mimi()
    for each, codes in zip(clips, together, strict=True):
        right = theirs.encode(torch.from_numpy(each)[None, None]).audio_codes[0].T
        assert codes.tolist() == right.tolist()
        assert codes.tolist() == encoder.encode([each])[0].tolist()


@torch.inference_mode()
def test_a_last_frame_is_filled_up_with_silence(weights: MimiWeights) -> None:
    encoder = MimiEncoder(weights)
    part = clip(0.5)
    whole = np.pad(part, (0, 7 * 1920 - len(part)))
    assert encoder.encode([part])[0].tolist() == encoder.encode([whole])[0].tolist()
    assert len(encoder.encode([np.zeros(0, np.float32)])[0]) == 1


def test_an_unfit_codec_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["upsample.conv.weight"] = tensors["upsample.conv.weight"][:, :, :3].contiguous()
    del tensors["decoder.layers.0.conv.bias"]
    save_file(tensors, tmp_path / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(StartupError, match=r"decoder\.layers\.0\.conv\.bias is missing.*upsample\.conv\.weight has"):
        load_mimi(Source(str(tmp_path), setting="codec"), device=CPU)
    config["use_causal_conv"] = False
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(StartupError, match="use_causal_conv"):
        load_mimi(Source(str(tmp_path), setting="codec"), device=CPU)
