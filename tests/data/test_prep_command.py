"""`theseus prep` and its way back to files, from the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from prep_clips import moving_gif
from typer.testing import CliRunner

from theseus_cli.commands.prep import prep
from theseus_core.data.shards import Dataset
from theseus_core.errors import TheseusError

app = typer.Typer()
app.command()(prep)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gifs").mkdir()
    for number, frames in enumerate((15, 20, 40, 41)):
        (tmp_path / "gifs" / f"a_red_dot_{number}.gif").write_bytes(moving_gif(frames, number, delay=4))
    (tmp_path / "gifs" / "a_red_dot_1.txt").write_text("größer ✓\n")
    return tmp_path


def theseus(*words: str) -> tuple[str, str]:
    result = CliRunner().invoke(app, list(words))
    if isinstance(result.exception, TheseusError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


def test_the_first_command_of_all(home: Path) -> None:
    stdout, stderr = theseus("gifs")
    assert stdout == "dataset\n"
    for words in (
        "too_long",
        "75 frames of 128x128",
        "2 of 3 clips have no caption but",
        "dataset/rejected.jsonl",
        "theseus train vae",
    ):
        assert words in " ".join(stderr.split())
    stdout, stderr = theseus("gifs", "--json")
    assert "nothing to do" in stderr
    summary = json.loads(stdout)
    assert (summary["found"], summary["kept"], summary["rejected"], summary["finished_before"]) == (4, 3, {"too_long": 1}, True)


def test_options_reach_the_dataset(home: Path) -> None:
    words = "gifs -o small --size 32x16 --fit stretch --min-frames 5 --max-frames 9 --long windows --fps 5 --chunk-size 1"
    words += " --limit 3 --seed 2 --layout folder --workers 1 --timeout 30 --memory 512"
    words += " --source clips --per-file 2 --safety captions"
    theseus(*words.split())
    dataset = Dataset.open("small")
    expected = {"width": 32, "height": 16, "fit": "stretch", "min_frames": 5, "max_frames": 9, "long": "windows", "fps": 5.0}
    expected |= {"chunk_size": 1, "limit": 3, "seed": 2, "layout": "folder", "timeout": 30.0, "memory": 512, "captions": None}
    expected |= {"source": "clips", "per_file": 2, "safety": ["captions"], "unsafe_labels": [], "unsafe_threshold": 0.5}
    expected |= dict.fromkeys(("files", "splits", "fold", "template", "frame_rate")) | {"unsafe_frames": 4}
    assert dataset.settings == expected
    assert dataset.read(0).frames.shape[1:] == (16, 32, 3)
    assert {record.fps for record in dataset.records} == {5.0}


def test_what_comes_next_can_be_pasted(home: Path) -> None:
    (home / "gifs").rename(home / "my gifs")
    _, stderr = theseus("my gifs", "-o", "my data", "--size", "16")
    assert "next: theseus train vae --data 'my data'\n" in stderr
    (home / "my data" / "clips.jsonl").unlink()
    with pytest.raises(TheseusError) as caught:
        Dataset.open("my data")
    assert "rm -r 'my data' && theseus prep FOLDER -o 'my data'" in (caught.value.hint or "")


def test_a_size_that_cannot_be_trained_on_is_said_at_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise TheseusError("begun")

    monkeypatch.setattr("theseus_core.data.prepare.prepare", stop)
    warning = "warning: the trainings of this package need widths and heights that are multiples of 16, not: "
    for size, warned in (("100", "100x100"), ("64x40", "64x40"), ("128", ""), ("48x32", "")):
        result = CliRunner().invoke(app, ["gifs", "--size", size])
        assert str(result.exception) == "begun"
        assert result.stderr == (f"{warning}{warned}\n" if warned else "")


def test_exported_files_are_the_same_clips(home: Path) -> None:
    theseus("gifs")
    stdout, _ = theseus("--export", "files")
    assert stdout == "files\n"
    theseus("files", "-o", "again")
    before, after = Dataset.open("dataset"), Dataset.open("again")
    assert [record.key for record in before.records] == [record.key for record in after.records]
    assert [record.captions for record in before.records] == [record.captions for record in after.records]
    np.testing.assert_allclose([r.fps for r in before.records], [r.fps for r in after.records], rtol=1e-3)
    with pytest.raises(TheseusError, match="there is something already: files"):
        theseus("--export", "files")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("gifs --seed 1", "--seed has no effect without --limit: 1"),
        ("--export x --fps 3 --min-frames 15", "no effect without a SOURCE: --fps --min-frames"),
        ("--export x --source tgif --gifs y", "no effect without a SOURCE: --files --source"),
        ("gifs --files x", "--files has no effect on sources of the kind clips: x"),
        ("gifs --fold 2", "--fold has no effect on sources of the kind clips: 2"),
        ("gifs --per-file 2", "per_file has no effect without windows"),
        ("gifs --unsafe-threshold 0.2", "no effect without a classifier: --unsafe-threshold"),
        ("gifs --unsafe-label porn", "no classifier has these labels: porn"),
        ("gifs --download", "--download fetches the GIFs of a TGIF table, not: gifs"),
        ("gifs --source ucf101 --template a_cat", "not a template of a caption: a_cat"),
        ("gifs/a_red_dot_1.gif --source frames", "--source frames takes a folder, not a file: gifs/a_red_dot_1.gif"),
        ("gifs/a_red_dot_1.txt --source kinetics", "not an annotation of Kinetics: gifs/a_red_dot_1.txt"),
        ("gifs/a_red_dot_1.gif --source list", "not a captions file: gifs/a_red_dot_1.gif"),
        ("nowhere --source ucf101", "no such file or folder: nowhere"),
        ("gifs --source tgif", "--source tgif takes a table, not a folder: gifs"),
        ("--export x", "no prepared dataset at: dataset"),
        ("gifs --size big", "not a size: big"),
        ("gifs --size 128x", "not a size: 128x"),
        ("gifs -o gifs/a_red_dot_1.txt/dataset", "cannot write to: gifs/a_red_dot_1.txt/dataset"),
        ("gifs -o " + 300 * "a", "cannot write to: aaa"),
        (300 * "a", "no such file or folder: aaa"),
        ("gifs --size 4", "width: .*: 4"),
        ("gifs --min-frames 20 --max-frames 10", "min_frames 20 is above max_frames 10"),
        ("gifs --chunk-size 10001", "chunk_size: .*: 10001"),
        ("gifs --layout folder --captions x.tsv", "--layout folder reads no captions file"),
        ("gifs --captions x.tsv", "cannot read the captions file: x.tsv"),
        ("nowhere", "no such file or folder: nowhere"),
    ],
)
def test_what_cannot_be_done_is_said(home: Path, words: str, message: str) -> None:
    with pytest.raises(TheseusError, match=message):
        theseus(*words.split())


@pytest.mark.parametrize("words", ["", "gifs --fit squeeze", "gifs --long maybe", "gifs --workers 0"])
def test_wrong_usage(home: Path, words: str) -> None:
    assert CliRunner().invoke(app, words.split()).exit_code == 2
