"""What a model costs: whose minutes count, which weights, and whose memory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from theseus_core.config import Tree, validate
from theseus_core.device import peak_memory
from theseus_core.errors import TheseusError
from theseus_core.evaluate.cost import Trained, count_weights, how_trained, measure_memory
from theseus_core.files import write_json
from theseus_core.model_folder import Parts, Settings, fingerprint, save_model
from theseus_core.recipe import Recipe
from theseus_core.registry import build

MODEL = {"tokenizer": "causal_vae", "text_encoder": "builtin", "generator": "dit"}
DEFAULTS: Tree = {
    "frames": 17,
    "height": 16,
    "width": 16,
    "fps": 8,
    "steps": 1,
    "guidance_scale": 1.0,
    "sampler": "ddim",
}


def write_run(run: Path, seconds: float, made_by: Tree, weights: float | None, parts: Tree = MODEL) -> Path:
    """A run as far as its journal, its description and its tokenizer go; that has no weights at all where `weights` is None."""
    folder = run / "model"
    write_json(folder / "model.json", {"format": 1, "parts": parts, "defaults": DEFAULTS, "made_by": made_by})
    (folder / "tokenizer").mkdir()
    save_file({} if weights is None else {"weight": torch.full((3,), weights)}, folder / "tokenizer/model.safetensors")
    lines = [{"step": 0}, {"step": 10, "seconds": seconds / 2}, {"step": 20, "seconds": seconds}, {"step": 20, "eval/seconds": 1.0}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def vae(tmp_path: Path) -> Path:
    return write_run(tmp_path / "runs/vae", 60, {}, 1.0, {"tokenizer": "causal_vae"})


@pytest.mark.usefixtures("vae")
def test_the_tokenizers_minutes_count_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tmp_path / "runs/dit", 120, {"tokenizer": "runs/vae"}, 1.0)
    assert how_trained(folder) == Trained(20, 2.0, 1.0)  # it is found from around the run
    assert how_trained(folder).total == 3.0
    monkeypatch.chdir(tmp_path)
    assert how_trained(Path("runs/dit/model")) == Trained(20, 2.0, 1.0)


@pytest.mark.usefixtures("vae")
def test_what_a_run_began_with_counts_with_all_that_is_behind_it(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/dit", 120, {"tokenizer": "runs/vae"}, 1.0)
    assert how_trained(write_run(tmp_path / "runs/more", 30, {"tokenizer": "runs/dit"}, 1.0)) == Trained(20, 0.5, 3.0)


def test_without_a_tokenizer_to_train_nothing_was_before(tmp_path: Path) -> None:
    assert how_trained(write_run(tmp_path / "runs/pixels", 120, {}, None)) == Trained(20, 2.0, 0.0)


def test_what_no_journal_says_is_unknown(tmp_path: Path, vae: Path) -> None:
    of_another = write_run(tmp_path / "runs/dit", 120, {"tokenizer": "runs/vae"}, 2.0)  # which was trained anew since
    assert how_trained(of_another) == Trained(20, 2.0, None)
    assert how_trained(of_another).total is None
    moved = vae.parent / "elsewhere"
    vae.rename(moved)
    assert how_trained(moved) == Trained(None, None, 0.0)
    assert how_trained(moved).total is None


def parts() -> Parts:
    torch.manual_seed(0)
    text = build("text", "builtin", "debug", {"vocabulary": ["a", "circle"]})
    defaults = validate(Settings, DEFAULTS)
    return Parts(build("tokenizers", "causal_vae", "debug"), text, build("generators", "dit", "debug"), defaults)


def test_weights_are_counted_by_parts() -> None:
    model = parts()
    counts = count_weights(model)
    assert counts["generator"] == sum(p.numel() for p in model.generator.parameters())
    assert counts["total"] == sum(count for name, count in counts.items() if name != "total")
    averaged = build("tokenizers", "vqvae", "debug")  # its codebook follows averages, and is no parameter
    with_codes = count_weights(Parts(averaged, model.text_encoder, model.generator, model.defaults))["tokenizer"]
    assert with_codes > sum(p.numel() for p in averaged.parameters())


def test_what_is_for_training_alone_stands_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    model = parts()
    before = count_weights(model)
    words = dict(model.generator.get_submodule("text_in").named_parameters())

    def of_a_phase(phase: str) -> list[tuple[str, torch.nn.Parameter]]:
        mine = phase == "discriminator"
        return [(name, p) for name, p in model.generator.named_parameters() if name.startswith("text_in.") == mine]

    monkeypatch.setattr(model.generator, "phases", ("discriminator", "generator"))
    monkeypatch.setattr(model.generator, "phase_parameters", of_a_phase)
    counts = count_weights(model)
    assert counts["training"] == sum(p.numel() for p in words.values())
    assert counts["generator"] == before["generator"] - counts["training"]
    assert counts["total"] == before["total"]


def test_memory_is_that_of_one_clip_and_not_of_who_asks(tmp_path: Path) -> None:
    model = parts()
    folder = save_model(tmp_path / "model", model.tokenizer, model.text_encoder, model.generator, model.defaults, {})
    where = {"model": str(folder), "model_hash": fingerprint(folder), "device": "cpu", "dtype": "fp32"}
    recipe = validate(Recipe, {**DEFAULTS, **where, "prompt": "a circle", "seed": 0})
    held = np.ones(2**28)  # 2 GiB, all of it touched
    memory = measure_memory(recipe, tmp_path / "memory.json")
    assert 20 * 2**20 < memory.libraries < memory.peak < held.nbytes < peak_memory()
    assert memory.device is None
    kept = json.loads((tmp_path / "memory.json").read_text())
    write_json(tmp_path / "memory.json", kept | {"memory": {"peak": 3, "libraries": 2, "device": 1}})
    assert measure_memory(recipe, tmp_path / "memory.json").peak == 3, "what was measured of this recipe is not measured again"
    with pytest.raises(TheseusError, match=r"ended by: .*the model has changed since"):
        measure_memory(recipe.model_copy(update={"model_hash": "0" * 16}), tmp_path / "memory.json")
