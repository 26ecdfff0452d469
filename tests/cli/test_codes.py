"""The way over codes, by the commands: a dataset becomes codes, these a transformer, and words, or a clip, a video."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import patch

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from theseus_core.beginnings import Window, starting_noise, windows
from theseus_core.contracts import Generator, VideoTokenizer
from theseus_core.data.clip import Clip
from theseus_core.data.writer import write_dataset
from theseus_core.errors import TheseusError
from theseus_core.pipeline import TextToVideo, to_video
from theseus_core.registry import build
from theseus_core.render.video import read
from theseus_core.train.generator import train_generator
from theseus_core.train.runs import Report, configure_run
from theseus_core.train.tokenizer import train_tokenizer

if TYPE_CHECKING:
    from conftest import Theseus

SHORT = {"steps": 4, "checkpoint_every": 2, "evaluate_every": 0, "log_every": 2, "threads": 1}
CHANGES: dict[str, dict[str, Any]] = {
    "vae": {"family": "vqvae", "pictures": 1, "train": SHORT},
    "transformer": {"family": "autoregressive", "prompts": 1, "train": SHORT},
}


def write_clips(folder: Path) -> None:
    clips = []
    for i, name in enumerate(["red", "green", "blue"] * 2):
        frames = np.full((6, 16, 16, 3), 30 * i, np.uint8)
        for t in range(6):
            frames[t, 4:12, t : t + 8, i % 3] = 230
        clips.append(Clip(frames, 8.0, f"a {name} square"))
    write_dataset(folder, clips, {"size": [16, 16]})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("codes")
    write_clips(folder / "dataset")
    for kind in ("vae", "transformer"):
        train(kind, folder, folder / f"runs/{kind}")
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(trained / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(kind: str, folder: Path, output: Path, report: Report | None = None) -> None:
    run = configure_run(kind, "debug", CHANGES[kind])
    if kind == "vae":
        train_tokenizer(run, folder / "dataset", output, report)
    else:
        train_generator(run, folder / "dataset", folder / "runs/vae", output, report)


def test_the_two_trainings_by_their_commands(theseus: Theseus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_clips(tmp_path / "dataset")
    quick = ("--preset", "debug", "--steps", "2", "--set", "train.evaluate_every=0")
    result = theseus("train", "vae", "--family", "vqvae", *quick, "--set", "pictures=1", "--json")
    assert result.code == 0, result.err
    scores = json.loads(result.out)["scores"]
    assert {"psnr", "ssim", "ciede2000", "saturation", "usage", "perplexity"} <= scores.keys()
    lines = [json.loads(line) for line in Path("runs/vae/metrics.jsonl").read_text().splitlines()]
    assert {"codebook", "commitment", "diversity", "colour", "ssim", "usage", "perplexity"} <= lines[-2].keys()
    refused = theseus("train", "transformer", *quick)
    assert refused.code == 1 and "the generator needs latents, and the tokenizer makes: codes" in refused.err
    result = theseus("train", "transformer", "--family", "autoregressive", *quick, "--set", "prompts=1", "--json")
    assert result.code == 0, result.err
    assert {"loss", "causal", "masked"} <= json.loads(result.out)["scores"].keys()
    assert json.loads(Path("runs/transformer/config.json").read_text())["describe"]["sampling"]["sampler"] == "masked"
    wrong = theseus("train", "transformer", "--family", "autoregressive", *quick, "--set", "model.codebook_size=7")
    assert wrong.code == 1 and "cannot be: 7" in wrong.err


@pytest.mark.parametrize("kind", ["vae", "transformer"])
def test_a_training_that_is_killed_goes_on_bit_for_bit(trained: Path, tmp_path: Path, kind: str) -> None:
    def kill(done: int, total: int, scalars: dict[str, float]) -> None:
        if done == 3:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        train(kind, trained, tmp_path / kind, Report(step=kill))
    notes: list[str] = []
    train(kind, trained, tmp_path / kind, Report(note=notes.append))
    assert any("resuming" in note and "after step 2" in note for note in notes)
    part = "tokenizer" if kind == "vae" else "generator"
    weights = [load_file(root / f"model/{part}/model.safetensors") for root in (tmp_path / kind, trained / "runs" / kind)]
    assert weights[0].keys() == weights[1].keys()
    assert all((weights[0][key] == weights[1][key]).all() for key in weights[0])


def test_the_training_says_that_the_codebook_collapses(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("theseus_core.tokenizers.vqvae.Model.worry", lambda self, scalars: f"usage {scalars['usage']:.1f}")
    notes: list[str] = []
    train("vae", trained, tmp_path / "vae", Report(note=notes.append))
    warnings = [note for note in notes if note.startswith("warning")]
    assert len(warnings) == 1 and warnings[0].startswith("warning, step 2: usage 0.")


def test_words_become_a_video_either_way_and_again(theseus: Theseus, here: Path) -> None:
    result = theseus("generate", "a red square", "-o", "one.gif", "--steps", "3", "--top-k", "8", "--temperature", "0.9")
    assert result.code == 0, result.err
    assert "5 frames of 16x16 at 8 fps, 3 steps of masked, guidance 3" in result.err
    recipe = json.loads(Path("one.gif.json").read_text())["recipe"]
    assert (recipe["top_k"], recipe["temperature"], recipe["top_p"], recipe["first_frames"]) == (8, 0.9, None, None)
    assert "the same bytes" in theseus("replay", "one.gif.json").err
    result = theseus("generate", "a red square", "-o", "two.gif", "--decoder", "causal", "--top-p", "0.9")
    assert result.code == 0 and ", causal, guidance 3" in result.err.replace("8 fps, ", ", ")
    assert theseus("generate", "a red square", "-o", "three.gif", "--quantize", "int8").code == 0


def test_a_clip_is_continued(theseus: Theseus, here: Path) -> None:
    frames = np.full((3, 16, 16, 3), 200, np.uint8)
    frames[:, :8] = [20, 60, 200]
    Clip(frames, 8.0).save("clip.gif")
    result = theseus("generate", "a red square", "-o", "on.avi", "--first-frames", "clip.gif", "--dtype", "fp32")
    assert result.code == 0, result.err
    assert "continuing the first 3 frames of clip.gif, 2 are new" in result.err
    pipe = TextToVideo.load("runs/transformer", dtype="fp32")
    first = to_video(read(Path("clip.gif"), 5, (16, 16)).frames)[None]
    expected = pipe.generate("a red square", first_frames=first).frames
    made = read(Path("on.avi"), 5).frames
    assert len(made) == 5 and np.abs(made.astype(int) - expected).mean() < 12
    other = pipe.generate("a red square", first_frames=-first).frames
    assert np.abs(other[:3].astype(int) - expected[:3]).mean() > 5
    assert "the same bytes" in theseus("replay", "on.avi.json").err
    Clip(255 - frames, 8.0).save("clip.gif")
    changed = theseus("replay", "on.avi.json")
    assert changed.code == 1 and "has changed since the video was made from it: clip.gif" in changed.err
    with pytest.raises(TheseusError, match="cannot begin with so many frames: 5"):
        pipe.generate("a red square", first_frames=torch.cat([first, first[:, :, :2]], dim=2), frames=5)


def test_a_clip_longer_than_the_model_makes_is_continued_as_a_whole(
    theseus: Theseus, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (9, 16, 16, 3), np.uint8)
    Clip(frames, 8.0).save("clip.avi")
    given = to_video(read(Path("clip.avi"), 99).frames)[None]
    flags = ("--first-frames", "clip.avi", "--dtype", "fp32", "--decoder", "causal")
    result = theseus("generate", "a red square", "-o", "on.avi", *flags)
    assert result.code == 0, result.err
    assert "continuing the first 9 frames of clip.avi, 2 are new" in result.err
    assert len(read(Path("on.avi"), 99).frames) == 11
    assert "the same bytes" in theseus("replay", "on.avi.json").err
    pipe = TextToVideo.load("runs/transformer", dtype="fp32")
    made = pipe.sample(["a red square"], first_frames=given, sampler="causal")
    assert made.shape[2] == 11 and torch.equal(made[:, :, :9], given)
    z, t, h, w = pipe.tokenizer.latent_shape(11, 16, 16)
    noise = starting_noise((z, t, h, w), [0])[:, :, 6:]
    last = pipe.sample(["a red square"], first_frames=given[:, :, 6:], latents=noise, height=16, width=16, sampler="causal")
    assert torch.equal(made[:, :, 9:], last[:, :, 3:])
    monkeypatch.setattr("theseus_core.recipe.LONGEST", 8)
    result = theseus("generate", "a red square", "-o", "no.avi", *flags)
    assert result.code == 1 and "only a clip of up to 8 frames is continued as a whole, not: clip.avi" in result.err
    result = theseus("generate", "a red square", "-o", "short.avi", "--frames", "5", *flags)
    assert "continuing the first 4 frames of clip.avi, 1 are new" in result.err


@pytest.mark.parametrize("sampler", ["masked", "causal"])
def test_more_frames_than_the_model_learned_are_made_in_windows(here: Path, sampler: str) -> None:
    """Each goes on from the codes that were written, and not from what can be seen of them."""
    pipe = TextToVideo.load("runs/transformer", dtype="fp32")
    prompts = ["a red square", "a blue square"]
    seen: list[tuple[int, int]] = []
    known: list[torch.Tensor] = []
    written: list[torch.Tensor] = []
    write = pipe.generator.sample

    def watched(*args: Any, **kwargs: Any) -> torch.Tensor:
        known.extend([kwargs["given"]] if "given" in kwargs else [])
        written.append(write(*args, **kwargs))
        return written[-1]

    with patch.object(pipe.generator, "sample", watched):
        made = pipe.sample(prompts, frames=11, sampler=sampler, progress=lambda *at: seen.append(at))
    assert made.shape == (2, 3, 11, 16, 16)
    assert [codes.shape[2] for codes in written] == [5] * 4 and len(known) == 3
    assert all(torch.equal(before[:, :, 2:], given) for before, given in zip(written, known, strict=False))
    done, total = zip(*seen, strict=True)
    assert list(done) == sorted(done) and done[-1] == 11 and set(total) == {11}
    noise = torch.cat([starting_noise(pipe.tokenizer.latent_shape(11, 16, 16), [0])] * 2)[:, :, :5]
    assert torch.equal(pipe.sample(prompts, latents=noise, height=16, width=16, sampler=sampler), made[:, :, :5])


def test_where_a_code_stands_for_several_frames_each_window_is_encoded_anew(here: Path) -> None:
    torch.manual_seed(0)
    small = {"codebook_size": 32, "code_width": 16, "lookup_width": 4, "width": 32, "encoder_blocks": 1, "decoder_blocks": 1}
    pipe = TextToVideo.load("runs/transformer", dtype="fp32")
    tokenizer = build("tokenizers", "vqvae", "tiny", small)
    assert isinstance(tokenizer, VideoTokenizer) and tokenizer.time_factor == 4
    pipe.tokenizer = tokenizer.eval()
    pipe.defaults = pipe.defaults.model_copy(update={"frames": 9})
    first = torch.rand(1, 3, 5, 16, 16) * 2 - 1
    prompts = ["a red square", "a blue square"]
    made = pipe.sample(prompts, first_frames=first, frames=13, steps=3)
    assert made.shape == (2, 3, 13, 16, 16) and torch.equal(made[:, :, :5], first.expand(2, -1, -1, -1, -1))
    noise = torch.cat([starting_noise(pipe.tokenizer.latent_shape(13, 16, 16), [0])] * 2)[:, :, 1:]
    last = pipe.sample(prompts, first_frames=made[:, :, 4:9], latents=noise, height=16, width=16, steps=3)
    assert torch.equal(made[:, :, 9:], last[:, :, 5:])


@pytest.mark.parametrize(("preset", "every"), [("debug", 1), ("tiny", 4)])
def test_windows_follow_one_another_without_a_gap(preset: str, every: int) -> None:
    tokenizer, generator = build("tokenizers", "vqvae", preset), build("generators", "autoregressive", "debug")
    assert isinstance(tokenizer, VideoTokenizer) and isinstance(generator, Generator)
    assert tokenizer.time_factor == every
    at_once = 1 + 4 * every
    for frames in range(1 + every, 60, every):
        for given in (0, *range(1, frames, every)):
            found = windows(tokenizer, generator, frames, at_once, given)
            there = given
            for window in found:
                assert window.start + window.known == there and window.start % every == 0
                assert window.known >= min(there, 1 + 2 * every)
                assert window.frames == min(at_once, frames)
                there = window.start + window.frames
            assert there == frames
    assert windows(tokenizer, generator, 33, 1) == [Window(0, 33, 0)]
    assert windows(tokenizer, cast(Generator, build("generators", "dit", "debug")), 33, 5) == [Window(0, 33, 0)]


def test_a_model_of_codes_is_trained_on_with_its_own_ways_and_takes_no_differences(theseus: Theseus, here: Path) -> None:
    write_clips(here / "dataset")
    quick = ("--init", "runs/transformer", "--steps", "1", "--set", "train.evaluate_every=0", "--set", "prompts=1")
    result = theseus("train", "transformer", *quick, "-o", "runs/on", "--json")
    assert result.code == 0, result.err
    assert {"loss", "causal", "masked"} <= json.loads(result.out)["scores"].keys()
    assert TextToVideo.load("runs/on").defaults == TextToVideo.load("runs/transformer").defaults
    result = theseus("train", "transformer", *quick, "--lora", "4")
    assert result.code == 1 and "for transformers of the family dit, not for: autoregressive" in result.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--decoder", "causal", "--steps", "7"], "causal takes as many steps as it needs, and cannot be asked for: --steps 7"),
        (["--decoder", "ddim"], "not trained for the sampler: ddim"),
        (["--top-p", "0"], "top_p"),
        (["--cache", "0.02"], "no steps to leave out: cache 0.02"),
        (["--dynamic-guidance"], "no dynamic guidance"),
        (["--image", "clip.gif"], "takes no: --image"),
        (["--video", "clip.gif"], "takes no: --video"),
        (["--temperature", "-1"], "temperature"),
        (["--first-frames", "missing.gif"], "no such file: missing.gif"),
        (["--frames", "1", "--first-frames", "clip.gif"], "nothing to continue in a video of so few frames: 1"),
    ],
)
def test_what_cannot_be_is_refused(theseus: Theseus, here: Path, flags: list[str], message: str) -> None:
    Clip(np.zeros((3, 16, 16, 3), np.uint8), 8.0).save("clip.gif")
    result = theseus("generate", "a red square", "-o", "no.gif", *flags)
    assert result.code == 1 and message in result.err, result.err
    assert not Path("no.gif").exists()
