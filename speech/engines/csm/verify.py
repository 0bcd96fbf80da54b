"""Does this build compute what the original computed? `python -m speech.engines.csm.verify DIR`

DIR holds a checkpoint (config.json, model.safetensors, either layout) and expected.safetensors with `prompt_tokens`
int [rows, C + 1], `prompt_mask` [rows, C + 1] and `greedy_codes` int [frames, C], as tests/data/csm_tiny_original
does. Ends with `N of M frames equal`, and with exit status 1 where N < M.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from speech.engines.csm.frames import Frames
from speech.engines.csm.model import Csm
from speech.engines.csm.sampling import Noise
from speech.engines.csm.source import Source
from speech.engines.csm.tensorfile import TensorFiles
from speech.engines.csm.weights import load_weights
from speech.errors import StartupError


@torch.inference_mode()
def greedy_codes(model: Csm, tokens: torch.Tensor, mask: torch.Tensor, *, frames: int, slots: int = 1) -> torch.Tensor:
    """The likeliest codes after a prompt: int64 [frames, C]. tokens: int64 [n, C + 1]; mask: bool, the same shape."""
    run = Frames(model, None, slots=slots)
    rows = model.embed_rows(tokens.to(model.device), mask.to(model.device))
    if len(rows) > 1:
        model.prefill(rows[:-1], run.cache, 0, 0)
    run.join(0, rows[-1], len(rows) - 1, temperature=0.0, top_k=1)
    noise = Noise(0, take=0, codebooks=model.dims.codebooks, ranks=run.ranks(1))
    return torch.stack([torch.from_numpy(run.step({0: noise}).codes[0]) for _ in range(frames)])


def count_equal(folder: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[int, int]:
    """How many frames equal the expected ones, up to the first that does not, and how many there are."""
    source = Source(str(folder.absolute()), setting="DIR")
    expected = TensorFiles([source.get("expected.safetensors")])
    absent = [name for name in ("prompt_tokens", "prompt_mask", "greedy_codes") if name not in expected]
    if absent:
        raise StartupError(f"expected.safetensors lacks {', '.join(absent)}")
    model = Csm(load_weights(source, device=torch.device(device), dtype=dtype))
    right = expected.read("greedy_codes").long()
    tokens, mask = expected.read("prompt_tokens").long(), expected.read("prompt_mask").bool()
    made = greedy_codes(model, tokens, mask, frames=len(right))
    wrong = (made != right).any(dim=1).nonzero()
    # After the first wrong frame the two follow different histories, and nothing more can be compared.
    return int(wrong[0]) if len(wrong) else len(right), len(right)


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare this build's greedy codes with the original's.")
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    try:
        equal, total = count_equal(arguments.folder, device=arguments.device)
    except StartupError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{equal} of {total} frames equal\n")
    return 0 if equal == total else 1


if __name__ == "__main__":
    raise SystemExit(main())
