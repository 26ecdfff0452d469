"""`theseus evaluate`, with a model of random weights: what it says, what it writes, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Theseus = Callable[..., Any]

SMALL = ("evaluate", "--clips", 2, "--frames", 17)


@pytest.fixture(scope="module")
def made(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run whose training never saw two things."""
    folder = tmp_path_factory.mktemp("evaluated")
    shutil.copytree(trained / "runs", folder / "runs")
    described = folder / "runs/transformer/model/model.json"
    made_by = {"settings": {"world": {"hold_out": ["red circle moving up", "a waterfall at night"]}}}
    described.write_text(json.dumps(json.loads(described.read_text()) | {"made_by": made_by}))
    return folder


@pytest.fixture
def there(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    return made


def test_a_table_for_people_and_files_for_the_rest(theseus: Theseus, there: Path) -> None:
    result = theseus(*SMALL)
    assert (result.code, result.out) == (0, "evaluation/shapes\n")
    assert "model: runs/transformer, 2 prompts of shapes" in result.err
    assert "and 2 of what is held out: red circle moving up" in result.err
    for words in ("all three", "held out: %", "blank", "frozen", "flicker", "two seeds differ visibly", "seconds a clip"):
        assert words in result.err
    folder = there / "evaluation/shapes"
    assert {path.name for path in folder.iterdir()} == {"clips", "contact_sheet.png", "report.json"}
    report = json.loads((folder / "report.json").read_text())
    assert (report["model"], report["frames"], report["width"]) == ("runs/transformer", 17, 32)
    clips = {path.name for path in (folder / "clips").glob("*.mp4")}
    assert clips == {f"{name}-000{n}.mp4" for name in ("seen", "held-out", "again-seen") for n in (0, 1)}


def test_json_is_all_but_the_single_prompts(theseus: Theseus, there: Path) -> None:
    theseus(*SMALL)
    found = json.loads(theseus(*SMALL, "--json").out)
    kept = json.loads((there / "evaluation/shapes/report.json").read_text())
    assert [row["held_out"] for row in kept.pop("prompts")] == [False, False, True, True]
    assert len(kept.pop("pairs")) == 2
    assert found == kept
    assert found["scores"]["held_out"]["shape"]["of"] == 2
    assert found["seconds_per_clip"] > 0
    (there / "evaluation/shapes/report.json").unlink()
    assert "not measured: every clip was there" in theseus(*SMALL).err


def test_its_clips_are_those_of_generate(theseus: Theseus, there: Path) -> None:
    theseus(*SMALL)
    clip = there / "evaluation/shapes/clips/seen-0001.mp4"
    again = theseus("replay", f"{clip}.json", "-o", "again.mp4")
    assert again.code == 0
    assert (there / "again.mp4").read_bytes() == clip.read_bytes()


def test_every_flag_reaches_the_clips(theseus: Theseus, there: Path) -> None:
    flags = "--seed 3 --steps 3 --guidance 2 --sampler heun --dtype fp32 --device cpu --objects 1 --quantize nf4"
    words = ("--hold-out", "blue star", "--model", "runs/transformer", "-o", "other")
    found = json.loads(theseus(*SMALL, *flags.split(), *words, "--json").out)
    asked = {"seed": 3, "steps": 3, "guidance_scale": 2.0, "sampler": "heun", "dtype": "fp32", "objects": 1, "quantize": "nf4"}
    assert found | asked == found
    assert found["hold_out"] == ["blue star"]
    recipe = json.loads((there / "other/shapes/clips/seen-0001.mp4.json").read_text())["recipe"]
    assert recipe | {"seed": 4, "steps": 3, "sampler": "heun", "quantize": "nf4", "guidance_scale": 2} == recipe
    prompts = json.loads((there / "other/shapes/report.json").read_text())["prompts"]
    assert all("relation" not in row["asked"] for row in prompts)
    assert all(row["asked"]["shape"] == "star" for row in prompts if row["held_out"])


def test_scenes(theseus: Theseus, there: Path) -> None:
    result = theseus("evaluate", "--suite", "scenes", "--clips", 1, "--frames", 17, "--steps", 1, "--json")
    assert result.code == 0
    found = json.loads(result.out)
    assert {"all scenes", "waterfall", "sunset"} <= found["scores"]["seen"].keys()
    assert found["scores"]["seen"]["waterfall"]["of"] == 1
    assert found["scores"]["held_out"].keys() == {"all scenes", "waterfall"}
    assert "and 1 of what is held out: a waterfall at night" in result.err


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        ("", "can be judged from 17 frames, not from: 5", "--frames 17"),
        ("--frames 13", "can be judged from 17 frames, not from: 13", "--frames 17"),
        ("--frames 18", "1 + 4 k frames, not: 18", "frames 17 or 21"),
        ("--frames 17 --suite scenes --objects 2", "only of shapes a number can be asked for: 2", "--objects"),
        ("--frames 17 --hold-out cow", "the world has nothing like: cow", "circle"),
        ("--frames 17 --model runs/none", "no such model: runs/none", "runs/transformer"),
    ],
)
def test_mistakes_are_one_line_and_a_hint(theseus: Theseus, here: Path, arguments: str, error: str, hint: str) -> None:
    result = theseus("evaluate", *arguments.split())
    assert (result.code, result.out) == (1, "")
    lines = result.err.splitlines()
    assert [line for line in lines if line.startswith("error: ") and error in line], result.err
    assert [line for line in lines if line.startswith("hint: ") and hint in line], result.err
    assert not (here / "evaluation").exists()
