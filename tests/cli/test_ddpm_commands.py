"""The `ddpm` family by the commands: a dataset becomes a model, and words a video of the size, rate and length asked for."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
import torch
from tiny_clip import save_clip
from torch import nn

from theseus_core.data.clip import Clip
from theseus_core.data.writer import write_dataset
from theseus_core.model_folder import Settings, save_model, save_tokenizer
from theseus_core.registry import build

if TYPE_CHECKING:
    from conftest import Theseus

QUICK = ("--family", "ddpm", "--preset", "debug", "--steps", "2", "--set", "prompts=1", "--set", "train.evaluate_every=0")


def part(group: Any, name: str, preset: str = "debug", changes: dict[str, Any] | None = None) -> Any:
    """A network of random weights in which nothing is zero."""
    torch.manual_seed(0)
    module: Any = build(group, name, preset, changes)
    for parameter in module.parameters():
        if not parameter.detach().any():
            nn.init.normal_(parameter, std=0.1)
    return module


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = part("text", "builtin", changes={"vocabulary": ["a", "red", "circle"]})
    defaults = Settings(frames=17, height=32, width=32, fps=8, steps=2, guidance_scale=2.0, sampler="ddim")
    folder = tmp_path_factory.mktemp("ddpm") / "model"
    return save_model(folder, part("tokenizers", "causal_vae"), text, part("generators", "ddpm"), defaults, {"seed": 0})


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a dataset of six clips and a tokenizer, entered."""
    monkeypatch.chdir(tmp_path)
    write_clips([f"noise {i}" for i in range(6)])
    save_tokenizer(tmp_path / "runs/vae/model", part("tokenizers", "causal_vae"), {"seed": 0})
    return tmp_path


def write_clips(captions: list[str]) -> None:
    rng = np.random.default_rng(0)
    clips = [Clip(rng.integers(0, 255, (6, 16, 16, 3), dtype=np.uint8), 12.0, caption) for caption in captions]
    write_dataset("dataset", clips, {"size": [16, 16]})


def shape_of(path: Path) -> tuple[int, int, int, Fraction | None]:
    with av.open(str(path)) as container:
        rate = container.streams.video[0].average_rate
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return (len(frames), *frames[0].shape[:2], rate)


def test_train_generate_and_go_on(theseus: Theseus, data: Path) -> None:
    result = theseus("train", "transformer", *QUICK, "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["scores"].keys() == {"loss", "mse", "seconds"}
    described = json.loads(Path("runs/transformer/model/model.json").read_text())
    assert described["parts"]["generator"] == "ddpm" and described["defaults"]["sampler"] == "ddim"
    assert described["defaults"]["fps"] == 12
    assert theseus("train", "transformer", *QUICK, "--steps", "3").code == 0
    for sampler in ("ddpm", "ddim", "dpmpp_2m"):
        result = theseus("generate", "noise 1", "--sampler", sampler, "-o", f"{sampler}.mp4")
        assert result.code == 0, result.err
        assert shape_of(Path(f"{sampler}.mp4")) == (5, 16, 16, 12)
    refused = theseus("generate", "noise 1", "--sampler", "dpmpp_2")
    assert refused.code == 1 and "did you mean dpmpp_2m?" in refused.err


def test_pixels_take_no_tokenizer(theseus: Theseus, data: Path) -> None:
    shutil.rmtree("runs")
    pixels = ("--set", "model.consumes=pixels", "--set", "model.stride=4", "--set", "model.patch=2")
    result = theseus("train", "transformer", *QUICK, *pixels)
    assert result.code == 0, result.err
    assert "5 x 16 x 16 pixels" in result.err
    assert theseus("generate", "noise 1", "--frames", 4, "--size", "24x16", "-o", "out.mp4").code == 0
    assert shape_of(Path("out.mp4")) == (4, 16, 24, 12)


def test_epsilon_needs_some_signal_at_the_last_level(theseus: Theseus, data: Path) -> None:
    refused = theseus("train", "transformer", *QUICK, "--set", "model.prediction=epsilon")
    assert refused.code == 1 and "model.zero_terminal_snr" in refused.err and not Path("runs/transformer").exists()
    given = ("--set", "model.prediction=epsilon", "--set", "model.zero_terminal_snr=false")
    assert theseus("train", "transformer", *QUICK, *given).code == 0


def test_a_frozen_clip_and_captions_that_are_too_long_for_it(theseus: Theseus, data: Path) -> None:
    shutil.rmtree("dataset")
    write_clips(["noise 1", "noise 2", "x" * 100])
    result = theseus("train", "transformer", *QUICK, "--text", save_clip(data / "clip"))
    assert result.code == 0, result.err
    said = " ".join(result.err.split())
    assert "captions cut to 77 tokens: 1 of 3; the text encoder takes no more" in said
    encoder = json.loads(Path("runs/transformer/model/text_encoder/config.json").read_text())
    assert encoder["family"] == "hub" and encoder["config"]["max_tokens"] == 77
    made = [theseus("generate", "y" * 75 + end, "-o", "out.mp4") for end in ("", "yy")]
    assert [each.code for each in made] == [0, 0]
    assert "has no effect" not in made[0].err
    assert "the model reads 77 tokens, what follows has no effect: 79 tokens" in " ".join(made[1].err.split())


@pytest.mark.parametrize(
    ("flags", "expected", "note"),
    [
        ("--size 64x96 --fps 24 --seconds 2", (48, 96, 64, 24), "it makes 49 frames, of which the last 1 are cut off"),
        ("--size 96x64 --fps 30 --seconds 1", (30, 64, 96, 30), "33 frames, of which the last 3 are"),
        ("--size 64 --fps 12.5 --seconds 0.4", (5, 64, 64, Fraction(25, 2)), ""),
        ("--size 80x64 --frames 9 --fps 8", (9, 64, 80, 8), ""),
        ("--size 16 --fps 8 --seconds 10", (80, 16, 16, 8), "81 frames, of which the last 1 are"),
        ("--size 1024x32 --frames 5", (5, 32, 1024, 8), ""),
    ],
)
def test_size_rate_and_length_are_those_of_the_file(
    theseus: Theseus, model: Path, tmp_path: Path, flags: str, expected: tuple[int, int, int, Fraction], note: str
) -> None:
    out = tmp_path / "out.mp4"
    result = theseus("generate", "a red circle", "--model", model, "-o", out, *flags.split())
    assert result.code == 0, result.err
    assert shape_of(out) == expected
    said = " ".join(result.err.split())
    assert note in said and f"{expected[0]} frames of {expected[2]}x{expected[1]} at {float(expected[3]):g} fps" in said
    recipe = json.loads(out.with_name("out.mp4.json").read_text())["recipe"]
    assert (recipe["height"], recipe["width"], recipe["fps"]) == expected[1:]
    if "--seconds" in flags:
        assert recipe["seconds"] == float(flags.split()[-1])


def test_a_video_of_so_many_seconds_is_made_again(theseus: Theseus, model: Path, tmp_path: Path) -> None:
    out, again = tmp_path / "out.mp4", tmp_path / "again.mp4"
    assert theseus("generate", "a circle", "--model", model, "--seconds", 1, "--fps", 10, "-o", out).code == 0
    assert theseus("replay", tmp_path / "out.mp4.json", "-o", again).code == 0
    assert out.read_bytes() == again.read_bytes() and shape_of(again)[0] == 10


def test_lengths_that_cannot_be_are_refused(theseus: Theseus, model: Path, tmp_path: Path) -> None:
    common = ("generate", "a circle", "--model", model, "-o", tmp_path / "out.mp4")
    both = theseus(*common, "--seconds", 1, "--frames", 9)
    assert both.code == 1 and "both say how long it is: --seconds 1" in both.err
    for seconds in ("0", "-1", "nan", "0.01"):
        refused = theseus(*common, f"--seconds={seconds}")
        assert refused.code == 1 and "no clip is so many seconds long" in refused.err
    assert not (tmp_path / "out.mp4").exists()


def test_evaluate_measures_consistency_in_time(theseus: Theseus, model: Path, tmp_path: Path) -> None:
    result = theseus("evaluate", "--model", model, "--clips", 2, "-o", tmp_path / "evaluation", "--json")
    assert result.code == 0, result.err
    report = json.loads((tmp_path / "evaluation/shapes/report.json").read_text())
    assert report["warping_error"] == json.loads(result.out)["warping_error"] > 0
    assert all(row["warping_error"] > 0 for row in report["prompts"])
    assert "what no movement explains" in result.err
