"""The world as a source: the same clips for the same settings, however a batch is divided, and a dataset made of them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from theseus_cli.main import main
from theseus_core import world
from theseus_core.data.loader import common_size
from theseus_core.data.shards import Dataset
from theseus_core.data.sources.world import Drawn, World, WorldClips, WorldSettings
from theseus_core.errors import TheseusError
from theseus_core.render.video import read

SMALL = Drawn(height=16, width=24, hold_out=("circle moving up-right",), clips=12)


def clips_of(**changes: object) -> WorldClips:
    return WorldClips(SMALL.model_copy(update=changes), Path("nowhere"))


def test_clips_of_the_world_stand_in_for_a_dataset() -> None:
    clips = clips_of(fps=10.0)
    assert len(clips) == len(clips.records) == 12
    assert common_size(clips) == (16, 24)
    read = clips.read(5)
    assert read.frames.shape == (17, 16, 24, 3)
    assert read.fps == 10
    assert read.caption == clips.records[5].captions[0]
    np.testing.assert_array_equal(read.frames, clips_of().read(5).frames)
    drawn = ((clips.world.render([5])[0] + 1) * 127.5).round().byte().permute(1, 2, 3, 0).numpy()
    np.testing.assert_array_equal(read.frames, drawn)
    assert not np.array_equal(read.frames, clips.read(6).frames)


def test_a_clip_is_drawn_in_full_precision_even_within_a_training() -> None:
    clips = clips_of(scenes=("shapes", "nature"))
    with torch.autocast("cpu", torch.bfloat16):
        for number in range(6):
            inside = clips.read(number).frames
            with torch.autocast("cpu", enabled=False):
                np.testing.assert_array_equal(inside, clips.read(number).frames)


def test_captions_are_those_of_the_clips_in_several_wordings() -> None:
    clips = clips_of(clips=60, wordings=3)
    assert max(len(record.captions) for record in clips.records) == 3
    for number, record in enumerate(clips.records):
        for caption in record.captions:
            asked = world.parse(caption)
            assert asked is not None and asked.attributes.items() <= clips.world.describe(number).attributes.items()


def test_what_is_named_is_as_often_as_any_other() -> None:
    kinds = Counter(World(SMALL.model_copy(update={"scenes": ("shapes", "nature")})).describe(n).kind for n in range(600))
    assert 240 < kinds["shapes"] < 360
    assert len(kinds) > 20
    twice = Counter(World(SMALL.model_copy(update={"scenes": ("shapes", "shapes", "rain")})).describe(n).kind for n in range(600))
    assert 340 < twice["shapes"] < 460


def test_one_object_means_one() -> None:
    both, one = World(SMALL), World(SMALL.model_copy(update={"objects": 1}))
    assert any("relation" in both.describe(number).attributes for number in range(100))
    assert not any("relation" in one.describe(number).attributes for number in range(300))


def test_what_is_held_out_never_comes() -> None:
    clips = World(SMALL)
    for number in range(2000):
        attributes = clips.describe(number).attributes
        assert (attributes["shape"], attributes["motion"]) != ("circle", "up-right")


def test_the_fingerprint_knows_what_was_asked_for() -> None:
    changes: list[dict[str, object]] = [
        {"seed": 1},
        {"hold_out": ()},
        {"only": ("red star",)},
        {"often": ("red star",)},
        {"frames": 21},
        {"wordings": 2},
        {"clips": 13},
    ]
    prints = [clips_of(**change).fingerprint for change in ({}, *changes)]
    assert len(set(prints)) == len(prints)
    assert clips_of().fingerprint == prints[0]


def test_the_fingerprint_knows_how_it_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    before = clips_of().fingerprint
    draw = world.render
    monkeypatch.setattr(world, "render", lambda *arguments: draw(*arguments) * 0.9)
    assert clips_of().fingerprint != before


def test_the_world_trains_both_models_without_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--data", "world", "--preset", "debug", "--steps", "2", "--set", "world.clips=24", "--set", "world.height=16"]
    small += ["--set", "world.width=16", "--hold-out", "circle moving up-right", "--scenes", "shapes,rain"]
    small += ["--only", "circle", "--only", "rain"]
    vae, transformer = tmp_path / "vae", tmp_path / "transformer"
    assert run("train", "vae", *small, "-o", vae) == 0
    assert run("train", "transformer", *small, "--vae", vae, "-o", transformer) == 0
    made = json.loads((transformer / "model/model.json").read_text())["made_by"]["settings"]["world"]
    assert made["hold_out"] == ["circle moving up-right"] and made["scenes"] == ["shapes", "rain"]
    assert made["only"] == ["circle", "rain"]
    assert not list(tmp_path.rglob("clips.jsonl"))
    assert "theseus generate" in capsys.readouterr().err


def test_settings_of_the_world_are_refused_for_a_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "vae", "--data", tmp_path / "dataset", "--hold-out", "red star") == 1
    assert "the data is a dataset" in capsys.readouterr().err


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return int(end.value.code or 0)


@pytest.mark.parametrize(("key", "value"), [("frames", 16), ("height", 8), ("seed", -1), ("scenes", ())])
def test_settings_that_make_no_clip_are_refused(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        WorldSettings(**{key: value})


def synth(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main(["synth", "--size", "24x16", *map(str, arguments)])
    return int(end.value.code or 0)


def test_synth_makes_the_same_dataset_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = ("--hold-out", "circle moving up-right", "--hold-out", "red star")
    for name, extra in (("one", ("--export", "gif")), ("two", ())):
        assert synth("-o", tmp_path / name, "--clips", 10, "--seed", 5, "--frames", 18, "--fps", 10, *held, *extra) == 0
    out, err = capsys.readouterr()
    assert out.split() == [str(tmp_path / "one"), str(tmp_path / "two")]
    assert "never shown, for 'red star': colour red, shape star" in err
    one, two = (Dataset.open(tmp_path / name) for name in ("one", "two"))
    assert one.fingerprint == two.fingerprint
    for name in ("dataset.json", "clips.jsonl", "contact_sheet.png", "chunks/00000.zst"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert json.loads((tmp_path / "one/dataset.json").read_text())["settings"]["world"]["hold_out"] == [held[1], held[3]]

    clip = one.read(3)
    assert clip.frames.shape == (18, 16, 24, 3)
    assert clip.fps == 10
    assert world.parse(clip.caption) is not None
    assert sorted(path.name for path in (tmp_path / "one/gif").iterdir()) == sorted(
        f"{n:06d}.{ending}" for n in range(10) for ending in ("gif", "txt")
    )
    assert (tmp_path / "one/gif/000003.txt").read_text() == clip.caption + "\n"
    assert len(read(tmp_path / "one/gif/000003.gif", 99).frames) == 18


def test_synth_shows_only_what_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    only = ("--only", "star spinning clockwise", "--only", "red heart")
    assert synth("-o", tmp_path / "data", "--clips", 8, *only) == 0
    assert "alone shown, for 'red heart': colour red, shape heart" in capsys.readouterr().err
    read = [world.parse(record.captions[0]) for record in Dataset.open(tmp_path / "data").records]
    found = {each.attributes["shape"]: each.attributes for each in read if each is not None and "relation" not in each.attributes}
    assert set(found) <= {"star", "heart"} and found
    assert found.get("star", {}).get("motion", "spinning") == "spinning"
    assert synth("-o", tmp_path / "none", "--clips", 2, *only, "--hold-out", "star", "--hold-out", "heart") == 1
    assert "nothing is left of: shapes" in capsys.readouterr().err


def test_every_other_clip_shows_what_is_asked_for_often() -> None:
    settings = SMALL.model_copy(update={"often": ("red star",), "objects": 1})
    clips = [World(settings).describe(number).attributes for number in range(40)]
    red_stars = [(each["colour"], each["shape"]) == ("red", "star") for each in clips]
    assert all(red_stars[1::2]) and not all(red_stars[::2])
    plain = World(SMALL.model_copy(update={"objects": 1}))
    assert clips[::2] == [plain.describe(number).attributes for number in range(0, 40, 2)]


def test_another_seed_gives_other_clips(tmp_path: Path) -> None:
    for seed in (0, 1):
        assert synth("-o", tmp_path / str(seed), "--clips", 4, "--seed", seed) == 0
    keys = [{record.key for record in Dataset.open(tmp_path / str(seed)).records} for seed in (0, 1)]
    assert keys[0].isdisjoint(keys[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--scenes", "shape"), "no such scenes: shape"),
        (("--frames", "9"), "frames: input should be greater than or equal to 17: 9"),
        (("--hold-out", "an elephant"), "the world has nothing like: an elephant"),
        (("--only", "an elephant"), "the world has nothing like: an elephant"),
        (("--size", "24x17", "--export", "mp4"), ".mp4 needs an even width and height: 24x17"),
        (("--fps", "60", "--export", "gif"), "a GIF plays at most 50 frames a second: 60"),
        (("--fps", "0"), "frames a second must be above 0 and at most 1000: 0"),
    ],
)
def test_synth_refuses_what_it_cannot_make(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert synth("-o", tmp_path / "data", "--clips", 2, *arguments) == 1
    assert f"error: {message}" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_synth_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert synth("-o", tmp_path / "data", "--clips", 2) == 0
    before = (tmp_path / "data/dataset.json").read_bytes()
    assert synth("-o", tmp_path / "data", "--clips", 3) == 1
    assert "there is a dataset already" in capsys.readouterr().err
    assert (tmp_path / "data/dataset.json").read_bytes() == before


def test_settings_refuse_a_hold_out_that_leaves_nothing() -> None:
    clips = World(SMALL.model_copy(update={"hold_out": tuple(world.shapes.SHAPES)}))
    with pytest.raises(TheseusError, match="nothing is left of: shapes"):
        clips.describe(0)


def test_synth_takes_no_place_of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, message in (("gif", "there is something already"), ("chunks", "something else than a dataset")):
        (tmp_path / name / name).mkdir(parents=True)
        (tmp_path / name / name / "mine").write_text("kept")
        assert synth("-o", tmp_path / name, "--clips", 2, "--export", "gif") == 1
        assert ("something else than a dataset" if name == "gif" else message) in capsys.readouterr().err
        assert (tmp_path / name / name / "mine").read_text() == "kept"
    (tmp_path / "begun/.partial").mkdir(parents=True)
    (tmp_path / "begun/gif").mkdir()
    assert synth("-o", tmp_path / "begun", "--clips", 2, "--export", "gif") == 1
    assert "there is something already" in capsys.readouterr().err
    (tmp_path / "begun/.partial/journal.jsonl").touch()
    assert synth("-o", tmp_path / "begun", "--clips", 2) == 1
    assert "`theseus prep` has begun" in capsys.readouterr().err
    assert (tmp_path / "begun/.partial/journal.jsonl").exists()


def test_what_chance_seldom_gives_is_shown_all_the_same() -> None:
    for text in ("a red circle moving left above a blue square", "a black heart shrinking on a grey background"):
        asked = world.wanted(text)
        found = [World(SMALL.model_copy(update={"only": (text,)})).describe(number).attributes for number in range(6)]
        assert all(asked.attributes.items() <= each.items() for each in found)
        assert len({tuple(sorted(each.items())) for each in found}) > 1
    with pytest.raises(TheseusError, match="nothing is left of: shapes"):
        World(SMALL.model_copy(update={"only": ("white heart on a white background",)})).describe(0)


def test_of_several_scenes_those_are_drawn_that_are_asked_for() -> None:
    several = SMALL.model_copy(update={"scenes": ("shapes", "nature"), "only": ("red star",)})
    assert {World(several).describe(number).kind for number in range(8)} == {"shapes"}
    with pytest.raises(TheseusError, match="nothing is left of: shapes"):
        World(SMALL.model_copy(update={"only": ("a waterfall",)})).describe(0)
