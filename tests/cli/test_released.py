"""`theseus generate`, `replay` and `models` on released CogVideoX folders, whole and damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from theseus_cli.commands.generate import why_uniform
from theseus_core.data.clip import Clip

pytest.importorskip("diffusers")
from released import FRAMES, HEIGHT, TOKENS, WIDTH, pipeline, save

Theseus = Callable[..., Any]
QUICK = ("--steps", 2, "--device", "cpu", "--dtype", "fp32")


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("released")
    save(pipeline("5b"), made / "words", max_shard_size="40KB")
    save(pipeline("1.5-5b-i2v"), made / "image")
    return made


@pytest.fixture
def there(released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: `words` and `image`, two models."""
    shutil.copytree(released, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)).save("first.png")
    Clip(np.random.default_rng(0).integers(0, 256, (22, 40, 50, 3), dtype=np.uint8), fps=16).save("film.mp4")
    return tmp_path


def length_of(path: Path) -> tuple[int, int, int]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        return len(frames), frames[0].height, frames[0].width


def test_words_become_a_video(theseus: Theseus, there: Path) -> None:
    result = theseus("generate", "a red circle", "--model", "words", *QUICK)
    assert (result.code, result.out) == (0, "out.mp4\n"), result.err
    assert "9 frames of 48x32 at 8 fps, 2 steps of dpmpp_2m_sde, guidance 6" in result.err
    assert length_of(there / "out.mp4") == (FRAMES, HEIGHT, WIDTH)
    assert "the same bytes" in theseus("replay", "out.mp4.json").err


def test_a_long_prompt_is_cut_and_that_is_said(theseus: Theseus, there: Path) -> None:
    result = theseus("generate", "red " * 1000, "--model", "words", *QUICK)
    assert result.code == 0
    assert f"the model reads {TOKENS} tokens, what follows has no effect: 1001 tokens" in " ".join(result.err.split())
    assert "indices sequence length" not in result.err


def test_a_picture_becomes_a_video(theseus: Theseus, there: Path) -> None:
    result = theseus("generate", "a red circle", "--model", "image", "--image", "first.png", *QUICK)
    assert result.code == 0, result.err
    assert "the first frame: the middle of first.png at 48x32" in result.err
    recipe = json.loads((there / "out.mp4.json").read_text())["recipe"]
    assert (recipe["image"], recipe["strength"]) == ("first.png", None)
    assert "the same bytes" in theseus("replay", "out.mp4.json").err
    other = Image.open("first.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    other.save("first.png")
    result = theseus("replay", "out.mp4.json")
    assert result.code == 1
    assert "error: the file has changed since the video was made from it: first.png" in result.err
    theseus("generate", "a red circle", "--model", "image", "--image", "first.png", *QUICK, "-o", "other.mp4")
    assert (there / "other.mp4").read_bytes() != (there / "out.mp4").read_bytes()


def test_a_video_becomes_another(theseus: Theseus, there: Path) -> None:
    """22 frames at 16 a second are 11 at 8, of which 9 can be taken."""
    (there / "many").mkdir()
    command = ("generate", "a red circle", "--model", "words", "--video", "film.mp4", *QUICK)
    result = theseus(*command, "--strength", 0.5, "--dynamic-guidance", "--tiling")
    assert result.code == 0, result.err
    assert length_of(there / "out.mp4") == (FRAMES, HEIGHT, WIDTH)
    recipe = json.loads((there / "out.mp4.json").read_text())["recipe"]
    kept = {"video": "film.mp4", "strength": 0.5, "dynamic_guidance": True, "tiling": True, "frames": 9}
    assert recipe | kept == recipe
    assert "the same bytes" in theseus("replay", "out.mp4.json").err
    result = theseus(*command, "--frames", 13)
    assert result.code == 1
    assert "error: the video has 11 frames at 8 a second, not: 13" in result.err and "hint: --frames 9" in result.err


def test_several_are_made_of_a_text_encoder_read_once(theseus: Theseus, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from theseus_core.pretrained import text

    read, network = [], text._network
    monkeypatch.setattr(text, "_network", lambda *given: read.append(given) or network(*given))
    assert theseus("generate", "a red circle", "a circle", "a", "--model", "words", *QUICK).code == 0
    assert len(read) == 1
    assert len(list((there / "out").glob("*.mp4"))) == 3


def one(pattern: str) -> Path:
    """The second of the files of this name, if there are several."""
    return sorted(Path().glob(pattern))[:2][-1]


def drop(pattern: str) -> Callable[[], object]:
    return lambda: one(pattern).unlink()


def cut_short(pattern: str) -> Callable[[], object]:
    return lambda: one(pattern).write_bytes(one(pattern).read_bytes()[:-50])


def widen(pattern: str, name: str) -> Callable[[], object]:
    def change() -> None:
        path = next(path for path in Path().glob(pattern) if name in load_file(path))
        weights = load_file(path)
        save_file(weights | {name: torch.cat([weights[name]] * 2)}, path)

    return change


def describe_otherwise(path: str, key: str, value: object) -> Callable[[], object]:
    return lambda: Path(path).write_text(json.dumps(json.loads(Path(path).read_text()) | {key: value}))


SHARD = "words/transformer/diffusion_pytorch_model-00002-of-"
T5 = "words/text_encoder/*.safetensors"


@pytest.mark.parametrize(
    ("damage", "flags", "error", "hint"),
    [
        (cut_short(f"{SHARD}*"), "", f"damaged weights: {SHARD}", "fetch the file again"),
        (drop(f"{SHARD}*"), "", f"a file of weights is missing: {SHARD}", "fetch it again"),
        (drop("words/model_index.json"), "", "no such file: words/model_index.json", ""),
        (drop("words/vae/config.json"), "", "no such file: words/vae/config.json", ""),
        (drop("words/scheduler/scheduler_config.json"), "", "no such file: words/scheduler/scheduler_config.json", ""),
        (drop("words/tokenizer/tokenizer.json"), "", "no tokenizer (tokenizer.json or spiece.model) in: words/tokenizer", "fetch"),
        (cut_short("words/tokenizer/tokenizer.json"), "", "damaged tokenizer: words/tokenizer", ""),
        (widen(T5, "encoder.final_layer_norm.weight"), "", "of shape (64,), and (32,) by", "config.json"),
        (describe_otherwise("words/text_encoder/config.json", "model_type", "bert"), "", "not the configuration of a T5", ""),
        (describe_otherwise("words/text_encoder/config.json", "d_model", 48), "", "text_encoder", "config.json"),
        (describe_otherwise("words/model_index.json", "_class_name", "WanPipeline"), "", "WanPipeline", ""),
        (None, "--frames 10", "1 + 4 k frames, not: 10", "frames 9 or 13 would do"),
        (None, "--size 50x32", "multiples of 16, not: 50x32", "--size 48x32 would do"),
        (None, "--size 16 --tiling", "tiling has no effect on frames of: 16x16", "a tile is 40x48"),
        (None, "--image first.png", "takes no: --image", "I2V"),
        (None, "--model image", "needs one: --image", "--image FILE"),
        (None, "--model image --image film.mp4", "cannot read the image: film.mp4", ".png"),
        (None, "--model image --image first.png --video film.mp4", "takes no: --video", "CogVideoX-5b"),
        (None, "--strength 0.5", "a strength has an effect only on a video: 0.5", "--video FILE"),
        (None, "--video film.mp4 --strength 0", "leaves the video as it is, or is above 1: 0", "0.5 to 1"),
        (None, "--video nothing.mp4", "no such file: nothing.mp4", ""),
        (None, "--video first.png", "cannot read the video", ""),
        (None, "--guidance 1 --dynamic-guidance", "without guidance nothing can rise", "--dynamic-guidance"),
        (None, "--model THUDM/CogVideoX-2b", "the hub could not be asked: THUDM/CogVideoX-2b", "is there a network?"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(
    damage: Callable[[], object] | None,
    flags: str,
    error: str,
    hint: str,
    theseus: Theseus,
    there: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(there / "words"))
    if damage:
        damage()
    before = sorted(there.rglob("*"))
    model = () if "--model" in flags else ("--model", "words")
    result = theseus("generate", "a red circle", *model, *QUICK, *flags.split())
    assert (result.code, result.out) == (1, ""), result.err
    lines = result.err.splitlines()
    assert [line for line in lines if line.startswith("error: ") and error in line], result.err
    assert not hint or [line for line in lines if line.startswith("hint: ") and hint in line], result.err
    assert sorted(there.rglob("*")) == before


def test_what_shows_nothing_is_explained(theseus: Theseus, there: Path) -> None:
    for path in Path("words/vae").glob("*.safetensors"):
        save_file({name: tensor * ("decoder.conv_out" not in name) for name, tensor in load_file(path).items()}, path)
    told = " ".join(theseus("generate", "a red circle", "--model", "words", *QUICK).err.split())
    assert "warning: every frame is nearly one colour; the model is trained too little, or has diverged: out.mp4" in told
    assert "too large for fp16 (--dtype bf16)" in why_uniform(SimpleNamespace(dtype="fp16", quantize="none"))
    assert "nf4 may be too coarse for it (leave --quantize out)" in why_uniform(SimpleNamespace(dtype="bf16", quantize="nf4"))


def test_own_models_take_no_tiles(theseus: Theseus, here: Path) -> None:
    result = theseus("generate", "a red circle", "--tiling")
    assert result.code == 1
    assert "takes frames whole, and has no: --tiling" in result.err


def test_own_models_begin_from_a_video_too(theseus: Theseus, here: Path) -> None:
    Clip(np.zeros((9, 16, 32, 3), np.uint8), fps=8).save("film.mp4")
    assert theseus("generate", "a red circle", "--video", "film.mp4", "--steps", 4).code == 0
    assert length_of(here / "out.mp4") == (5, 16, 32)


def test_models_speak_of_it_and_write_it(theseus: Theseus, there: Path) -> None:
    shown = json.loads(theseus("models", "show", "words", "--json").out)
    assert shown["parts"]["generator"] == "dit" and shown["vocabulary"] is None
    result = theseus("models", "export", "words", "copy", "--layout", "diffusers", "--dtype", "fp32")
    assert (result.code, result.out) == (0, "copy\n"), result.err
    first, second = ("generate", "a red circle", *QUICK, "-o", "a.mp4"), ("generate", "a red circle", *QUICK, "-o", "b.mp4")
    theseus(*first, "--model", "words")
    theseus(*second, "--model", "copy")
    assert (there / "a.mp4").read_bytes() == (there / "b.mp4").read_bytes()
    assert "there is something already: copy" in theseus("models", "export", "words", "copy", "--layout", "diffusers").err
    assert "hint: --layout diffusers" in theseus("models", "export", "words", "again").err


def test_what_does_not_fit_into_the_layout_is_named(theseus: Theseus, here: Path) -> None:
    result = theseus("models", "export", "runs/transformer", "copy", "--layout", "diffusers")
    assert result.code == 1
    assert "tokenizer causal_vae, not cogvideox_vae; text_encoder builtin, not hub" in result.err
    assert not (here / "copy").exists()
