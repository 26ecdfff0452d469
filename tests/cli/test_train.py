"""`theseus train`: what its flags decide, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from theseus_cli.commands.train import _text_flags
from theseus_core.data.clip import Clip
from theseus_core.data.writer import write_dataset

if TYPE_CHECKING:
    from conftest import Theseus

QUICK = ("--preset", "debug", "--set", "train.evaluate_every=0", "--set", "pictures=1")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a dataset of six clips, entered."""
    monkeypatch.chdir(tmp_path)
    write_dataset("dataset", noise(), {"size": [16, 16]})
    return tmp_path


def noise() -> list[Clip]:
    rng = np.random.default_rng(0)
    return [Clip(rng.integers(0, 255, (6, 16, 16, 3), dtype=np.uint8), 8.0, f"noise {i}") for i in range(6)]


def settings(run: str) -> Any:
    return json.loads(Path(run, "config.json").read_text())


def test_the_strongest_setting_wins(theseus: Theseus, data: Path) -> None:
    Path("run.yaml").write_text("train:\n  lr: 1.0e-2\n  clip: 2.5\n  warmup: 3\nframes: 5\n")
    flags = ["--config", "run.yaml", "--lr", "0.02", "--steps", "2", "--seed", "4", "--optimizer", "adamw", "--workers", "2"]
    result = theseus("train", "vae", *QUICK, *flags, "--set", "train.warmup=1", "--json")
    assert result.code == 0, result.err
    train = settings("runs/vae")["train"]
    assert (train["lr"], train["clip"], train["warmup"], train["steps"]) == (0.02, 2.5, 1, 2)
    assert (train["seed"], train["optimizer"], train["workers"]) == (4, "adamw", 2)
    assert json.loads(result.out)["model"] == "runs/vae/model"
    assert "next: theseus train transformer\n" in result.err


def test_epochs_become_steps(theseus: Theseus, data: Path) -> None:
    assert theseus("train", "vae", *QUICK, "--epochs", "2", "--set", "hold_out=0").code == 0
    assert settings("runs/vae")["train"]["steps"] == 6  # six clips, batches of two


def test_replicas_are_started_by_the_command(theseus: Theseus, data: Path) -> None:
    shutil.rmtree("dataset")
    write_dataset("dataset", noise(), {"size": [16, 16]}, chunk_size=2)
    flags = ["--family", "vqvae", "--replicas", "2", "--merge-every", "2", "--epochs", "4", "--set", "hold_out=0"]
    result = theseus("train", "vae", *QUICK, *flags, "--json")
    assert result.code == 0, result.err
    train = settings("runs/vae")["train"]
    assert (train["steps"], train["merge_every"], train["last_pass"], train["replicas"]) == (12, 6, 3, 2)
    assert settings("runs/vae")["runs_on"]["distributed"] == "replicas"
    assert Path(json.loads(result.out)["model"], "tokenizer/model.safetensors").exists()
    short = theseus("train", "vae", *QUICK, *flags, "--epochs", "1")
    assert short.code == 1 and "it must be below the steps in all: 3" in short.err
    other = theseus("train", "vae", *QUICK, *flags, "--merge-every", "1")
    assert other.code == 1 and "was trained with another merge_every: 6, now 3" in other.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--replicas", "2", "--epochs", "4"],
            "2 replicas need a chunk of clips each, and those to train on are in so many chunks: 1",
        ),
        (["--replicas", "2", "--merge-every", "1", "--set", "train.merge_every=2"], "both say when to average: --merge-every 1"),
        (["--merge-every", "1"], "nothing to average without --replicas: --merge-every 1"),
        (["--epochs", "nan"], "--epochs must be a number above 0, not: nan"),
        (["--epochs", "1", "--set", "train.steps=7"], "both say how long to train: --epochs 1"),
        (["--epochs", "1", "--steps", "7"], "both say how long to train: --epochs 1"),
        (["--set", "model.widht=3"], "unknown key: model.widht"),
        (["--set", "train.lr"], "not a setting of the form a.b=value: train.lr"),
        (["--config", "missing.yaml"], "cannot read the config file: missing.yaml"),
        (["--config", "empty.yaml"], "train is a group of settings and cannot be: None"),
        (["--preset", "smal"], "no preset: smal"),
        (["--scenes", "shapes"], "settings of the world are given, and the data is a dataset: dataset"),
        (["--set", "world=3"], "settings of the world are given"),
        (["--hold-out", "0.25"], "--set hold_out=0.25"),
        (["--data", "elsewhere"], "no prepared dataset at: elsewhere"),
        (["-o", "dataset"], "dataset"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_written(theseus: Theseus, data: Path, flags: list[str], message: str) -> None:
    Path("empty.yaml").write_text("train:\n")
    before = sorted(path for path in Path("dataset").rglob("*"))
    result = theseus("train", "vae", *QUICK, *flags)
    assert result.code == 1 and message in result.err
    assert not Path("runs").exists() and sorted(Path("dataset").rglob("*")) == before


def test_one_rank_speaks_and_errors_are_every_rank_s_own(theseus: Theseus, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    result = theseus("train", "vae", "--preset", "smal")
    assert result.code == 1 and "error: " in result.err


def test_text_is_the_builtin_encoder_a_preset_or_a_name() -> None:
    assert _text_flags("builtin") == {"text_family": "builtin"}
    assert _text_flags("clip") == {"text_family": "hub", "text_preset": "clip"}
    assert _text_flags("someone/model")["text"] == {"source": "someone/model"}


def test_a_path_with_spaces_is_quoted_in_what_comes_next(theseus: Theseus, data: Path) -> None:
    Path("dataset").rename("my data")
    result = theseus("train", "vae", *QUICK, "--steps", "1", "--data", "my data", "-o", "runs/a b")
    assert result.code == 0, result.err
    assert "next: theseus train transformer --data 'my data' --vae 'runs/a b'" in result.err
