"""`theseus compare`, with models of random weights: the same prompts for all, what is written, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from theseus_core.evaluate.compare import _short
from theseus_core.files import write_json
from theseus_core.model_folder import Settings, save_model
from theseus_core.registry import build

Theseus = Callable[..., Any]

SMALL = ("--clips", 2, "--frames", 17)
HELD = ["red circle moving up", "blue star"]


@pytest.fixture(scope="module")
def made(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs of unlike families: one says how long it was trained, the other does not."""
    folder = tmp_path_factory.mktemp("compared")
    shutil.copytree(trained / "runs", folder / "runs")
    (folder / "runs/transformer").rename(folder / "runs/latents")
    torch.manual_seed(1)
    codes = build("tokenizers", "vqvae", "debug", {"time_factor": 4, "space_factor": 8})
    text = build("text", "builtin", "debug", {"vocabulary": ["a", "red", "circle"]})
    generator = build("generators", "autoregressive", "debug")
    defaults = Settings(frames=17, height=16, width=16, fps=8, steps=2, guidance_scale=1.0, sampler="masked")
    save_model(folder / "runs/codes/model", codes, text, generator, defaults, {})
    say(folder / "runs/latents", {"tokenizer": "runs/vae", "settings": {"world": {"hold_out": HELD}}})
    say(folder / "runs/codes", {"settings": {"world": {"hold_out": HELD}}})
    for run, seconds in (("latents", 120.0), ("vae", 60.0)):
        (folder / f"runs/{run}/metrics.jsonl").write_text(json.dumps({"step": 40, "seconds": seconds}) + "\n")
    (folder / "runs/empty").mkdir()
    return folder


def say(run: Path, made_by: dict[str, Any]) -> None:
    described = run / "model/model.json"
    write_json(described, json.loads(described.read_text()) | {"made_by": made_by})


@pytest.fixture
def there(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    return made


def test_two_families_on_the_same_prompts(theseus: Theseus, there: Path) -> None:
    result = theseus("compare", "runs/latents", "runs/codes", *SMALL)
    assert (result.code, result.out) == (0, "comparison/shapes\n"), result.err
    for words in (
        "model: runs/latents, runs/codes, 2 prompts of shapes",
        "and 2 of what is held out: red circle moving up; blue star",
        "all three, % right of what was never shown",
        "minutes of training",
        "no journal says how long these, or what they were built on, were trained: codes",
    ):
        assert words in result.err, result.err
    folder = there / "comparison/shapes"
    files = {"comparison.json", "comparison.md", "comparison.png", "contact_sheet.png", "latents", "codes"}
    assert {path.name for path in folder.iterdir()} == files
    asked = [[json.loads(line) for line in (folder / run / "clips/index.jsonl").open()] for run in ("latents", "codes")]
    assert asked[0] == asked[1]
    assert len(asked[0]) == 6  # two of each, and two again from another seed


def test_all_figures_are_there(theseus: Theseus, there: Path) -> None:
    found = json.loads(theseus("compare", "runs/latents", "runs/codes", *SMALL, "--json").out)
    assert found == json.loads((there / "comparison/shapes/comparison.json").read_text())
    assert found["prompts"] == {"seen": 2, "held_out": 2}
    latents, codes = found["models"]
    assert (latents["label"], codes["label"]) == ("latents", "codes")
    assert codes["families"] == {"tokenizer": "vqvae", "text_encoder": "builtin", "generator": "autoregressive"}
    assert latents["trained"] == {"steps": 40, "minutes": 2.0, "before": 1.0, "total": 3.0}
    assert codes["trained"]["total"] is None
    for model, run in ((latents, "latents"), (codes, "codes")):
        report = json.loads((there / f"comparison/shapes/{run}/report.json").read_text())
        assert model["evaluation"] == {key: value for key, value in report.items() if key not in ("pairs", "prompts")}
        assert model["evaluation"]["scores"]["held_out"]["all three"]["of"] == 2
        assert model["evaluation"]["seconds_per_clip"] > 0
        assert model["memory"]["peak"] > model["memory"]["libraries"] > 20 * 2**20
        assert model["bytes"] == sum(path.stat().st_size for path in (there / f"runs/{run}/model").rglob("*") if path.is_file())
    table = [line.split(" | ") for line in (there / "comparison/shapes/comparison.md").read_text().splitlines()]
    cells = {row[0].removeprefix("| "): [cell.removesuffix(" |") for cell in row[1:]] for row in table if len(row) == 3}
    assert cells["generator"] == ["dit", "autoregressive"]
    assert cells["minutes of training"] == ["3.0", "-"]
    assert cells["steps of training"] == ["40", "-"]
    with Image.open(there / "comparison/shapes/contact_sheet.png") as sheet:
        assert sheet.width > 4 * 4 * 64  # four prompts, four frames each


def test_a_second_start_makes_what_is_missing(theseus: Theseus, there: Path) -> None:
    words = ("compare", "runs/latents", *SMALL, "-o", "again", "--json")
    first = theseus(*words).out
    folder = there / "again/shapes/latents"
    missing, others = folder / "clips/seen-0001.mp4", sorted(folder.glob("clips/*-000?.mp4"))
    before = {path: path.stat().st_mtime_ns for path in [*others, folder / "memory.json"]}
    assert theseus(*words).out == first
    assert {path: path.stat().st_mtime_ns for path in before} == before
    content = missing.read_bytes()
    missing.unlink()
    assert theseus(*words).code == 0
    assert missing.read_bytes() == content
    assert [path for path in before if path.stat().st_mtime_ns != before[path]] == [missing]


def test_what_only_some_never_saw_is_said(theseus: Theseus, there: Path) -> None:
    shutil.copytree(there / "runs/codes", there / "runs/other")
    say(there / "runs/other", {"settings": {"world": {"hold_out": HELD[:1]}}})
    try:
        result = theseus("compare", "runs/codes", "runs/other", *SMALL, "-o", "unlike", "--json")
        assert "shown to some of them in training and not to others, and asked of all as seen: blue star" in result.err
        assert json.loads(result.out)["hold_out"] == HELD[:1]
    finally:
        shutil.rmtree(there / "runs/other")


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        ("runs/latents runs/none", "no such model: runs/none", "runs/latents"),
        ("runs/latents runs/empty", "no model in this folder yet: runs/empty", "start it again"),
        ("runs/codes runs/vae", "this holds a tokenizer and no generator: runs/vae/model", "theseus train"),
        ("runs/codes runs/latents runs/codes/model", "the same model is named twice: runs/codes/model", "once"),
        ("runs/codes runs/latents", "can be judged from 17 frames, not from: 5", "--frames 17"),
        ("runs/codes --suite scenes --objects 1", "only of shapes a number can be asked for: 1", "--objects"),
    ],
)
def test_mistakes_are_said_before_any_work(theseus: Theseus, there: Path, arguments: str, error: str, hint: str) -> None:
    result = theseus("compare", *arguments.split(), "-o", "refused")
    assert (result.code, result.out) == (1, "")
    assert [line for line in result.err.splitlines() if line.startswith("error: ") and error in line], result.err
    assert [line for line in result.err.splitlines() if line.startswith("hint: ") and hint in line], result.err
    assert not (there / "refused").exists()


def test_labels_are_as_short_as_can_be() -> None:
    assert _short([("home", "runs", "dit"), ("home", "runs", "gan")]) == ["dit", "gan"]
    assert _short([("a", "runs", "dit"), ("b", "runs", "dit"), ("world",)]) == ["a-runs-dit", "b-runs-dit", "world"]
    assert _short([("a", "b-c"), ("a-b", "c"), ("x", "c")]) == ["b-c", "a-b-c", "x-c"]
    assert _short([("home", "dit"), ("home", "gan"), ("old", "gan")]) == ["dit", "home-gan", "old-gan"]
    assert _short([("a", "b-c"), ("a-b", "c"), ("x", "b-c"), ("x", "c")]) == ["1-a-b-c", "2-a-b-c", "3-x-b-c", "4-x-c"]
