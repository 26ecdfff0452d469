"""A table of URLs and sentences with a folder of GIFs: captions stay with their GIF, and a GIF in its split."""

import json
from pathlib import Path

import pytest
from prep_clips import CORPUS, moving_gif

from theseus_core.data.filters import PrepSettings
from theseus_core.data.loader import split
from theseus_core.data.prepare import Summary, prepare
from theseus_core.data.shards import Dataset
from theseus_core.data.sources.tgif import gif_name
from theseus_core.errors import TheseusError

SMALL = {"width": 16, "height": 16, "min_frames": 3, "max_frames": 9}


def url(name: str) -> str:
    return f"https://38.media.example.invalid/0f3a/{name}"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    gifs = tmp_path / "gifs"
    gifs.mkdir()
    for number in range(6):
        (gifs / f"tumblr_{number}_400.gif").write_bytes(moving_gif(4, number))
    (gifs / "unnamed.gif").write_bytes(moving_gif(4, 99))
    lines = [f"{url(f'tumblr_{number}_400.gif')}\tsentence {number}" for number in range(8)]
    lines.insert(4, f"{url('tumblr_1_400.gif')}\tanother sentence")
    (tmp_path / "tgif.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path / "tgif.tsv"


def run(table: Path, **change: object) -> tuple[Summary, Dataset, list[dict[str, str]]]:
    output = table.parent / "out"
    summary = prepare([table], output, PrepSettings.model_validate(SMALL | change))
    rejected = [json.loads(line) for line in (output / "rejected.jsonl").read_text().splitlines()]
    return summary, Dataset.open(output), rejected


def test_captions_are_grouped_and_missing_files_counted(table: Path) -> None:
    summary, dataset, rejected = run(table)
    assert summary.kinds == ("tgif",)
    assert (summary.found, summary.kept, summary.rejected) == (8, 6, {"missing": 2})
    assert (summary.frames, summary.captions) == (24, {"table": 6})
    captions = {record.source: record.captions for record in dataset.records}
    assert captions["tumblr_1_400.gif"] == ("sentence 1", "another sentence")
    assert captions["tumblr_5_400.gif"] == ("sentence 5",)
    assert "unnamed.gif" not in captions
    assert rejected[0]["source"] == "tumblr_6_400.gif"
    assert "not in gifs; nearest: tumblr_" in rejected[0]["detail"]


def test_a_gif_is_in_one_split_the_one_furthest_from_training(table: Path) -> None:
    lists = {"train": [0, 1, 2, 5], "val": [3, 5], "test": [4, 2, 11]}
    (table.parent / "splits").mkdir()
    for name, numbers in lists.items():
        lines = [url(f"tumblr_{number}_400.gif") + "\r\n" for number in numbers]
        (table.parent / "splits" / f"{name}.txt").write_text("".join(lines))
    summary, dataset, _ = run(table)
    found = {record.source[7]: record.split for record in dataset.records}
    assert found == {"0": "train", "1": "train", "2": "test", "3": "val", "4": "test", "5": "val"}
    assert summary.splits == {"test": 2, "train": 2, "val": 2}
    assert [note.split(" ", 1)[0] for note in summary.notes] == ["1", "2", "2"], summary.notes
    trained, held = split(dataset, 0.5)
    assert ([dataset.records[i].split for i in trained], [dataset.records[i].split for i in held]) == (["train"] * 2, ["val"] * 2)
    assert prepare([table], table.parent / "out", PrepSettings.model_validate(SMALL)).splits == summary.splits


def test_lists_elsewhere_and_a_folder_elsewhere(table: Path) -> None:
    (table.parent / "gifs").rename(table.parent / "mine")
    (table.parent / "lists").mkdir()
    (table.parent / "lists" / "test.txt").write_text(url("tumblr_3_400.gif"))
    with pytest.raises(TheseusError, match="no folder of GIFs"):
        run(table)
    assert not (table.parent / "out").exists()
    _, dataset, _ = run(table, files=str(table.parent / "mine"), splits=str(table.parent / "lists"))
    assert [record.split for record in dataset.records] == [None, None, None, "test", None, None]
    (table.parent / "lists" / "test.txt").write_text(url("other.gif"))
    with pytest.raises(TheseusError, match="name no file of"):
        run(table, files=str(table.parent / "mine"), splits=str(table.parent / "lists"))
    with pytest.raises(TheseusError, match=r"no train.txt, val.txt or test.txt in"):
        run(table, files=str(table.parent / "mine"), splits=str(table.parent / "mine"))


def test_two_copies_of_a_clip_in_two_splits_become_one_that_is_held_out(table: Path) -> None:
    (table.parent / "gifs" / "tumblr_3_400.gif").write_bytes(moving_gif(4, 0))
    (table.parent / "splits").mkdir()
    (table.parent / "splits" / "train.txt").write_text(url("tumblr_0_400.gif"))
    (table.parent / "splits" / "test.txt").write_text(url("tumblr_3_400.gif"))
    summary, dataset, _ = run(table)
    assert summary.rejected == {"duplicate": 1, "missing": 2}
    assert (dataset.records[0].split, dataset.records[0].captions) == ("test", ("sentence 0", "sentence 3"))


def test_no_gif_at_all_is_an_error_that_says_what_is_near(table: Path) -> None:
    for path in (table.parent / "gifs").glob("tumblr_*"):
        path.unlink()
    (table.parent / "gifs" / "tumblr_0_500.gif").write_bytes(moving_gif(4))
    with pytest.raises(TheseusError, match=r"none of the 8 files that .*tgif.tsv names is in: .*gifs") as caught:
        run(table)
    assert "nearest: tumblr_0_500.gif" in (caught.value.hint or "")
    assert not (table.parent / "out").exists()


def test_names_in_urls() -> None:
    assert gif_name("https://a.b/c/tumblr%20x.gif?size=1#top") == "tumblr x.gif"
    assert gif_name("https://a.b/c/..%2f..%2fetc.gif") == "etc.gif"


@pytest.mark.skipif(not (CORPUS / "tgif.tsv").exists(), reason="the corpus is not here")
def test_the_corpus(tmp_path: Path) -> None:
    summary = prepare([CORPUS / "tgif.tsv"], tmp_path / "out", PrepSettings(width=16, height=16))
    assert (summary.found, summary.kinds, summary.captions) == (40, ("tgif",), {"table": summary.clips})
    expected = json.loads((CORPUS / "expected.json").read_text())["files"]
    kept = [file for name, file in expected.items() if name.startswith("gifs/") and file["keep_15_40"] is True]
    assert summary.kept == len(kept)
    assert summary.frames == sum(file["frames"] for file in kept)
