"""Greedy codes equal the original implementation's and transformers'."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import CsmForConditionalGeneration

from speech.engines.csm.mimi import MimiEncoder
from speech.engines.csm.mimi_weights import load_mimi
from speech.engines.csm.model import Csm
from speech.engines.csm.source import Source
from speech.engines.csm.verify import count_equal, greedy_codes, main
from speech.engines.csm.weights import load_weights
from tests.engines.csm.tiny import CODEBOOKS, GOLDEN, clip

CPU = torch.device("cpu")
FRAMES = 48


def test_the_original_implementations_codes_are_reproduced() -> None:
    assert count_equal(GOLDEN) == (40, 40)


@torch.inference_mode()
def prompt_rows(model: Csm, segments: list[tuple[list[int], torch.Tensor | None]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of (text ids, codes [frames, C] or None) pairs, written out by hand."""
    rows, mask = [], []
    for text, codes in segments:
        for token in text:
            rows.append([0] * CODEBOOKS + [token])
            mask.append([False] * CODEBOOKS + [True])
        if codes is not None:
            for frame in [*codes.tolist(), [0] * CODEBOOKS]:
                rows.append([*frame, 0])
                mask.append([True] * CODEBOOKS + [False])
    return torch.tensor(rows), torch.tensor(mask)


def test_transformers_codes_are_reproduced_with_context_audio(transformers_folder: Path) -> None:
    theirs = CsmForConditionalGeneration.from_pretrained(transformers_folder).eval()
    samples = torch.from_numpy(clip(1.2))[None, None]  # 15 frames
    first, second = [256, 60, 61, 62, 63, 257], [256, 70, 71, 72, 73, 74, 257]
    ids = torch.tensor([[*first, *[298] * 15, 299, *second]])
    with torch.no_grad():
        right = theirs.generate(
            input_ids=ids, input_values=samples, input_values_cutoffs=torch.tensor([[samples.shape[-1]]]),
            attention_mask=torch.ones_like(ids), do_sample=False, depth_decoder_do_sample=False,
            max_new_tokens=FRAMES,
        )[0]  # fmt: skip
    source = Source(str(transformers_folder))
    with torch.inference_mode():
        ours = Csm(load_weights(source, device=CPU, dtype=torch.float32))
        codes = MimiEncoder(load_mimi(source, device=CPU)).encode([samples[0, 0].numpy()])[0]
        tokens, mask = prompt_rows(ours, [(first, codes), (second, None)])
    made = greedy_codes(ours, tokens, mask, frames=FRAMES)
    assert len(set(right[:, 0].tolist())) > 5, "a model that says one thing proves nothing"
    assert made.tolist() == right.tolist()


def test_both_layouts_and_any_number_of_slots_give_the_same_codes(
    transformers_folder: Path, original_folder: Path
) -> None:
    made = []
    for folder, slots in ((transformers_folder, 1), (original_folder, 1), (original_folder, 3)):
        model = Csm(load_weights(Source(str(folder)), device=CPU, dtype=torch.float32))
        tokens, mask = prompt_rows(model, [([256, 80, 81, 82, 257], None)])
        made.append(greedy_codes(model, tokens, mask, frames=20, slots=slots))
    assert made[0].tolist() == made[1].tolist() == made[2].tolist()


def test_ids_the_codec_lacks_are_never_drawn(transformers_folder: Path) -> None:
    weights = load_weights(Source(str(transformers_folder)), device=CPU, dtype=torch.float32)
    weights.head0[64:] += 100 * weights.head0[:3]
    for head in weights.heads:
        head[64:] *= 1000
    model = Csm(weights, codes=64)
    tokens, mask = prompt_rows(model, [([256, 80, 257], None)])
    assert int(greedy_codes(model, tokens, mask, frames=10).max()) < 64


def test_verify_ends_with_its_count(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["verify", str(GOLDEN)])
    assert main() == 0
    assert capsys.readouterr().out.splitlines()[-1] == "40 of 40 frames equal"


@torch.inference_mode()
@pytest.mark.parametrize("layout", ["transformers", "original"])
def test_verify_takes_any_sizes_and_counts_up_to_the_first_wrong_frame(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], layout: str,
) -> None:  # fmt: skip
    shutil.copytree(request.getfixturevalue(f"{layout}_folder"), tmp_path, dirs_exist_ok=True)
    model = Csm(load_weights(Source(str(tmp_path)), device=CPU, dtype=torch.float32))
    tokens, mask = prompt_rows(model, [([256, 80, 81, 257], None)])
    codes = greedy_codes(model, tokens, mask, frames=9)
    codes[6, 2] += 1
    expected = {"prompt_tokens": tokens, "prompt_mask": mask.to(torch.uint8), "greedy_codes": codes}
    save_file(expected, tmp_path / "expected.safetensors")
    monkeypatch.setattr("sys.argv", ["verify", str(tmp_path)])
    assert main() == 1
    assert capsys.readouterr().out.splitlines()[-1] == "6 of 9 frames equal"
    (tmp_path / "expected.safetensors").unlink()
    assert main() == 2
    assert "expected.safetensors" in capsys.readouterr().err
