"""Fine-tuning a model that is there: differences that learn one clip, resumed, generated with, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file

from theseus_core import recipe as recipes
from theseus_core.config import validate
from theseus_core.contracts import Batch, Generator
from theseus_core.data.clip import Clip
from theseus_core.data.loader import window
from theseus_core.data.shards import Dataset
from theseus_core.data.writer import write_dataset
from theseus_core.errors import TheseusError
from theseus_core.model_folder import (
    Settings,
    export_model,
    find_model,
    fingerprint,
    load_model,
    load_tokenizer,
    save_model,
    vocabulary,
)
from theseus_core.nn.lora import Adapted
from theseus_core.pipeline import TextToVideo
from theseus_core.pretrained.lora import FILE
from theseus_core.registry import build
from theseus_core.train.generator import train_generator
from theseus_core.train.runs import Report, configure_run

CAPTION = "a red square moving right"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of one clip, and a model that has seen nothing of it."""
    folder = tmp_path_factory.mktemp("place")
    pixels = np.full((5, 16, 16, 3), 40, np.uint8)
    for t in range(5):
        pixels[t, 4:10, t : t + 6] = (220, 30, 30)
    write_dataset(folder / "dataset", [Clip(pixels, 8.0, CAPTION)], {"size": [16, 16]})
    torch.manual_seed(0)
    tokenizer = build("tokenizers", "causal_vae", "debug")
    text = build("text", "builtin", "debug", {"vocabulary": CAPTION.split()})
    generator = build(
        "generators", "dit", "debug", {"latent_channels": tokenizer.latent_channels, "text_width": text.width, "layers": 1}
    )
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    defaults = Settings(frames=5, height=16, width=16, fps=8.0, steps=2, guidance_scale=1.0, sampler="dpmpp_2m")
    save_model(folder / "base", tokenizer, text, generator, defaults, {})
    return folder


def settings(place: Path, **changes: Any) -> Any:
    train = {"steps": 8, "batch_size": 4, "lr": 3e-2, "warmup": 2, "checkpoint_every": 4, "log_every": 4, "dtype": "fp32"}
    train |= {"device": "cpu", "evaluate_every": 0, **changes.pop("train", {})}
    common = {"init": str(place / "base"), "windows": 1, "hold_out": 0.0, "prompts": 1, "caption_dropout": 0.0}
    return configure_run("transformer", "small", {**common, "lora": 8, **changes, "train": train})


def train(place: Path, name: str, **changes: Any) -> Path:
    return train_generator(settings(place, **changes), place / "dataset", None, place / name).folder


@torch.no_grad()
def loss_of(generator: Generator, place: Path) -> float:
    """Of the clip, over many times."""
    parts = load_model(place / "base")
    clip = Dataset.open(place / "dataset").read(0)
    latents = parts.tokenizer.encode(window(clip.frames, 5)[None]).repeat(64, 1, 1, 1, 1)
    torch.manual_seed(5)
    return generator.losses(Batch(latents=latents, text=parts.text_encoder.encode([CAPTION] * 64)), "model")["loss"].item()


@pytest.fixture(scope="module")
def learned(place: Path) -> Path:
    return train(place, "learned", train={"steps": 150})


def test_differences_learn_a_clip_and_nothing_else_is_kept(place: Path, learned: Path) -> None:
    base, tuned = load_model(place / "base").generator, load_model(learned / "model").generator
    assert loss_of(tuned, place) < 0.7 * loss_of(base, place)
    assert not any(isinstance(module, Adapted) for module in tuned.modules())
    kept = load_file(learned / "checkpoints" / "step-000150" / "model.safetensors")
    assert sum(tensor.numel() for tensor in kept.values()) == 4 * (8 * 64 + 64 * 8)  # one block, four layers, two factors
    assert {path.name for path in (learned / "model").iterdir()} == {FILE, "base.json", "model.json", "knows.json"}
    assert len(load_file(learned / "model" / FILE)) == 8


def test_a_run_of_differences_is_a_model(place: Path, learned: Path) -> None:
    whole = TextToVideo.load(learned, "cpu", "fp32").generate(CAPTION)
    beside = TextToVideo.load(place / "base", "cpu", "fp32", lora=[f"{learned}:1"]).generate(CAPTION)
    plain = TextToVideo.load(place / "base", "cpu", "fp32").generate(CAPTION)
    assert np.array_equal(whole.frames, beside.frames) and not np.array_equal(whole.frames, plain.frames)
    assert load_tokenizer(learned).latent_channels == load_tokenizer(place / "base").latent_channels
    assert vocabulary(learned / "model") == vocabulary(place / "base")
    assert fingerprint(learned / "model") != fingerprint(place / "base")


def test_a_recipe_keeps_what_was_laid_over_the_model(place: Path, learned: Path, tmp_path: Path) -> None:
    file = tmp_path / "laid.safetensors"
    file.write_bytes((learned / "model" / FILE).read_bytes())
    pipe = TextToVideo.load(place / "base", "cpu", "fp32", lora=[f"{file}:0.8"])
    common = recipes.describe(pipe, str(place / "base"), pipe.settings(), "none", "none", False)
    recipe = validate(recipes.Recipe, common | {"prompt": CAPTION, "seed": 3})
    assert recipe.lora == (f"{file}:0.8",)
    again = validate(recipes.Recipe, json.loads(recipe.model_dump_json()))
    first, second = recipes.make(pipe, recipe), recipes.make(recipes.load(again), again)
    assert np.array_equal(first.frames, second.frames)
    file.write_bytes((learned / "checkpoints" / "step-000150" / "model.safetensors").read_bytes())
    with pytest.raises(TheseusError, match="the LoRA is not the one"):
        recipes.load(again)


@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_resumed_is_uninterrupted(place: Path, quantize: str) -> None:
    whole = train(place, f"whole-{quantize}", quantize=quantize)
    stopped = settings(place, quantize=quantize)

    def stop(done: int, total: int, scores: dict[str, float]) -> None:
        if done == 6:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train_generator(stopped, place / "dataset", None, place / f"parts-{quantize}", Report(step=stop))
    assert not (place / f"parts-{quantize}" / "model").exists()
    parts = train(place, f"parts-{quantize}", quantize=quantize)
    ours, theirs = (load_file(run / "model" / FILE) for run in (whole, parts))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert any(ours[key].abs().max() > 0 for key in ours if "lora_B" in key)
    pipe = TextToVideo.load(whole, "cpu", "fp32", quantize)
    assert any(isinstance(module, Adapted) for module in pipe.generator.modules()) == (quantize == "nf4")
    assert pipe.generate(CAPTION).frames.shape == (5, 16, 16, 3)


def test_all_weights_go_on_from_where_they_are(place: Path) -> None:
    run = settings(place, lora=0, train={"steps": 2, "lr": 1e-4, "warmup": 0, "ema": 0.0})
    assert (run.frames, run.sampling.steps) == (5, 2)
    tuned = train_generator(run, place / "dataset", None, place / "all").model
    before, after = (load_model(folder).generator.state_dict() for folder in (place / "base", tuned))
    largest = max((after[key] - before[key]).abs().max().item() for key in before)
    assert 0 < largest < 1e-3


def test_a_base_that_has_changed_is_refused(place: Path, learned: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for path in (learned / "model").iterdir():
        (tmp_path / "model" / path.name).write_bytes(path.read_bytes())
    base = json.loads((tmp_path / "model/base.json").read_text())
    (tmp_path / "model/base.json").write_text(json.dumps({**base, "hash": "0" * 16}))
    with pytest.raises(TheseusError, match="has changed since"):
        load_model(tmp_path / "model")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init": ""}, "differences need a model that they are to: --lora 8"),
        ({"lora": 0, "quantize": "nf4"}, "weights that are trained cannot be quantized: --quantize nf4"),
        ({"quantize": "int8"}, "no gradient comes back: int8"),
        ({"train": {"distributed": "fsdp"}}, "too small to be sharded: fsdp"),
        ({"model": {"width": 32}}, "brings its own, and it cannot be another: model"),
        ({"text_family": "hub"}, "brings its own, and it cannot be another: text_family"),
        ({"sampling": {"sampler": "one-step"}}, "the generator has no sampler: one-step"),
        ({"sampling": {"top_k": 5}}, "draws no codes, and takes no: sampling.top_k"),
        ({"lora": 40}, "at most half of the model's width of 64, not: 40"),
        ({"init": "nothing/like/it"}, "no such model: nothing/like/it"),
    ],
)
def test_refusals(place: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TheseusError, match=message):
        train(place, "refused", **changes)
    assert not (place / "refused" / "model").exists()


def test_a_model_is_not_trained_over_itself(place: Path, learned: Path) -> None:
    run = settings(place, init=str(learned))
    with pytest.raises(TheseusError, match="would be overwritten"):
        train_generator(run, place / "dataset", None, learned, resume=False)
    assert (learned / "model" / FILE).exists()


def test_differences_can_be_exported_in_another_size_and_fetched(
    place: Path, learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    larger = export_model(learned / "model", tmp_path / "larger", size=(32, 32))
    assert (load_model(larger).defaults.height, load_model(larger).defaults.width) == (32, 32)
    needed = sorted(path.relative_to(larger).as_posix() for path in larger.rglob("*") if path.is_file())

    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        fetched = tmp_path / "fetched"
        for file in filter_repo_objects(needed, allow_patterns=allow_patterns):
            (fetched / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(larger / file, fetched / file)
        return str(fetched)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert sorted(path.name for path in find_model("someone/differences").iterdir()) == needed


def test_no_model_that_another_stands_on_is_overwritten(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "base", tmp_path / "first/model")
    short = {"steps": 1, "batch_size": 1}
    first = settings(place, init=str(tmp_path / "first"), lora=2, train=short)
    train_generator(first, place / "dataset", None, tmp_path / "second")
    onto = settings(place, init=str(tmp_path / "second"), lora=2, train=short)
    (tmp_path / "first/metrics.jsonl").touch()  # as the run that made it
    with pytest.raises(TheseusError, match="the model that training begins with would be overwritten"):
        train_generator(onto, place / "dataset", None, tmp_path / "first", resume=False)
    load_model(find_model(str(tmp_path / "second")))
