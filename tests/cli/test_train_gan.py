"""`theseus train gan`, and what becomes of it: a clip in one evaluation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.torch import load_file

from theseus_core.data.clip import Clip
from theseus_core.data.writer import write_dataset
from theseus_core.errors import TheseusError
from theseus_core.pipeline import TextToVideo
from theseus_core.train.generator import train_generator
from theseus_core.train.journal import read_journal
from theseus_core.train.runs import Report, configure_run

if TYPE_CHECKING:
    from conftest import Theseus

SHORT = {"steps": 4, "checkpoint_every": 2, "evaluate_every": 0, "log_every": 2, "threads": 1}


def train(folder: Path, output: Path, report: Report | None = None) -> None:
    run = configure_run("gan", "debug", {"prompts": 1, "train": SHORT})
    train_generator(run, folder / "dataset", None, output, report)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gan")
    clips = []
    for i, name in enumerate(["red", "green", "blue"] * 2):
        frames = np.full((6, 16, 16, 3), 30 * i, np.uint8)
        for t in range(6):
            frames[t, 4:12, t : t + 8, i % 3] = 230
        clips.append(Clip(frames, 8.0, f"a {name} square"))
    write_dataset(folder / "dataset", clips, {"size": [16, 16]})
    train(folder, folder / "runs/gan")
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(trained / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_training_by_its_command_on_the_world(theseus: Theseus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = [f"--set=world.{key}={value}" for key, value in {"clips": 3, "height": 16, "width": 16}.items()]
    result = theseus("train", "gan", "--data", "world", "--preset", "debug", "--steps", "2", *small, "--set=prompts=1", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["model"] == "runs/gan/model"
    assert 'theseus generate "your words" --model runs/gan -o out.mp4' in result.err
    described = json.loads(Path("runs/gan/config.json").read_text())
    assert (described["describe"]["kind"], described["describe"]["family"]) == ("gan", "gan")
    assert described["train"]["betas"] == [0.0, 0.99]
    line = json.loads(Path("runs/gan/metrics.jsonl").read_text().splitlines()[1])
    terms = {f"discriminator/{term}" for term in ("loss", "pairing", "mismatched", "named", "r1", "r2", "gap", "grad_norm")}
    assert terms | {f"generator/{term}" for term in ("loss", "pairing", "obeyed", "named", "grad_norm")} <= line.keys()
    assert theseus("plot", "runs/gan", "-o", "curves.png").out == "curves.png\n"
    assert not Path("runs/gan/cache").exists()


def test_it_learns_latents_too(theseus: Theseus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    few = ["--steps", "2", "--batch-size", "2", *(f"--set={each}" for each in ("world.clips=12", "model.reading=1", "prompts=1"))]
    refused = theseus("train", "gan", "--data", "world", "--preset", "shapes", "--vae", "shapes", *few)
    assert refused.code == 1 and "gan makes pixels, and takes no tokenizer: --vae shapes" in refused.err
    result = theseus("train", "gan", "--data", "world", "--preset", "sprites", "--vae", "shapes", *few)
    assert result.code == 0, result.err
    assert json.loads(Path("runs/gan/model/model.json").read_text())["parts"] == {
        "tokenizer": "sprites",
        "text_encoder": "builtin",
        "generator": "gan",
    }
    made = theseus("generate", "a red circle", "--model", "runs/gan", "--size", "48x32", "-o", "one.gif")
    assert made.code == 0 and "17 frames of 48x32 at 8 fps, one-step" in made.err


def test_a_training_that_is_killed_goes_on_bit_for_bit(trained: Path, tmp_path: Path) -> None:
    def kill(done: int, total: int, scalars: dict[str, float]) -> None:
        if done == 3:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        train(trained, tmp_path / "run", Report(step=kill))
    notes: list[str] = []
    train(trained, tmp_path / "run", Report(note=notes.append))
    assert any("resuming" in note and "after step 2" in note for note in notes)
    for part in ("model/generator/model", "model/text_encoder/model", "checkpoints/step-000004/optimizer"):
        ours, other = (load_file(root / f"{part}.safetensors") for root in (tmp_path / "run", trained / "runs/gan"))
        assert ours.keys() == other.keys()
        assert all((ours[key] == other[key]).all() for key in ours)
    phases = {key.split(".")[0] for key in other}  # of the optimizers, which come last
    assert phases == {"discriminator", "generator"}


def test_the_generator_waits_until_the_discriminator_can_read(trained: Path, tmp_path: Path) -> None:
    seen: list[set[str]] = []
    run = configure_run("gan", "debug", {"prompts": 1, "train": SHORT, "model": {"reading": 3}})
    report = Report(step=lambda done, total, scalars: seen.append({key.split("/")[0] for key in scalars}))
    train_generator(run, trained / "dataset", None, tmp_path / "run", report)
    assert seen == [{"lr", "discriminator"}] * 3 + [{"lr", "discriminator", "generator"}]
    late = next(line for line in read_journal(tmp_path / "run/metrics.jsonl") if line["step"] == 4)
    assert late["generator/loss"] == pytest.approx(
        late["generator/pairing"] + late["generator/obeyed"] + 4 * late["generator/named"]
    )


def test_what_begins_with_a_trained_one_is_balanced_as_any_other(trained: Path) -> None:
    begun = configure_run("gan", "classic", {"init": str(trained / "runs/gan")})
    assert begun.train == configure_run("gan", "classic", {}).train
    assert begun.frames == 5


def test_words_become_a_video_and_again(theseus: Theseus, here: Path) -> None:
    result = theseus("generate", "a red square", "--model", "runs/gan", "-o", "one.gif")
    assert result.code == 0, result.err
    assert "5 frames of 16x16 at 8 fps, one-step" in result.err
    assert "the same bytes" in theseus("replay", "one.gif.json").err
    assert theseus("generate", "a red square", "--model", "runs/gan", "-o", "long.gif", "--frames", "9").code == 0
    assert "zeppelin" in theseus("generate", "a red zeppelin", "--model", "runs/gan", "-o", "two.gif").err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--steps", "4"], "one-step takes as many steps as it needs, and cannot be asked for: --steps 4"),
        (["--guidance", "3"], "this model knows no guidance, and cannot be asked for: --guidance 3"),
        (["--size", "32"], "this model makes frames of 16x16 alone, not of: 32x32"),
        (["--negative-prompt", "blue"], "has an effect only with guidance: blue"),
        (["--sampler", "ddim"], "no such sampler: ddim"),
    ],
)
def test_what_has_no_effect_is_refused(theseus: Theseus, here: Path, flags: list[str], message: str) -> None:
    result = theseus("generate", "a red square", "--model", "runs/gan", "-o", "one.gif", *flags)
    assert result.code == 1 and message in " ".join(result.err.split())


def test_a_seed_is_a_clip_of_its_own_whatever_the_batch(here: Path) -> None:
    pipe = TextToVideo.load("runs/gan", dtype="fp32")
    both = pipe.sample(["a red square", "a red square"], seed=[3, 4])
    assert (both[0] - both[1]).abs().max() > 1e-3
    alone = pipe.sample(["a red square"], seed=4)
    assert (alone[0] - both[1]).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling": {"guidance_scale": 3.0}}, "the generator knows no guidance, and it cannot be: 3"),
        ({"model": {"latent_width": 32}}, "model.latent_width is set by what feeds the generator, 16, and cannot be: 32"),
        ({"model": {"judge_patch": 3}}, "multiples of 6, not: 16x16"),
        ({"train": {"compile": True}}, "cannot derive this model's penalties: compile"),
    ],
)
def test_settings_that_cannot_be_are_refused(trained: Path, tmp_path: Path, changes: dict[str, object], message: str) -> None:
    run = configure_run("gan", "debug", changes)
    with pytest.raises(TheseusError, match=message):
        train_generator(run, trained / "dataset", None, tmp_path / "run")


def test_it_takes_no_tokenizer(theseus: Theseus, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    result = theseus("train", "transformer", "--family", "gan", "--preset", "debug", "--vae", "runs/vae", "-o", "other")
    assert result.code == 1 and "gan makes pixels, and takes no tokenizer: --vae runs/vae" in result.err


def test_so_few_steps_that_only_the_discriminator_would_learn(
    theseus: Theseus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--data", "world", "--preset", "debug", "--set=world.clips=3", "--set=model.reading=9"]
    refused = theseus("train", "gan", *small, "--steps", "9")
    assert refused.code == 1 and "the generator would learn nothing: --steps 9" in refused.err
    assert not Path("runs/gan/metrics.jsonl").exists()


def test_what_a_model_cannot_go_on_with_is_said(here: Path, trained: Path) -> None:
    begun = {"init": "runs/gan", "prompts": 1, "train": SHORT}
    with pytest.raises(TheseusError, match="train transformer cannot go on with a model of the family gan: runs/gan") as error:
        configure_run("transformer", "small", begun)
    assert error.value.hint == "theseus train gan --set init=runs/gan"
    with pytest.raises(TheseusError, match="train gan cannot go on with a model of the family dit: shapes"):
        configure_run("gan", "debug", {"init": "shapes"})
    larger = [Clip(np.full((6, 32, 32, 3), 40 * i, np.uint8), 8.0, "a red square") for i in range(4)]
    write_dataset(here / "larger", larger, {"size": [32, 32]})
    with pytest.raises(TheseusError, match=r"makes \d+ frames of 16x16 and no others, and cannot go on with \d+ of 32x32"):
        train_generator(configure_run("gan", "debug", begun), here / "larger", None, here / "runs/on")
    run = configure_run("gan", "debug", begun, {"frames": 2})
    with pytest.raises(TheseusError, match="cannot go on with 2 of 16x16"):
        train_generator(run, trained / "dataset", None, here / "runs/on")
