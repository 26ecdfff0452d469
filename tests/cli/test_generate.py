"""`theseus generate` and `theseus replay`."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from theseus_core import files, recipe
from theseus_core.data.clip import Clip

Theseus = Callable[..., Any]


def frames_of(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir()) if path.is_file()}


def test_one_video_and_its_sidecar(theseus: Theseus, here: Path) -> None:
    result = theseus("generate", "a [red] circle", "-o", "out.mp4", "--seed", 4)
    assert (result.code, result.out) == (0, "out.mp4\n")
    assert "model: runs/transformer on " in result.err
    assert "5 frames of 32x16 at 8 fps, 2 steps of ddim, guidance 3" in result.err
    assert frames_of(here / "out.mp4").shape == (5, 16, 32, 3)
    sidecar = json.loads((here / "out.mp4.json").read_text())
    assert sidecar["sha256"] == hashes(here)["out.mp4"]
    assert sidecar["recipe"]["prompt"] == "a [red] circle"
    assert sidecar["recipe"]["seed"] == 4
    assert {"theseus", "python", "torch", "av"} <= set(sidecar["versions"])
    assert sorted(path.name for path in here.iterdir()) == ["out.mp4", "out.mp4.json", "runs"]


def test_every_flag_reaches_the_video(theseus: Theseus, here: Path) -> None:
    flags = (
        "--frames 9 --size 16x32 --fps 12 --steps 3 --guidance 2 --sampler heun --negative-prompt waterfall --dtype fp32 --seed 1"
    )
    assert theseus("generate", "a red circle", "-o", "out.gif", *flags.split(), "--model", "runs/transformer").code == 0
    assert frames_of(here / "out.gif").shape == (9, 32, 16, 3)
    recipe = json.loads((here / "out.gif.json").read_text())["recipe"]
    assert (
        recipe
        | {
            "frames": 9,
            "height": 32,
            "width": 16,
            "fps": 12,
            "steps": 3,
            "guidance_scale": 2,
            "sampler": "heun",
            "negative_prompt": "waterfall",
            "dtype": "fp32",
            "seed": 1,
        }
        == recipe
    )
    first = frames_of(here / "out.gif")
    for change in ("--steps 4", "--guidance 5", "--sampler ddim", "--negative-prompt circle", "--seed 2"):
        changed = {**dict(zip(flags.split()[::2], flags.split()[1::2], strict=True)), **dict([change.split()])}
        assert (
            theseus("generate", "a red circle", "-o", "other.gif", *[word for pair in changed.items() for word in pair]).code == 0
        )
        assert not np.array_equal(frames_of(here / "other.gif"), first), change


@pytest.mark.parametrize("name", ["out.gif", "out.webm", "out.avi", "pngs"])
def test_formats(theseus: Theseus, here: Path, name: str) -> None:
    assert theseus("generate", "a red circle", "-o", name).out == f"{name}\n"
    assert (here / f"{name}.json").is_file()
    if name == "pngs":
        assert sorted(path.name for path in (here / name).iterdir()) == [f"{number:04d}.png" for number in range(5)]
    else:
        assert len(frames_of(here / name)) == 5


def test_a_video_that_was_not_generated_is_not_overwritten(theseus: Theseus, here: Path) -> None:
    own = here / "out/0001.mp4"
    own.parent.mkdir()
    own.write_bytes(b"a holiday")
    result = theseus("generate", "a waterfall", "a red circle")
    assert result.code == 1
    assert "error: not made by theseus generate, and not overwritten: out/0001.mp4" in result.err
    assert own.read_bytes() == b"a holiday"
    assert [path.name for path in own.parent.iterdir()] == ["0001.mp4"]


def test_what_stops_before_a_video_takes_its_place_leaves_nothing_in_the_way(
    theseus: Theseus, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = files._replace

    def stopped(new: Path, path: Path) -> None:
        if path.name == "pngs":
            raise OSError(28, "No space left on device")
        replace(new, path)

    with monkeypatch.context() as full:
        full.setattr(files, "_replace", stopped)
        assert theseus("generate", "a waterfall", "-o", "pngs").code == 1
    assert [path.name for path in here.glob("pngs*")] == ["pngs.json"]
    assert theseus("generate", "a waterfall", "-o", "pngs").code == 0


def test_replay_makes_the_same_bytes(theseus: Theseus, here: Path) -> None:
    for name in ("out.mp4", "pngs"):
        theseus("generate", "a waterfall", "-o", name, "--seed", 7, "--steps", 3)
        result = theseus("replay", f"{name}.json")
        again = here / result.out.strip()
        assert result.code == 0
        assert again != here / name
        assert "the same bytes" in result.err
    assert (here / "out-replay.mp4").read_bytes() == (here / "out.mp4").read_bytes()
    assert hashes(here / "pngs-replay") == hashes(here / "pngs")
    assert theseus("replay", "out.mp4.json", "-o", "again.gif").out == "again.gif\n"


def test_replay_refuses_another_model(theseus: Theseus, here: Path) -> None:
    theseus("generate", "a waterfall", "-o", "out.mp4")
    (here / "runs/transformer").rename(here / "moved")
    assert "no such model: runs/transformer" in theseus("replay", "out.mp4.json").err
    assert theseus("replay", "out.mp4.json", "--model", "moved").code == 0
    weights = here / "moved/model/generator/model.safetensors"
    save_file({name: tensor + 0.01 for name, tensor in load_file(weights).items()}, weights)
    result = theseus("replay", "out.mp4.json", "--model", "moved")
    assert result.code == 1
    assert "error: the model has changed since" in result.err
    assert "error: not the sidecar of a generated video" in theseus("replay", "moved/model/model.json").err
    assert "error: no such file: nothing.json" in theseus("replay", "nothing.json").err


def test_replay_says_when_the_bytes_differ(theseus: Theseus, here: Path) -> None:
    theseus("generate", "a waterfall", "-o", "out.mp4")
    path = here / "out.mp4.json"
    sidecar = json.loads(path.read_text())
    path.write_text(json.dumps(sidecar | {"sha256": "0" * 64, "versions": sidecar["versions"] | {"torch": "1.0"}}))
    result = theseus("replay", path)
    assert result.code == 0
    assert "warning: the bytes are not those that out.mp4 had: torch 1.0 then" in result.err


def test_several_prompts_make_a_folder(theseus: Theseus, here: Path) -> None:
    (here / "prompts.txt").write_text("a waterfall\n\n  a circle \n", encoding="utf-8-sig")
    result = theseus("generate", "a red circle", "--prompts", "prompts.txt", "--num-videos", 2, "--seed", 5, "-o", "videos")
    assert (result.code, result.out) == (0, "videos\n")
    rows = [json.loads(line) for line in (here / "videos/index.jsonl").read_text().splitlines()]
    prompts = ["a red circle"] * 2 + ["a waterfall"] * 2 + ["a circle"] * 2
    assert rows == [{"file": f"{i:04d}.mp4", "prompt": prompts[i], "seed": 5 + i % 2} for i in range(6)]
    videos = [frames_of(here / "videos" / row["file"]) for row in rows]
    assert len({video.tobytes() for video in videos}) == 6
    theseus("generate", "a waterfall", "--seed", 6, "-o", "alone.mp4")
    assert (here / "alone.mp4").read_bytes() == (here / "videos/0003.mp4").read_bytes()


def test_a_second_start_makes_what_is_missing(theseus: Theseus, here: Path) -> None:
    command = ("generate", "a red circle", "a waterfall", "red", "-o", "videos")
    theseus(*command)
    before = hashes(here / "videos")
    (here / "videos/0001.mp4").unlink()  # as if it had been killed before it was written,
    (here / "videos/0002.mp4").write_bytes(b"cut off")  # or damaged since
    kept = (here / "videos/0000.mp4").stat().st_mtime_ns
    result = theseus(*command)
    assert "2 made, 1 were there already" in result.err
    assert (here / "videos/0000.mp4").stat().st_mtime_ns == kept
    assert hashes(here / "videos") == before
    other = theseus(*command[:-2], "-o", "videos", "--seed", 1)
    assert other.code == 1
    assert "made from another recipe, and not overwritten" in other.err
    assert hashes(here / "videos") == before


def test_the_index_follows_without_ever_losing_a_row(theseus: Theseus, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("generate", "a red circle", "a\u2028waterfall\x85", "red", "a circle", "-o", "videos.v2")
    assert theseus(*command).code == 0
    whole = (here / "videos.v2/index.jsonl").read_bytes()
    assert [prompt for _, prompt in recipe.read_index(here / "videos.v2")] == list(command[1:5])
    for missing in (1, 3):
        (here / f"videos.v2/{missing:04d}.mp4").unlink()
    seen, writes = [], []
    make, write = recipe.make, recipe.write_index

    def watched(*arguments: Any, **options: Any) -> Any:
        seen.append([path.name for path, _ in recipe.read_index(here / "videos.v2")])
        return make(*arguments, **options)

    monkeypatch.setattr(recipe, "make", watched)
    monkeypatch.setattr(recipe, "write_index", lambda *arguments: writes.append(write(*arguments)))
    assert "2 made, 2 were there already" in theseus(*command).err
    assert seen == [["0000.mp4", "0002.mp4"], ["0000.mp4", "0002.mp4", "0001.mp4"]]
    assert len(writes) == 2, "whole before and after, and appended to between"
    assert (here / "videos.v2/index.jsonl").read_bytes() == whole


def test_pictures_of_the_user_are_not_replaced(theseus: Theseus, here: Path) -> None:
    (here / "photos").mkdir()
    (here / "photos/holiday.png").write_bytes(b"sun")
    result = theseus("generate", "a red circle", "-o", "photos")
    assert (result.code, result.out) == (1, "")
    assert "error: there is a folder of other files by that name: photos" in result.err
    assert (here / "photos/holiday.png").read_bytes() == b"sun"
    for _ in range(2):
        assert theseus("generate", "a red circle", "-o", "pngs").code == 0


@pytest.mark.parametrize("place", ["prompt", "--negative-prompt", "-o"])
def test_bytes_that_are_no_text_are_refused_before_any_work(
    theseus: Theseus, here: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr("theseus_core.pipeline.TextToVideo.load", None)
    word = os.fsdecode(b"caf\xe9")
    result = theseus("generate", word) if place == "prompt" else theseus("generate", "a circle", place, word)
    assert (result.code, result.out) == (1, "")
    assert "error: not UTF-8: caf\\udce9" in result.err


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        ("", "no prompt", "--prompts FILE"),
        ("a --frames 8", "1 + 4 k frames, not: 8", "frames 5 or 9"),
        ("a --size 32x20", "multiples of 16, not: 32x20", "--size 32x16"),
        ("a --size big", "not a size: big", "WIDTHxHEIGHT"),
        ("a -o out.mov", "not a video format: out.mov", ".mp4, .webm, .avi, .gif"),
        ("a -o out.gif --fps 60", "at most 50 frames a second: 60", "--fps"),
        ("a b -o out.MOV", "several videos go into a folder, and this names a file: out.MOV", "-o out"),
        ("a b -o out.mp4", "several videos go into a folder, and this names a file: out.mp4", "-o out"),
        ("a --sampler magic", "no sampler: magic", "ddim"),
        ("a --model runs/tranformer", "no such model: runs/tranformer", "did you mean runs/transformer?"),
        ("a --model runs/vae", "a tokenizer and no generator", "theseus train transformer"),
        ("a --prompts nothing.txt", "cannot read the prompts: nothing.txt", ""),
        ("a --device tpu", "no such device: tpu", "cuda"),
        ("a --device cpu --dtype fp16", "only by emulation", "bf16"),
        ("a --device cpu --offload layer", "offloading moves parts from an accelerator to main memory", "--quantize"),
        ("a --seed 9223372036854775808", "seed: ", "2^63 - 1"),
        ("a --guidance 1 --negative-prompt b", "effect only with guidance: b", "--guidance"),
    ],
)
def test_mistakes_are_one_line_and_a_hint(theseus: Theseus, here: Path, arguments: str, error: str, hint: str) -> None:
    result = theseus("generate", *arguments.split())
    assert (result.code, result.out) == (1, "")
    lines = result.err.splitlines()
    assert [line for line in lines if line.startswith("error: ") and error in line], result.err
    assert [line for line in lines if line.startswith("hint: ") and hint in line], result.err
    assert "Traceback" not in result.err
    assert sorted(path.name for path in here.iterdir()) == ["runs"]


def test_wrong_usage_exits_with_2(theseus: Theseus, here: Path) -> None:
    for arguments in (["--seed", "-1"], ["--quantize", "int3"], ["--steps", "many"], ["--nonsense"]):
        result = theseus("generate", "a", *arguments)
        assert (result.code, result.out) == (2, "")
        assert arguments[0] in result.err


def test_nothing_trained(theseus: Theseus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("theseus_core.bundled.__path__", [str(tmp_path)])
    result = theseus("generate", "a waterfall", "-o", "out.mp4")
    assert result.code == 1
    assert "error: nothing is trained here" in result.err
    assert "theseus prep gifs/, then theseus train vae, then theseus train transformer" in result.err


def test_unknown_words_are_named_and_the_nearest_prompts(theseus: Theseus, here: Path) -> None:
    told = theseus("generate", "the golden zebra circle").err
    assert "never seen have no effect: golden, zebra (in: the golden zebra circle)" in told, "of the article nothing is said"
    assert "nearest that it knows: circle; a red circle; waterfall\n" in told
    for known in ("a red circle", "the waterfall of a circle"):
        told = theseus("generate", known).err
        assert "never seen" not in told and "nearest" not in told


def test_a_prompt_of_unknown_words_is_made_all_the_same(theseus: Theseus, here: Path) -> None:
    result = theseus("generate", "a golden zebra", "-o", "out.mp4")
    assert (result.code, result.out) == (0, "out.mp4\n")
    assert "any of these words, the video will show something arbitrary: a golden zebra" in result.err
    assert "nearest that it knows: a red circle; circle; waterfall" in result.err
    (here / "runs/transformer/model/knows.json").unlink()
    result = theseus("generate", "a golden zebra")
    assert "something arbitrary" in result.err and "nearest" not in result.err


def test_a_diverged_model_is_explained(theseus: Theseus, here: Path) -> None:
    weights = here / "runs/transformer/model/generator/model.safetensors"
    tensors = load_file(weights)
    save_file({name: torch.full_like(tensor, torch.nan) for name, tensor in tensors.items()}, weights)
    result = theseus("generate", "a red circle")
    assert result.code == 1
    assert "values that are not numbers" in result.err
    assert not (here / "out.mp4").exists()


def test_frames_of_one_colour_are_noticed(theseus: Theseus, here: Path) -> None:
    weights = here / "runs/transformer/model/tokenizer/model.safetensors"
    tensors = load_file(weights)
    save_file({name: torch.zeros_like(tensor) if "decoder" in name else tensor for name, tensor in tensors.items()}, weights)
    result = theseus("generate", "a red circle")
    assert result.code == 0
    assert "warning: every frame is nearly one colour" in result.err


def test_quantized(theseus: Theseus, here: Path) -> None:
    result = theseus("generate", "a red circle", "-o", "small.mp4", "--quantize", "nf4", "--device", "cpu")
    assert result.code == 0
    assert "MiB of weights became" in result.err
    assert json.loads((here / "small.mp4.json").read_text())["recipe"]["quantize"] == "nf4"
    assert "the same bytes" in theseus("replay", "small.mp4.json").err


@pytest.mark.parametrize("flags", [["--top-k", "3"], ["--temperature", "1"], ["--first-frames", "runs/clip.gif"]])
def test_what_only_codes_have_is_refused_elsewhere(theseus: Theseus, here: Path, flags: list[str]) -> None:
    Clip(np.zeros((3, 16, 16, 3), np.uint8), 8.0).save("runs/clip.gif")
    result = theseus("generate", "a red circle", "-o", "no.gif", *flags)
    assert result.code == 1 and f"and takes no: {flags[0]}" in result.err


def test_what_a_video_begins_from_is_never_overwritten(theseus: Theseus, here: Path) -> None:
    assert theseus("generate", "a red square").code == 0
    before = (here / "out.mp4").read_bytes()
    (here / "out").mkdir()
    shutil.copy(here / "out.mp4", here / "out/0001.mp4")
    for more in (["--video", "out.mp4"], ["--first-frames", "./out.mp4"], ["--video", "out/0001.mp4", "--num-videos", "2"]):
        result = theseus("generate", "a red square", *more)
        assert result.code == 1
        assert f"this would overwrite what the video begins from: {Path(more[1])}" in result.err
    assert (here / "out.mp4").read_bytes() == (here / "out/0001.mp4").read_bytes() == before
    assert theseus("generate", "a red square", "--video", "out.mp4", "-o", "other.mp4").code == 0


def test_pictures_are_written_as_pictures(theseus: Theseus, here: Path) -> None:
    assert theseus("generate", "a red square").code == 0
    (here / "pictures.png").mkdir()
    for sheet in ("pictures.png", "both.gif"):
        result = theseus("reconstruct", "out.mp4", "--vae", "runs/transformer", "--sheet", sheet)
        assert (result.code, "a picture is written as a .png file" in result.err) == (1, True)
    result = theseus("plot", "runs/transformer", "-o", "pictures.png")
    assert (result.code, "a picture is written as a .png file" in result.err) == (1, True)
