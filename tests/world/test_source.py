"""The world as a source: the same clips for the same settings, however a batch is divided, and a dataset made of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from theseus_cli.main import main
from theseus_core import world
from theseus_core.contracts import Text
from theseus_core.data.shards import Dataset
from theseus_core.data.sources.world import World, WorldSettings, WorldSource
from theseus_core.errors import TheseusError
from theseus_core.render.video import read

SMALL = WorldSettings(height=16, width=24, hold_out=("circle moving up-right",))


def source(settings: WorldSettings = SMALL, **changes: object) -> WorldSource:
    return WorldSource(settings, **({"batch_size": 8, "accumulate": 1} | changes))  # type: ignore[arg-type]


def lengths(captions: Sequence[str]) -> Text:
    ids = torch.tensor([[len(caption)] for caption in captions])
    return Text(mask=ids >= 0, ids=ids)


def test_a_batch_is_a_function_of_its_step() -> None:
    first, again = source().batch(3, 0, 0, 1), source().batch(3, 0, 0, 1)
    assert first.video is not None and again.video is not None
    assert first.video.shape == (8, 3, 17, 16, 24)
    assert torch.equal(first.video, again.video)
    assert first.captions == again.captions
    assert first.text is None
    other = source().batch(4, 0, 0, 1)
    assert other.video is not None and not torch.equal(first.video, other.video)
    assert set(first.captions).isdisjoint(other.captions)


def test_ranks_and_micro_steps_share_out_the_same_clips() -> None:
    whole = source().batch(2, 0, 0, 1)
    parts = [source(accumulate=2).batch(2, micro, rank, 2) for micro in range(2) for rank in range(2)]
    assert [part.video.shape[0] for part in parts if part.video is not None] == [2, 2, 2, 2]
    assert [caption for part in parts for caption in part.captions] == list(whole.captions)
    assert whole.video is not None
    assert torch.equal(torch.cat([part.video for part in parts if part.video is not None]), whole.video)


def test_captions_are_those_of_the_clips_and_are_dropped_in_part() -> None:
    drops = source(words=lengths, caption_dropout=0.25, batch_size=200)
    kept = [drops._caption(number) for number in range(200)]
    assert 25 < kept.count("") < 75
    clips = World(SMALL)
    assert [caption for caption in kept if caption] == [clips.caption(n) for n, caption in enumerate(kept) if caption]
    batch = source(words=lengths, caption_dropout=0.25).batch(0, 0, 0, 1)
    assert batch.text is not None and batch.text.ids is not None
    assert batch.text.ids.flatten().tolist() == [len(caption) for caption in kept[:8]]


def test_what_is_held_out_never_comes() -> None:
    clips = World(SMALL)
    for number in range(2000):
        attributes = clips.describe(number).attributes
        assert (attributes["shape"], attributes["motion"]) != ("circle", "up-right")


def test_the_fingerprint_knows_what_was_asked_for() -> None:
    changed = [
        source(SMALL.model_copy(update={"seed": 1})),
        source(SMALL.model_copy(update={"hold_out": ()})),
        source(SMALL.model_copy(update={"frames": 21})),
        source(words_fingerprint="other words"),
        source(caption_dropout=0.1),
    ]
    prints = [each.fingerprint for each in (source(), *changed)]
    assert len(set(prints)) == len(prints)
    assert source().fingerprint == prints[0]


@pytest.mark.parametrize(("key", "value"), [("frames", 16), ("height", 8), ("seed", -1), ("scenes", ())])
def test_settings_that_make_no_clip_are_refused(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        WorldSettings(**{key: value})  # type: ignore[arg-type]


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
    with pytest.raises(TheseusError, match="everything is held out"):
        clips.describe(0)
