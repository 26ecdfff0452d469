"""`docs/training_config.yaml`: it has every key of a ddpm training, and each of them changes what it names."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from theseus_core.config import Tree, dump, merge, read_yaml
from theseus_core.data.clip import Clip
from theseus_core.data.writer import write_dataset
from theseus_core.errors import TheseusError
from theseus_core.generators import ddpm
from theseus_core.model_folder import CodeSettings, save_tokenizer
from theseus_core.registry import build, configure
from theseus_core.text import builtin
from theseus_core.train import generator, trainer
from theseus_core.train.config import TrainConfig
from theseus_core.train.generator import train_generator
from theseus_core.train.runs import Report, Sampling, TransformerRun, configure_run

SAMPLE = Path(__file__).parents[2] / "docs/training_config.yaml"
ELSEWHERE = {"init", "lora", "world", "model_preset", "text_preset", "model", "text", "sampling", "train"}

# The sample, small: the same keys. And for each of them another value, and where that shows.
SMALL: Tree = {
    "frames": 5,
    "windows": 1,
    "hold_out": 0.2,
    "caption_dropout": 0.1,
    "prompts": 1,
    "model": {"encoder_width": 16, "encoder_blocks": 1, "width": 32, "layers": 1, "heads": 2, "time_width": 16},
    "text": {"width": 16, "layers": 1, "heads": 2, "max_tokens": 4},
    "sampling": {"steps": 2},
    "train": {"steps": 5, "batch_size": 2, "checkpoint_every": 2, "evaluate_every": 4, "log_every": 1, "keep": 3, "warmup": 1}
    | {"dtype": "fp32", "threads": 1, "ema": 0.9, "lr": 0.01},
}
FLIPS: dict[str, tuple[Any, str]] = {
    "family": ("dit", "refused"),
    "frames": (9, "defaults"),
    "windows": (2, "weights"),
    "hold_out": (0.5, "weights"),
    "caption_dropout": (0.9, "weights"),
    "text_family": ("hub", "refused"),
    "quantize": ("int8", "refused"),
    "prompts": (2, "samples"),
    "model.consumes": ("pixels", "refused"),
    "model.stride": (2, "parameters"),
    "model.encoder_width": (32, "parameters"),
    "model.encoder_blocks": (2, "parameters"),
    "model.patch": (1, "parameters"),
    "model.patch_frames": (2, "parameters"),
    "model.width": (64, "parameters"),
    "model.layers": (2, "parameters"),
    "model.heads": (1, "parameters"),
    "model.time_width": (32, "parameters"),
    "model.pooled_text": (False, "parameters"),
    "model.frequencies": (True, "weights"),
    "model.sines": (True, "parameters"),
    "model.prediction": ("clean", "weights"),
    "model.schedule": ("linear", "weights"),
    "model.zero_terminal_snr": (False, "weights"),
    "model.snr_shift": (9.0, "weights"),
    "model.min_snr_gamma": (0.5, "weights"),
    "model.least_snr": (1.0, "weights"),
    "text.width": (32, "parameters"),
    "text.layers": (2, "parameters"),
    "text.heads": (1, "weights"),
    "text.max_tokens": (2, "parameters"),
    "text.lr_ratio": (0.5, "weights"),
    "sampling.sampler": ("ddpm", "defaults"),
    "sampling.steps": (3, "defaults"),
    "sampling.guidance_scale": (2.0, "defaults"),
    "train.steps": (6, "checkpoints"),
    "train.batch_size": (3, "weights"),
    "train.accumulate": (2, "weights"),
    "train.optimizer": ("adamw", "weights"),
    "train.lr": (0.001, "weights"),
    "train.muon_lr_ratio": (0.5, "weights"),
    "train.weight_decay": (0.5, "weights"),
    "train.betas": ([0.5, 0.9], "weights"),
    "train.warmup": (0, "weights"),
    "train.schedule": ("cosine", "weights"),
    "train.decay": (0.9, "weights"),
    "train.minutes": (1e-9, "checkpoints"),
    "train.clip": (0.01, "weights"),
    "train.skip_limit": (0, "refused"),
    "train.ema": (0.1, "weights"),
    "train.dtype": ("bf16", "weights"),
    "train.seed": (1, "weights"),
    "train.device": ("cuda:99", "refused"),
    "train.threads": (2, "while it trains"),
    "train.workers": (2, "while it trains"),
    "train.deterministic": (False, "while it trains"),
    "train.compile": (True, "while it trains"),
    "train.gradient_checkpointing": (True, "while it trains"),
    "train.distributed": ("ddp", "refused"),
    "train.replicas": (2, "refused"),
    "train.merge_every": (50, "refused"),
    "train.last_pass": (2, "refused"),
    "train.checkpoint_every": (3, "checkpoints"),
    "train.keep": (1, "checkpoints"),
    "train.best": ("loss", "checkpoints"),
    "train.log_every": (5, "journal"),
    "train.evaluate_every": (3, "journal"),
}
BESIDE: dict[str, Tree] = {  # what must be otherwise for a key to show
    "model.sines": {"model": {"frequencies": True}},
    "train.best": {"train": {"keep": 1}},
    "train.minutes": {"train": {"schedule": "constant"}},
}


def leaves(tree: Tree, before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= leaves(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return found


def at(path: str, value: Any) -> Tree:
    for key in reversed(path.split(".")):
        value = {key: value}
    tree: Tree = value
    return tree


def test_the_sample_has_every_key_and_says_what_it_is() -> None:
    decided = {"latent_channels", "text_width", "vocabulary"}
    groups: dict[str, Any] = {"model": ddpm.Config, "text": builtin.Config, "sampling": Sampling, "train": TrainConfig}
    keys = set(TransformerRun.model_fields) - ELSEWHERE
    keys |= {f"{group}.{key}" for group, kind in groups.items() for key in set(kind.model_fields) - decided}
    keys -= {f"sampling.{key}" for key in CodeSettings.model_fields}  # this model draws no codes
    assert set(leaves(read_yaml(SAMPLE))) == keys == set(FLIPS)
    settings = [line for line in SAMPLE.read_text().splitlines() if re.match(r" *\w+: .", line)]
    assert len(settings) == len(keys) and all(re.search(r"  # \w", line) for line in settings)


def test_the_sample_is_what_is_trained_without_it() -> None:
    """But for the best checkpoint, which the sample keeps."""
    plain = configure_run("transformer", "small", {"family": "ddpm"})
    sample = configure_run("transformer", "small", read_yaml(SAMPLE))
    assert merge(dump(plain)["train"], {"best": "-loss"}) == dump(sample)["train"] and plain.sampling == sample.sampling
    assert configure("generators", "ddpm") == configure("generators", "ddpm", changes=sample.model)
    assert configure("text", "builtin") == configure("text", "builtin", changes=sample.text)
    rest = set(TransformerRun.model_fields) - {"model", "text", "train", "sampling"}
    assert all(getattr(plain, key) == getattr(sample, key) for key in rest)


def configure_all(change: Tree) -> None:
    run = configure_run("transformer", "small", read_yaml(SAMPLE), change)
    configure("generators", run.family, run.model_preset, run.model, prefix="model.")
    configure("text", run.text_family, run.text_preset, run.text, prefix="text.")


@pytest.mark.parametrize("path", list(FLIPS))
def test_a_key_that_is_misspelled_is_refused_with_the_nearest(path: str) -> None:
    *group, key = path.split(".")
    wrong = ".".join([*group, key[:-1] + key[-1] * 2])
    with pytest.raises(TheseusError, match=f"unknown key: {re.escape(wrong)}") as caught:
        configure_all(at(wrong, FLIPS[path][0]))
    assert f"did you mean {key}?" in (caught.value.hint or "")


# --- each key, in a training of five steps ---


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    rng = np.random.default_rng(0)
    clips = [Clip(rng.integers(0, 255, (8, 32, 32, 3), dtype=np.uint8), 12.0, f"noise and more noise {i}") for i in range(8)]
    write_dataset(folder / "dataset", clips, {"size": [32, 32]})
    torch.manual_seed(0)
    save_tokenizer(folder / "vae/model", build("tokenizers", "causal_vae", "debug"), {"seed": 0})
    return folder


def observe(data: Path, tree: Tree, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Train as the settings say, and tell what there is to see of it."""
    during: dict[str, Any] = {}
    drawn, again = trainer.drawn_ahead, ddpm.checkpoint
    patch.setattr(generator, "contact_sheet", lambda *_: None)
    patch.setattr(generator, "plot", lambda *_: None)
    patch.setattr(nn.Module, "compile", lambda *_: during.update(compiled=True))
    patch.setattr(trainer, "drawn_ahead", lambda *args: (during.update(workers=args[-1]), drawn(*args))[1])
    patch.setattr(ddpm, "checkpoint", lambda *args, **more: (during.update(again=True), again(*args, **more))[1])

    def step(done: int, total: int, scores: dict[str, float]) -> None:
        during.update(threads=torch.get_num_threads(), deterministic=torch.are_deterministic_algorithms_enabled())

    output = Path(tempfile.mkdtemp(dir=data))
    try:
        run = configure_run("transformer", "small", tree)
        train_generator(run, data / "dataset", data / "vae", output / "run", Report(step=step))
    except TheseusError as error:
        return {"refused": error.message}
    return {"refused": "", "while it trains": during, **left_in(output / "run")}


def left_in(run: Path) -> dict[str, Any]:
    weights = [path for part in ("generator", "text_encoder") for path in sorted((run / "model" / part).glob("*.safetensors"))]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "parameters": lines[0]["parameters"],
        "weights": [hashlib.sha256(path.read_bytes()).hexdigest() for path in weights],
        "checkpoints": sorted(path.name for path in (run / "checkpoints").iterdir()),
        "samples": sorted(path.name for path in (run / "samples").rglob("*.mp4")),
        "defaults": json.loads((run / "model/model.json").read_text())["defaults"],
        "journal": [(line["step"], sorted(line)) for line in lines],
    }


def give_no_numbers(patch: pytest.MonkeyPatch) -> None:
    """Gradients that must be skipped."""
    losses = ddpm.Model.losses

    def steep(*args: Any) -> dict[str, torch.Tensor]:
        loss = losses(*args)["loss"]
        return {"loss": loss + (loss - loss.detach()).sqrt()}

    patch.setattr(ddpm.Model, "losses", steep)


@pytest.fixture(scope="module")
def usual(data: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        return observe(data, merge(read_yaml(SAMPLE), SMALL), patch)


@pytest.mark.parametrize("path", list(FLIPS))
def test_a_key_changes_what_it_names(path: str, data: Path, usual: dict[str, Any]) -> None:
    assert not usual["refused"]
    value, where = FLIPS[path]
    before = merge(read_yaml(SAMPLE), SMALL, BESIDE.get(path, {}))
    assert leaves(before)[path] != value
    with pytest.MonkeyPatch.context() as patch:
        if path == "train.skip_limit":
            give_no_numbers(patch)
        found = observe(data, merge(before, at(path, value)), patch)
    with pytest.MonkeyPatch.context() as patch:
        if path == "train.skip_limit":
            give_no_numbers(patch)
        without = observe(data, before, patch) if path in BESIDE or path == "train.skip_limit" else usual
    assert found[where] != without[where]
    assert where == "refused" or not found["refused"]


def test_the_same_settings_give_the_same(data: Path, usual: dict[str, Any]) -> None:
    """Else a key might seem to change what changes by itself."""
    with pytest.MonkeyPatch.context() as patch:
        assert observe(data, merge(read_yaml(SAMPLE), SMALL), patch) == usual
