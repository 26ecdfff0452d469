"""Lists of videos as sources, and folders of frames as clips."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from prep_clips import CORPUS, Pixels, moving_gif, moving_pictures

from theseus_core.data.filters import PrepSettings
from theseus_core.data.pictures import pictures
from theseus_core.data.prepare import Summary, prepare
from theseus_core.data.shards import Dataset, Record
from theseus_core.data.sources.gather import recognise
from theseus_core.errors import TheseusError

SMALL = {"width": 48, "height": 32, "min_frames": 3, "max_frames": 12}


def run(*sources: Path, **change: object) -> tuple[Summary, Dataset, dict[str, str]]:
    output = sources[0].absolute().parent / "out"
    shutil.rmtree(output, ignore_errors=True)
    summary = prepare(sources, output, PrepSettings.model_validate(SMALL | change))
    rejected = [json.loads(line) for line in (output / "rejected.jsonl").read_text().splitlines()]
    return summary, Dataset.open(output), {entry["source"]: f"{entry['reason']}: {entry['detail']}" for entry in rejected}


def by_name(dataset: Dataset) -> dict[str, Record]:
    return {record.source: record for record in dataset.records}


def gifs(folder: Path, count: int = 4) -> Path:
    (folder / "clips").mkdir(parents=True)
    for number in range(count):
        (folder / "clips" / f"{number}.gif").write_bytes(moving_gif(4, number))
    return folder


def test_a_json_list(tmp_path: Path) -> None:
    table = gifs(tmp_path) / "list.json"
    entries = [
        {"video_path": "clips/0.gif", "text": "a dot", "split": "Validation"},
        {"video_file": "1.gif", "description": ["one", "two"]},
        {"video_path": "clips/2.gif", "text": "a cat", "split": "train"},
        {"video_path": "clips/2.gif", "text": "the cat", "split": "test"},
        {"video_path": "clips/9.gif", "text": "gone"},
    ]
    table.write_text(json.dumps(entries))
    summary, dataset, rejected = run(table)
    assert summary.kinds == ("list",)
    assert {name: (record.captions, record.split) for name, record in by_name(dataset).items()} == {
        "clips/0.gif": (("a dot",), "val"),
        "clips/1.gif": (("one", "two"), None),
        "clips/2.gif": (("a cat", "the cat"), "test"),
    }
    assert list(rejected) == ["clips/9.gif"]
    assert rejected["clips/9.gif"].startswith("missing: not in ")
    entries[0]["split"] = "dev"
    table.write_text(json.dumps(entries))
    with pytest.raises(TheseusError, match=r"no such split in .*list.json: dev"):
        run(table)


def test_files_of_one_name_in_several_folders(tmp_path: Path) -> None:
    """A row whose file is missing does not give its caption and its split to the file of that name in another folder."""
    for number, folder in enumerate(("cats", "birds")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.gif").write_bytes(moving_gif(4, number))
    table = tmp_path / "list.csv"
    table.write_text("path,caption,split\ncats/1.gif,a cat,train\nbirds/1.gif,a bird,val\ndogs/1.gif,a dog,test\n")
    _, dataset, rejected = run(table)
    assert {name: (record.captions, record.split) for name, record in by_name(dataset).items()} == {
        "cats/1.gif": (("a cat",), "train"),
        "birds/1.gif": (("a bird",), "val"),
    }
    assert list(rejected) == ["dogs/1.gif"]
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/train.txt").write_text("birds/1.gif\n")
    (tmp_path / "splits/test.txt").write_text("./cats/1.gif\n")
    summary, dataset, _ = run(table)
    assert {name: record.split for name, record in by_name(dataset).items()} == {"cats/1.gif": "test", "birds/1.gif": "train"}
    assert not any("two lists" in note for note in summary.notes)


@pytest.mark.parametrize("name", ["list.csv", "list.tsv", "list.jsonl"])
def test_other_lists_with_a_folder_elsewhere_and_splits(tmp_path: Path, name: str) -> None:
    gifs(tmp_path / "data")
    rows = [("clips/3.gif", "three"), ("1.gif", "one"), ("2.gif", "two")]
    text = {
        "list.csv": "text,video_path\n" + "".join(f"{caption},{path}\n" for path, caption in rows),
        "list.tsv": "".join(f"{path}\t{caption}\n" for path, caption in rows),
        "list.jsonl": "".join(json.dumps({"file": path, "text": caption}) + "\n" for path, caption in rows),
    }[name]
    table = tmp_path / name
    table.write_text(text)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "test.txt").write_text("clips/3.gif\n")
    _, dataset, _ = run(table, files=str(tmp_path / "data"), splits=str(tmp_path / "lists"))
    assert [(record.source, record.captions, record.split) for record in dataset.records] == [
        ("clips/3.gif", ("three",), "test"),
        ("clips/1.gif", ("one",), None),
        ("clips/2.gif", ("two",), None),
    ]


def test_a_name_that_two_files_have_is_not_guessed(tmp_path: Path) -> None:
    gifs(tmp_path)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "1.gif").write_bytes(moving_gif(4, 8))
    (tmp_path / "list.tsv").write_text("0.gif\tzero\n1.gif\tone\n")
    _, dataset, rejected = run(tmp_path / "list.tsv")
    assert list(by_name(dataset)) == ["clips/0.gif"]
    assert rejected == {"1.gif": "missing: 2 files have this name, such as: clips/1.gif, more/1.gif"}


def test_a_list_of_nothing_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text('[{"video_path": "x.mp4", "text": "a"}]')
    with pytest.raises(TheseusError, match=r"none of the 1 files that .*list.json names is in"):
        run(tmp_path / "list.json")
    with pytest.raises(TheseusError, match="no such folder: nowhere"):
        run(tmp_path / "list.json", files="nowhere")
    assert not (tmp_path / "out").exists()


def test_sources_of_several_kinds_at_once(tmp_path: Path) -> None:
    gifs(tmp_path / "a", 2)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.gif").write_bytes(moving_gif(4, 7))
    (tmp_path / "a" / "list.tsv").write_text("clips/1.gif\tone\n")
    (tmp_path / "b" / "captions.tsv").write_text("x.gif\tby its table\n")
    summary, dataset, _ = run(tmp_path / "a" / "list.tsv", tmp_path / "b")
    assert summary.kinds == ("list", "clips")
    assert {name: record.captions for name, record in by_name(dataset).items()} == {
        "clips/1.gif": ("one",),
        "b/x.gif": ("by its table",),
    }


def frames_folder(folder: Path, clip: Pixels, ending: str = ".png") -> Path:
    folder.mkdir(parents=True)
    for number, pixels in enumerate(clip):
        Image.fromarray(pixels).save(folder / f"frame_{number}{ending}", quality=95)
    return folder


def test_folders_of_frames(tmp_path: Path) -> None:
    clip = moving_pictures(12)
    frames_folder(tmp_path / "in" / "a.walk", clip)
    frames_folder(tmp_path / "in" / "more" / "red_dot", clip[:5], ".JPG")
    frames_folder(tmp_path / "in" / "short", clip[:2])
    frames_folder(tmp_path / "in" / "torn", clip[:4])
    torn = tmp_path / "in" / "torn" / "frame_2.png"
    torn.write_bytes(torn.read_bytes()[:-60])
    frames_folder(tmp_path / "in" / "fake", clip[:4])
    (tmp_path / "in" / "fake" / "frame_1.png").write_text("no picture")
    (tmp_path / "in" / "a.walk.txt").write_text("a white block walks\n")
    summary, dataset, rejected = run(tmp_path / "in", frame_rate=12)
    assert summary.kinds == ("frames",)
    assert list(rejected) == ["fake", "short", "torn"]
    assert rejected["fake"] == "not_video: not a picture: frame_1.png"
    assert rejected["short"].startswith("too_short")
    assert rejected["torn"].startswith("damaged: frame_2.png")
    records = by_name(dataset)
    assert records["a.walk"].captions == ("a white block walks",)
    assert (records["more/red_dot"].captions, records["more/red_dot"].frames, records["a.walk"].fps) == (("red dot",), 5, 12)
    np.testing.assert_array_equal(dataset.read(0).frames, clip)  # 2 before 10
    assert np.abs(dataset.read(1).frames.astype(int) - clip[:5]).mean() < 4


def test_one_folder_of_frames_and_one_in_a_list(tmp_path: Path) -> None:
    folder = frames_folder(tmp_path / "walk", moving_pictures(4))
    assert recognise(folder) == "frames"
    _, dataset, _ = run(folder)
    assert (dataset.records[0].source, dataset.records[0].fps) == ("walk", 10)
    (tmp_path / "list.csv").write_text("video_path,text\nwalk,a walk\n")
    _, dataset, _ = run(tmp_path / "list.csv", frame_rate=5)
    assert (dataset.records[0].captions, dataset.records[0].fps) == (("a walk",), 5)


def test_pictures_beside_clips_are_no_clips(tmp_path: Path) -> None:
    frames_folder(tmp_path / "in" / "posters", moving_pictures(4))
    (tmp_path / "in" / "a.gif").write_bytes(moving_gif(4))
    assert recognise(tmp_path / "in") == "clips"
    _, dataset, _ = run(tmp_path / "in", source="frames")
    assert list(by_name(dataset)) == ["posters"]


def test_pictures_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("f10.png", "f9.png", "f1.jpeg", "f²3.png", ".f0.png", "f.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in pictures(tmp_path)] == ["f1.jpeg", "f9.png", "f10.png", "f²3.png"]


@pytest.mark.parametrize(("most", "starts"), [(1, [0]), (2, [0, 6]), (9, [0, 3, 6, 9])])
def test_so_many_windows_of_a_file(tmp_path: Path, most: int, starts: list[int]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "long.gif").write_bytes(moving_gif(12, 1, size=48))
    settings: dict[str, object] = {"height": 48, "max_frames": 3, "long": "windows"}
    _, every, _ = run(tmp_path / "in", **settings)
    expected = [every.read(start // 3).frames for start in starts]
    _, dataset, _ = run(tmp_path / "in", per_file=most, **settings)
    assert len(dataset) == len(expected)
    for place, frames in enumerate(expected):
        np.testing.assert_array_equal(dataset.read(place).frames, frames)


@pytest.mark.skipif(not (CORPUS / "captions.tsv").exists(), reason="the corpus is not here")
def test_the_corpus_by_its_list(tmp_path: Path) -> None:
    summary = prepare([CORPUS / "captions.tsv"], tmp_path / "out", PrepSettings(width=16, height=16, limit=6))
    assert (summary.kinds, summary.found) == (("list",), 6)
    assert "missing" not in summary.rejected
