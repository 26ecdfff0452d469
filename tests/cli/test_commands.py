"""The frame of the command line, and the commands that look at what is there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from theseus_cli import console
from theseus_cli.options import parse_size
from theseus_core import __version__, doctor
from theseus_core.data.clip import Clip
from theseus_core.data.writer import write_dataset
from theseus_core.doctor import Finding
from theseus_core.errors import TheseusError
from theseus_core.render.video import read

Theseus = Callable[..., Any]


def test_help_names_every_command(theseus: Theseus) -> None:
    for flag in ("-h", "--help"):
        result = theseus(flag)
        assert result.code == 0
        for command in ("prep", "train", "generate", "replay", "reconstruct", "plot", "models", "doctor"):
            assert command in result.out
            assert theseus(command, flag).code == 0


def test_version(theseus: Theseus) -> None:
    assert theseus("--version").out == f"theseus {__version__}\n"


def test_no_command_is_wrong_usage(theseus: Theseus) -> None:
    result = theseus()
    assert result.code == 2
    assert "generate" in result.out + result.err
    assert theseus("fly").code == 2


def test_an_interrupt_exits_with_130(theseus: Theseus, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("theseus_core.model_folder.find_model", interrupted)
    result = theseus("models", "show", "runs/vae")
    assert (result.code, result.out) == (130, "")


def test_a_mistake_of_our_own_keeps_its_traceback(theseus: Theseus, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> None:
        raise AssertionError("ours")

    monkeypatch.setattr("theseus_core.model_folder.find_model", broken)
    with pytest.raises(AssertionError, match="ours"):
        theseus("models", "show", "runs/vae")


def test_messages_keep_brackets_and_long_lines(capsys: pytest.CaptureFixture[str]) -> None:
    words = "[red]no markup[/red] :smile: " + "/a/very/long/path" * 20
    console.say(words)
    console.warn(words)
    console.fail(words, hint=words)
    console.emit(words)
    console.emit({"caption": "größer", "path": words})
    out, err = capsys.readouterr()
    console.emit(Path(os.fsdecode(b"caf\xe9.mp4")))
    assert capsys.readouterr().out == "caf\\udce9.mp4\n"
    assert err.splitlines() == [words, f"warning: {words}", f"error: {words}", f"hint: {words}"]
    assert out.splitlines()[0] == words
    assert json.loads(out.splitlines()[1]) == {"caption": "größer", "path": words}


def test_tables_and_progress(capsys: pytest.CaptureFixture[str]) -> None:
    console.table(["name", "size", "share"], [["a [b]", 12345, 0.123456], ["c", 1, 2.0]])
    with console.progress("sampling", 2) as advance:
        advance(1, 2)
        advance(2, 2)
    out, err = capsys.readouterr()
    assert out == ""
    assert "a [b]   12,345   0.1235" in err


@pytest.mark.parametrize(("text", "size"), [("128", (128, 128)), ("720x480", (480, 720)), ("16X8", (8, 16))])
def test_sizes(text: str, size: tuple[int, int]) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "0", "1x2x3", "-8", "8x", "²"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(TheseusError, match="not a size"):
        parse_size(text)


# reconstruct


def film(path: Path, frames: int = 7, height: int = 26, width: int = 40) -> Path:
    pictures = np.zeros((frames, height, width, 3), np.uint8)
    for index in range(frames):
        pictures[index, 4:20, 2 * index : 2 * index + 12] = (250, 60, 30)
    return Clip(pictures, 10.0, "a red square").save(path)


def test_reconstruct_fits_a_clip_and_says_so(theseus: Theseus, here: Path) -> None:
    film(here / "in.gif")
    result = theseus("reconstruct", "in.gif", "--json", "--sheet", "sheet.png")
    assert result.code == 0
    assert "cut from 7 frames of 40x26 to 5 frames of 40x24" in result.err
    found = json.loads(result.out)
    assert found["file"] == "in-reconstruction.mp4"
    assert 0 < found["psnr"] < 100
    assert -1 <= found["ssim"] <= 1
    assert (here / "in-reconstruction.mp4").is_file()
    with Image.open(here / "sheet.png") as sheet:
        assert sheet.width > 5 * 128


def test_reconstruct_as_asked(theseus: Theseus, here: Path) -> None:
    film(here / "in.mp4", frames=9)
    result = theseus("reconstruct", "in.mp4", "-o", "out.gif", "--size", "24x16", "--max-frames", 5, "--vae", "runs/transformer")
    assert (result.code, result.out) == (0, "out.gif\n")
    assert "cut" not in result.err
    with Image.open(here / "out.gif") as picture:
        assert (picture.n_frames, picture.size) == (5, (24, 16))
    refused = theseus("reconstruct", "in.mp4", "--size", "20")
    assert refused.code == 1
    assert "multiples of 8" in refused.err


@pytest.mark.parametrize("options", [("-o", "in.mp4"), ("-o", "./link.mp4"), ("--sheet", "in.mp4")])
def test_reconstruct_does_not_overwrite_the_clip(theseus: Theseus, here: Path, options: tuple[str, str]) -> None:
    before = film(here / "in.mp4").read_bytes()
    (here / "link.mp4").symlink_to("in.mp4")
    result = theseus("reconstruct", "in.mp4", *options)
    assert (result.code, result.out) == (1, "")
    assert f"error: this would overwrite the clip itself: {Path(options[1])}" in result.err
    assert (here / "in.mp4").read_bytes() == before


def test_a_wrong_tokenizer_is_answered_with_tokenizers(theseus: Theseus, here: Path) -> None:
    film(here / "in.mp4")
    wrong = theseus("reconstruct", "in.mp4", "--vae", "runs/vea").err
    assert "error: no such tokenizer: runs/vea" in wrong
    assert "did you mean runs/vae? a run or a model folder; here are: runs/transformer, runs/vae" in wrong
    shutil.rmtree(here / "runs")
    wrong = theseus("reconstruct", "in.mp4").err
    assert "make one: theseus prep gifs/, then theseus train vae\n" in wrong
    assert "--model" not in wrong


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [("notes.txt", b"hello, this is text", "not_video"), ("empty.gif", b"", "empty"), ("cut.gif", b"GIF89a\x10\x00", "damaged")],
)
def test_reconstruct_of_what_is_no_video(theseus: Theseus, here: Path, name: str, data: bytes, message: str) -> None:
    (here / name).write_bytes(data)
    result = theseus("reconstruct", name)
    assert (result.code, result.out) == (1, "")
    assert f"error: cannot read the video ({message}" in result.err
    assert "error: cannot read the video: missing.gif" in theseus("reconstruct", "missing.gif").err


# plot, models, doctor


def test_plot(theseus: Theseus, here: Path) -> None:
    lines = [{"step": 0, "device": "cpu"}, *({"step": step, "loss": 1 / step, "eval/loss": 2 / step} for step in range(1, 9))]
    (here / "runs/vae/metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert theseus("plot", "runs/vae").out == "runs/vae/curves.png\n"
    with Image.open(here / "runs/vae/curves.png") as picture:
        assert picture.width > 300
    assert theseus("plot", "runs/vae", "-o", "other.png").out == "other.png\n"
    assert (here / "other.png").read_bytes() == (here / "runs/vae/curves.png").read_bytes()
    assert "written as a .png file, not as: a.jpg" in theseus("plot", "runs/vae", "-o", "a.jpg").err
    assert "error: nothing to draw" in theseus("plot", "nowhere").err


def test_plot_of_generated_videos(theseus: Theseus, here: Path) -> None:
    theseus("generate", "a red circle", "a waterfall", "red", "-o", "videos")
    assert theseus("plot", "videos").out == "videos/contact_sheet.png\n"
    with Image.open(here / "videos/contact_sheet.png") as whole:
        height = whole.height
    assert theseus("plot", "videos", "-o", "two.png", "--clips", 2).code == 0
    with Image.open(here / "two.png") as two:
        assert two.height < height
    (here / "videos/index.jsonl").write_text("{}")
    assert "error: not an index of generated videos" in theseus("plot", "videos").err


def test_plot_of_a_dataset(theseus: Theseus, here: Path) -> None:
    write_dataset(
        "dataset", [Clip(np.full((15, 16, 16, 3), colour, np.uint8), 10.0, f"grey {colour}") for colour in (9, 90, 200)], {}
    )
    (here / "dataset/contact_sheet.png").write_bytes(b"of prep")
    assert theseus("plot", "dataset").out == "dataset-clips.png\n"
    assert (here / "dataset/contact_sheet.png").read_bytes() == b"of prep"
    assert theseus("plot", "dataset", "-o", "sheet.png").out == "sheet.png\n"
    assert (here / "sheet.png").read_bytes() == (here / "dataset-clips.png").read_bytes()
    with Image.open(here / "sheet.png") as sheet:
        assert {(9, 9, 9), (90, 90, 90), (200, 200, 200)} <= {colour for _, colour in sheet.getcolors(100_000)}


def test_models(theseus: Theseus, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("theseus_core.bundled.__path__", [str(here / "none")])
    for command in (["models"], ["models", "list"]):
        result = theseus(*command)
        assert (result.code, result.out) == (0, "")
        assert "runs/transformer" in result.err
        assert "videos: 5 frames of 32x16 at 8 fps" in result.err
    found = json.loads(theseus("models", "list", "--json").out)
    assert [model["name"] for model in found] == ["runs/transformer", "runs/vae"]
    assert found[1]["parts"] == {"tokenizer": "causal_vae"}
    assert "no such model: runs/nothing" in theseus("models", "show", "runs/nothing").err


def test_a_model_says_what_it_knows(theseus: Theseus, here: Path) -> None:
    result = theseus("models", "show", "runs/transformer")
    assert (result.code, result.out) == (0, "")
    for words in ("videos: 5 frames of 32x16 at 8 fps", "2 steps of ddim, guidance 3", "4: red, circle, waterfall", "MiB in runs/"):
        assert words in result.err
    knows = [line.split(maxsplit=2) for line in result.err.splitlines() if line.strip().startswith(("shapes", "scenes"))]
    assert [[part.strip() for part in line] for line in knows] == [
        ["shapes", "2", "a red circle; circle"],
        ["scenes", "2", "a waterfall; waterfall"],
    ]
    assert "CARD.md" not in result.err
    (here / "runs/transformer/model/CARD.md").write_text("# What it is\n")
    assert "runs/transformer/model/CARD.md" in theseus("models", "show", "runs/transformer").err
    shown = json.loads(theseus("models", "show", "runs/transformer", "--json").out)
    assert shown["defaults"]["frames"] == 5
    assert shown["vocabulary"] == ["a", "red", "circle", "waterfall"]
    assert shown["knows"] == {"shapes": ["a red circle", "circle"], "scenes": ["a waterfall", "waterfall"]}
    assert shown["card"] == "runs/transformer/model/CARD.md"
    assert shown["made_by"] == {"seed": 0}


def test_a_tokenizer_says_what_it_is(theseus: Theseus, here: Path) -> None:
    result = theseus("models", "show", "runs/vae")
    assert "reconstructions" in result.err and "tokenizer causal_vae" in result.err
    assert "knows" not in result.err


def test_a_long_list_of_what_a_model_knows_is_cut_evenly(theseus: Theseus, here: Path) -> None:
    knows = {f"group {group}": [f"{group} prompt {number}" for number in range(12)] for group in range(10)}
    (here / "runs/transformer/model/knows.json").write_text(json.dumps(knows))
    result = theseus("models", "show", "runs/transformer")
    assert "7 prompt 0; 7 prompt 3; 7 prompt 6; 7 prompt 9" in result.err
    assert "prompt 1;" not in result.err


def test_an_export_may_make_another_size_by_default(theseus: Theseus, here: Path) -> None:
    assert theseus("models", "export", "runs/transformer", "wide", "--size", "48x32").code == 0
    assert json.loads((here / "wide/model.json").read_text())["defaults"]["width"] == 48
    assert theseus("generate", "a red circle", "--model", "wide", "-o", "wide.mp4").code == 0
    assert read(here / "wide.mp4", 5).frames.shape[1:3] == (32, 48)
    wrong = theseus("models", "export", "runs/transformer", "odd", "--size", "50x32")
    assert wrong.code == 1 and "50x32" in wrong.err and not (here / "odd").exists()
    assert theseus("models", "export", "runs/vae", "odd", "--size", "32").code == 1
    assert theseus("models", "export", "runs/transformer", "odd", "--size", "32", "--layout", "diffusers").code == 2


def test_an_exported_model_generates(theseus: Theseus, here: Path) -> None:
    result = theseus("models", "export", "runs/transformer", "shipped/shapes")
    assert (result.code, result.out) == (0, "shipped/shapes\n")
    assert "weights in bf16" in result.err
    assert theseus("generate", "a red circle", "--model", "shipped/shapes").code == 0
    assert "a red circle; circle" in theseus("models", "show", "shipped/shapes").err
    assert theseus("models", "export", "runs/vae", "shipped/vae", "--dtype", "fp16").code == 0
    again = theseus("models", "export", "runs/vae", "shipped/vae")
    assert again.code == 1 and "there is something already: shipped/vae" in again.err
    assert theseus("models", "export", "runs/vae", "other", "--dtype", "fp32").code == 2


@pytest.mark.parametrize(
    "damage", ["{", '{"format": 1, "parts": {"generator": "dit"}, "defaults": {"frames": 5}}', '{"format": 9}']
)
def test_one_damaged_run_does_not_hide_the_others(theseus: Theseus, here: Path, damage: str) -> None:
    (here / "runs/vae/model/model.json").write_text(damage)
    result = theseus("models")
    assert result.code == 0
    assert "warning: this model cannot be read: runs/vae" in result.err
    assert "videos: 5 frames of 32x16 at 8 fps" in result.err
    found = {model["name"]: model for model in json.loads(theseus("models", "list", "--json").out)}
    assert found["runs/vae"]["damaged"] and found["runs/vae"]["parts"] == {}
    assert "damaged" not in found["runs/transformer"]
    assert "error: " in theseus("models", "show", "runs/vae").err


def test_models_where_there_are_none(theseus: Theseus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("theseus_core.bundled.__path__", [str(tmp_path)])
    assert "next: theseus prep gifs/" in theseus("models").err
    assert theseus("models", "list", "--json").out == "[]\n"


def test_doctor_finds_this_machine_well(theseus: Theseus) -> None:
    result = theseus("doctor", "--json")
    found = {finding["what"]: finding for finding in json.loads(result.out)}
    assert {"torch", "torchvision", "device cpu", "writes .mp4", "writes .webm", "bitsandbytes", "disk"} <= set(found)
    assert result.code == (0 if all(finding["ok"] for finding in found.values()) else 1)
    assert found["writes .avi"]["found"] == "mpeg4"


def test_doctor_exits_with_1_where_something_is_wrong(theseus: Theseus, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [Finding("torch", "2.11"), Finding("disk", "0.1 GiB free", ok=False, hint="make room")]
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    result = theseus("doctor")
    assert (result.code, result.out) == (1, "")
    assert "error: disk: 0.1 GiB free\nhint: make room" in result.err


def test_a_torchvision_of_another_torch_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def mismatched(name: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("importlib.import_module", mismatched)
    monkeypatch.setattr(doctor, "requires", lambda name: ["numpy", "torch==2.11.0", "gdown; extra == 'gdown'"])
    [finding] = doctor._torchvision()
    assert not finding.ok
    assert "nms does not exist" in finding.found
    assert "asks for torch==2.11.0" in finding.hint
    assert "pip install --force-reinstall torch==" in finding.hint
