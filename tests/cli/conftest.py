"""A folder with a trained run in it (of random weights), and the command line as a function."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from theseus_cli.main import main
from theseus_core.model_folder import Settings, save_model, save_tokenizer
from theseus_core.registry import build


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str


Theseus = Callable[..., Result]
KNOWS = {"shapes": ["a red circle", "circle"], "scenes": ["a waterfall", "waterfall"]}


@pytest.fixture
def theseus(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Theseus:
    """Run a command, as `theseus("generate", "a red circle")`."""
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        code = end.value.code
        return Result(code if isinstance(code, int) else 0, out, err)

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    tokenizer = build("tokenizers", "causal_vae", "debug")
    text_encoder = build("text", "builtin", "debug", {"vocabulary": ["a", "red", "circle", "waterfall"]})
    generator = build("generators", "dit", "debug")
    for parameter in [*tokenizer.parameters(), *generator.parameters()]:
        if not parameter.detach().any():
            nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp("trained")
    defaults = Settings(frames=5, height=16, width=32, fps=8, steps=2, guidance_scale=3.0, sampler="ddim")
    save_model(folder / "runs/transformer/model", tokenizer, text_encoder, generator, defaults, {"seed": 0}, KNOWS)
    save_tokenizer(folder / "runs/vae/model", tokenizer, {"seed": 0})
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: empty but for `runs/`."""
    shutil.copytree(trained / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path
