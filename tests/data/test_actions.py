"""UCF-101 and Kinetics: classes become captions, official lists become splits, and what is missing is named."""

import json
import shutil
from pathlib import Path

import pytest
from prep_clips import CORPUS, moving_pictures, video

from theseus_core.data.filters import PrepSettings
from theseus_core.data.loader import split
from theseus_core.data.prepare import Summary, prepare
from theseus_core.data.shards import Dataset, Record
from theseus_core.data.sources import phrases
from theseus_core.data.sources.gather import recognise
from theseus_core.errors import TheseusError

SMALL = {"width": 16, "height": 16, "min_frames": 3, "max_frames": 9}
UCF = ("SoccerJuggling/v_SoccerJuggling_g01_c01.avi", "SoccerJuggling/v_SoccerJuggling_g08_c02.avi", "YoYo/v_YoYo_g08_c01.avi")


def films(folder: Path, names: tuple[str, ...], frames: int = 4) -> Path:
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        codec = "mpeg4" if path.suffix == ".avi" else "libx264"
        video(path, moving_pictures(frames, seed=seed + 1), codec=codec)
    return folder


def run(source: Path, **change: object) -> tuple[Summary, dict[str, Record], list[dict[str, str]]]:
    output = source.absolute().parent / "out"
    shutil.rmtree(output, ignore_errors=True)
    summary = prepare([source], output, PrepSettings.model_validate(SMALL | change))
    rejected = [json.loads(line) for line in (output / "rejected.jsonl").read_text().splitlines()]
    return summary, {record.source: record for record in Dataset.open(output).records}, rejected


def official(folder: Path, train: str, test: str, classes: str = "1 SoccerJuggling\r\n2 YoYo\r\n", number: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classInd.txt").write_text(classes)
    (folder / f"trainlist0{number}.txt").write_text(train)
    (folder / f"testlist0{number}.txt").write_text(test)
    return folder


def test_ucf101_without_lists(tmp_path: Path) -> None:
    summary, records, _ = run(films(tmp_path / "UCF-101", UCF))
    assert summary.kinds == ("ucf101",)
    assert "no official lists" in summary.notes[0]
    captions = {name: record.captions for name, record in records.items()}
    assert captions == dict.fromkeys(UCF[:2], ("a person juggling a soccer ball",)) | {UCF[2]: ("a person playing with a yo-yo",)}
    assert {(record.split, record.caption_from) for record in records.values()} == {(None, "class")}
    _, records, _ = run(tmp_path / "UCF-101", template="a video of {label}")
    assert records[UCF[2]].captions == ("a video of yo yo",)


@pytest.mark.parametrize("place", ["UCF-101/ucfTrainTestlist", "ucfTrainTestlist", "elsewhere"])
def test_ucf101_with_official_lists(tmp_path: Path, place: str) -> None:
    source = films(tmp_path / "UCF-101", UCF)
    gone = "YoYo/v_YoYo_g09_c01.avi"
    lists = official(tmp_path / place, f"{UCF[1]} 1\r\n{UCF[2]} 2\r\n{gone} 2\r\n", f"{UCF[0]}\r\n")
    official(lists, f"{UCF[0]} 1\n", f"{UCF[1]}\n", "1 SoccerJuggling\n2 YoYo\n3 Typing\n", number=2)
    official(lists, "", "YoYo/v_YoYo_g01_c01.avi\n", number=3)
    elsewhere = {"splits": str(lists)} if place == "elsewhere" else {}
    summary, records, rejected = run(source, **elsewhere)
    assert [records[name].split for name in UCF] == ["test", "train", "train"]
    assert (summary.found, summary.kept, summary.rejected) == (4, 3, {"missing": 1})
    assert rejected[0]["source"] == gone
    assert "nearest: YoYo/v_YoYo_g08_c01.avi" in rejected[0]["detail"]
    official(lists, f"{UCF[0]} 1\n", f"{UCF[1]}\n", "1 SoccerJuggling\n2 YoYo\n3 Typing\n", number=2)
    summary, records, _ = run(source, fold=2, **elsewhere)
    assert [records[name].split for name in UCF] == ["train", "test", None]
    assert summary.notes[1:] == ("1 files are in neither list", "1 of 3 classes have no folder, such as: Typing")
    with pytest.raises(TheseusError, match="none of the 1 files in the lists"):
        run(source, fold=3, **elsewhere)


def test_ucf101_lists_that_are_not_there(tmp_path: Path) -> None:
    source = films(tmp_path / "UCF-101", UCF[:1])
    with pytest.raises(TheseusError, match=r"no trainlist01.txt in"):
        run(source, splits=str(tmp_path))
    official(tmp_path / "ucfTrainTestlist", UCF[0], "")
    with pytest.raises(TheseusError, match=r"cannot read the official list: .*trainlist02.txt"):
        run(source, fold=2)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not (CORPUS / "ucf101").exists(), reason="the corpus is not here")
def test_the_corpus_is_recognised(tmp_path: Path) -> None:
    assert recognise(CORPUS / "ucf101") == "ucf101"
    assert recognise(CORPUS) == "clips"
    settings = PrepSettings(width=16, height=16, long="windows", min_frames=8, max_frames=8, per_file=2)
    summary = prepare([CORPUS / "ucf101"], tmp_path / "out", settings)
    assert (summary.kept, summary.clips, summary.captions) == (4, 8, {"class": 8})
    captions = [record.captions[0] for record in Dataset.open(tmp_path / "out").records]
    assert captions[::2] == ["car turn", "turn head", "walk beach", "walk snow"]


KINETICS = ("-0WZfAv1wvM_000010_000020.mp4", "abcdefghij__000002_000012.mp4", "zzzzzzzzzzz_000000_000010.mkv")
ANNOTATION = """label,youtube_id,time_start,time_end,split
juggling soccer ball,-0WZfAv1wvM,10,20,train
"petting animal (not cat)",abcdefghij_,2.0,12.0,validate
tai chi,zzzzzzzzzzz,0,10,test
tai chi,zzzzzzzzzzz,10,20,test
"""


def test_kinetics_by_its_annotations(tmp_path: Path) -> None:
    source = films(tmp_path / "k400", KINETICS)
    (source / "annotations").mkdir()
    (source / "annotations" / "all.csv").write_text(ANNOTATION)
    films(source, ("other000000_000000_000010.mp4",))
    summary, records, rejected = run(source)
    assert summary.kinds == ("kinetics",)
    assert {name: (record.captions[0], record.split) for name, record in records.items()} == {
        KINETICS[0]: ("a person juggling a soccer ball", "train"),
        KINETICS[1]: ("a person petting animal", "val"),
        KINETICS[2]: ("a person doing tai chi", "test"),
    }
    assert (summary.found, summary.rejected, summary.notes) == (4, {"missing": 1}, ("1 files are in no annotation",))
    assert rejected[0]["source"] == "zzzzzzzzzzz_000010_000020"
    assert f"nearest: {KINETICS[2]}" in rejected[0]["detail"]
    shutil.copy(source / "annotations" / "all.csv", tmp_path / "all.csv")
    summary, named, _ = run(tmp_path / "all.csv", files=str(source))
    assert (summary.kinds, list(named)) == (("kinetics",), list(records))


def test_kinetics_without_annotations_by_its_folders(tmp_path: Path) -> None:
    names = ("train/juggling soccer ball/", "val/playing_guitar/", "capoeira/")
    source = films(tmp_path / "k600", tuple(folder + name for folder, name in zip(names, KINETICS, strict=True)))
    summary, records, _ = run(source)
    assert summary.kinds == ("kinetics",)
    assert sorted((record.captions[0], record.split) for record in records.values()) == [
        ("a person doing capoeira", None),
        ("a person juggling a soccer ball", "train"),
        ("a person playing a guitar", "val"),
    ]
    films(source, ("val/qqqqqqqqqqq_000000_000010.mp4",))
    with pytest.raises(TheseusError, match=r"nothing says what the label of this file is: .*val/qqqqqqqqqqq_000000_000010.mp4"):
        run(source)


def test_kinetics_test_sets_have_no_labels(tmp_path: Path) -> None:
    source = films(tmp_path / "k400", KINETICS[:2])
    (source / "test.csv").write_text("youtube_id,time_start,time_end,split\nabcdefghij_,2,12,test\n")
    (source / "train.csv").write_text("\n".join(ANNOTATION.split("\n")[:2]))
    summary, records, rejected = run(source)
    assert (list(records), summary.rejected) == ([KINETICS[0]], {"no_caption": 1})
    assert rejected[0]["source"] == KINETICS[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tai chi,zzzzzzzzzzz,x,10,test", "no seconds in time_start and time_end, line 2 of"),
        ("tai\rchi,zzzzzzzzzzz,0,10,test", "malformed .*, line 2 of"),
        ("tai chi,zzzzzzzzzzz", "no seconds in time_start and time_end, line 2 of"),
        ("tai chi,zzzzzzzzzzz,0,10,holdout", "no such split in .*: holdout"),
        ("tai chi,yyyyyyyyyyy,0,10,test", "none of the 1 files that .* names is in"),
    ],
)
def test_annotations_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    source = films(tmp_path / "k400", KINETICS[2:])
    (source / "all.csv").write_text(f"label,youtube_id,time_start,time_end,split\n{text}\n")
    with pytest.raises(TheseusError, match=message):
        run(source)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("label", "caption"),
    [
        ("riding unicycle", "a person riding a unicycle"),
        ("playing accordion", "a person playing an accordion"),
        ("climbing a rope", "a person climbing a rope"),
        ("opening bottle (not wine)", "a person opening a bottle"),
        ("eating ice cream", "a person eating ice cream"),
        ("building cabinet", "a person building a cabinet"),
        ("crawling baby", "a baby crawling"),
        ("parkour", "a person doing parkour"),
    ],
)
def test_labels_of_kinetics_read_as_sentences(label: str, caption: str) -> None:
    assert phrases.kinetics_caption(label) == caption


def test_every_class_of_ucf101_has_a_phrase_of_its_own() -> None:
    known = phrases._known()["ucf101"]
    captions = {name: phrases.ucf101_caption(name) for name in known}
    assert len(known) == len(set(captions.values())) == 101
    assert all(len(caption.split()) >= 2 and caption[0].islower() for caption in captions.values())
    assert captions["BabyCrawling"] == "a baby crawling"
    assert phrases.ucf101_caption("HandStandPushups") == captions["HandstandPushups"]
    assert phrases.ucf101_caption("TurnHead") == "turn head"


@pytest.mark.parametrize("template", ["a video", "{verb}", "{subject", "{0}", "{subject.name}"])
def test_templates_that_say_nothing_are_refused(template: str) -> None:
    with pytest.raises(TheseusError, match="not a template of a caption"):
        phrases.check_template(template)


def test_an_official_split_is_not_mixed_with_another(tmp_path: Path) -> None:
    source = films(tmp_path / "UCF-101", UCF)
    official(tmp_path / "ucfTrainTestlist", "", "".join(f"{name}\n" for name in UCF))
    run(source)
    with pytest.raises(TheseusError, match="all clips are in the official test or val split"):
        split(Dataset.open(tmp_path / "out"), 0.05)
