"""Weight files are checked before use, filled in place, and an operator is told what to do about them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import load_file, save_file

from speech.engines.csm.dims import CSM_1B, read_dims
from speech.engines.csm.source import Source, safetensors_files
from speech.engines.csm.weights import Weights, load_weights
from speech.errors import StartupError
from tests.engines.csm.tiny import GOLDEN

Change = Callable[[dict[str, torch.Tensor]], None]


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Weights:
    return load_weights(Source(str(folder)), device=torch.device("cpu"), dtype=dtype)


def changed(tmp_path: Path, change: Change) -> Path:
    tensors = load_file(GOLDEN / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    shutil.copy(GOLDEN / "config.json", tmp_path)
    return tmp_path


def rename(old: str, new: str) -> Change:
    return lambda tensors: tensors.update({new: tensors.pop(old)})


K_PROJ = "backbone.layers.1.attn.k_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("projection.weight"), r"projection\.weight is missing"),
        (rename("decoder.norm.scale", "decoder.norm.scales"), r"norm\.scale is missing \(is it decoder\.norm\.scales"),
        (lambda t: t.update({K_PROJ: t[K_PROJ][:16].clone()}), r"k_proj\.weight has shape \[16, 64\].*\[32, 64\]"),
        (lambda t: t.update({"backbone.layers.2.mlp.w1.weight": torch.zeros(2)}), r"layers\.2\.mlp\.w1\.weight is not"),
        (lambda t: [t.pop(name) for name in list(t) if "backbone" in name], "hold no CSM"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(tmp_path: Path, change: Change, message: str) -> None:
    with pytest.raises(StartupError, match=message):
        load(changed(tmp_path, change))


@pytest.mark.parametrize("keep", [0, 4, 100, 5000, 600_000])
def test_a_file_that_was_cut_short_is_refused(tmp_path: Path, keep: int) -> None:
    shutil.copy(GOLDEN / "config.json", tmp_path)
    (tmp_path / "model.safetensors").write_bytes((GOLDEN / "model.safetensors").read_bytes()[:keep])
    with pytest.raises(StartupError, match="whole safetensors file"):
        load(tmp_path)


def test_several_files_and_an_index_load_as_one(tmp_path: Path) -> None:
    tensors = load_file(GOLDEN / "model.safetensors")
    names = sorted(tensors)
    weight_map = {}
    for part, some in enumerate((names[::2], names[1::2])):
        save_file({name: tensors[name] for name in some}, tmp_path / f"model-{part}.safetensors")
        weight_map |= dict.fromkeys(some, f"model-{part}.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    shutil.copy(GOLDEN / "config.json", tmp_path)
    assert torch.equal(load(tmp_path).heads[2], load(GOLDEN).heads[2])


def test_where_two_layouts_lie_side_by_side_only_the_described_one_is_fetched(tmp_path: Path) -> None:
    for name in ("model.safetensors", "transformers.safetensors"):
        (tmp_path / name).touch()
    found = safetensors_files(Source(str(tmp_path)), config={"transformers_weights": "transformers.safetensors"})
    assert [path.name for path in found] == ["transformers.safetensors"]


def test_published_configurations_are_read() -> None:
    flavors = {"backbone_flavor": "llama-1B", "decoder_flavor": "llama-100M", "audio_vocab_size": 2051,
               "text_vocab_size": 128256, "audio_num_codebooks": 32}  # fmt: skip
    assert read_dims(flavors) == read_dims({"args": flavors}) == read_dims({}) == CSM_1B
    scaling = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 0.125, "high_freq_factor": 0.5,
               "original_max_position_embeddings": 1024}  # fmt: skip
    theirs = {
        "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
        "intermediate_size": 8192, "text_vocab_size": 128256, "vocab_size": 2051, "num_codebooks": 32,
        "rope_theta": 500000, "rope_scaling": scaling,
        "depth_decoder_config": {"hidden_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 8,
                                 "num_key_value_heads": 2, "intermediate_size": 8192},
    }  # fmt: skip
    read = read_dims(theirs)
    assert (read.backbone.layers, read.depth.head_dim, read.backbone.rope.original) == (16, 128, 1024.0)
    with pytest.raises(StartupError, match="llama-3B"):
        read_dims(flavors | {"backbone_flavor": "llama-3B"})
    with pytest.raises(StartupError, match="missing or wrong"):
        read_dims({"hidden_size": 2048})


def test_nothing_is_left_unfilled(transformers_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.empty
    monkeypatch.setattr(
        torch, "empty",
        lambda *a, **k: real(*a, **k).fill_(float("nan")) if k.get("dtype") == torch.float32 else real(*a, **k),
    )  # fmt: skip
    weights = load(transformers_folder)
    filled = [weights.text_embed, weights.audio_embed, weights.head0, weights.projection, *weights.heads]
    for stack in (weights.backbone, weights.depth):
        filled.append(stack.norm)
        for layer in stack.layers:
            filled += [layer.norm1, layer.qkv, layer.out, layer.norm2, layer.gate_up, layer.down]
    assert not any(tensor.isnan().any() for tensor in filled)


MEASURE = """
import json, resource, sys
from pathlib import Path
import torch
from speech.engines.csm.source import Source
from speech.engines.csm.weights import load_weights
folder = Path(sys.argv[1])
torch.ones(1, dtype=torch.float32).to(torch.bfloat16)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
load_weights(Source(str(folder)), device=torch.device("cpu"), dtype=torch.bfloat16)
print(peak() - before)
"""


def test_no_second_copy_is_held_while_loading(tmp_path: Path) -> None:
    sizes = {"num_layers": 1, "num_heads": 16, "num_kv_heads": 4, "embed_dim": 1024, "intermediate_dim": 4096}
    config = {"backbone": sizes, "decoder": sizes, "text_vocab_size": 60_000, "audio_vocab_size": 67,
              "audio_num_codebooks": 4}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    dims = read_dims(config)
    from speech.engines.csm.weights import allocate, targets

    shapes = {t.names[0]: t.shape for t in targets(allocate(dims, torch.device("meta"), torch.float32), original=True)}
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "model.safetensors")
    in_bf16 = (tmp_path / "model.safetensors").stat().st_size / 2
    done = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, check=True)
    grown = int(done.stdout)
    assert grown < 1.15 * in_bf16, f"{grown / 1e6:.0f} MB for {in_bf16 / 1e6:.0f} MB of weights"


def hub_says(monkeypatch: pytest.MonkeyPatch, error: type[Exception], status: int | None) -> Source:
    def download(*_: object, **__: object) -> str:
        if status is None:
            raise error("the hub's own words")
        request = httpx.Request("GET", "https://huggingface.co/owner/name")
        raise error("the hub's own words", response=httpx.Response(status, request=request))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    return Source("owner/name", revision="abc", setting="csm_weights")


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (errors.GatedRepoError, 403, r"Accept its licence at https://huggingface\.co/owner/name and set HF_TOKEN"),
        (errors.HfHubHTTPError, 401, r"Accept its licence"),
        (errors.HfHubHTTPError, 503, r"answered 503"),
        (errors.RepositoryNotFoundError, 404, r"there is no repository owner/name, or it is private"),
        (errors.RevisionNotFoundError, 404, r"no revision abc"),
        (errors.LocalEntryNotFoundError, None, r"cannot be reached.*set csm_weights to that folder"),
        (OSError, None, r"could not be fetched"),
    ],
)
def test_a_repository_that_cannot_be_had_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception], status: int | None, message: str
) -> None:
    source = hub_says(monkeypatch, error, status)
    with pytest.raises(StartupError, match=f"^csm_weights: .*{message}"):
        source.get("config.json")


def test_a_file_the_repository_lacks_is_none_and_a_pinned_revision_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def download(repo: str, name: str, *, revision: str | None, token: str | None) -> str:
        asked.append((repo, name, revision))
        if name == "absent.json":
            raise errors.EntryNotFoundError("no")
        (tmp_path / name).write_text("{}")
        return str(tmp_path / name)

    source = hub_says(monkeypatch, OSError, None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert source.json("absent.json") is None
    assert source.json("config.json") == {}
    assert asked[1] == ("owner/name", "config.json", "abc")
    with pytest.raises(StartupError, match=r"owner/name@abc has no file absent\.json"):
        source.get("absent.json")


def test_folders_that_hold_nothing_say_so(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="there is no folder"):
        Source(str(tmp_path / "nowhere")).get("config.json")
    with pytest.raises(StartupError, match=r"holds no model\.safetensors"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(StartupError, match="not a JSON object"):
        load(tmp_path)
