"""The safety layer: words as whole words, and frames through a real, if tiny, image classifier."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from prep_clips import Picture, gif, moving_gif
from typer.testing import CliRunner

from theseus_core.data import safety
from theseus_core.data.filters import PrepSettings
from theseus_core.data.prepare import Summary, prepare
from theseus_core.data.safety import Classifier, open_classifiers, unsafe_words
from theseus_core.data.shards import Dataset
from theseus_core.errors import TheseusError

SMALL = {"width": 16, "height": 16, "min_frames": 3, "max_frames": 9}
LABELS = ("normal", "nsfw", "gore")


@pytest.mark.parametrize(
    ("caption", "word"),
    [
        ("a man and a woman have Sex", "sex"),
        ("a NAKED man runs", "naked"),
        ("a na\u200bked man", "naked"),
        ("a näked man", "naked"),
        ("ｎｕｄｅ people", "nude"),
        ("a topless-woman dances", "topless"),
        ("nude_woman, sitting", "nude"),
        ("she does a strip\ttease", "strip\ttease"),
        ("pornographic scene", "pornographic"),
        ("he is naked to the naked eye", "naked"),
        ("a man cuts-himself", "cuts-himself"),
    ],
)
def test_unsafe_words_are_found(caption: str, word: str) -> None:
    assert unsafe_words(["a cat", caption]) == f"{word}: {caption}"


@pytest.mark.parametrize(
    "caption",
    [
        "the class passes a bass guitar to an assistant",
        "a cocktail and a peacock",
        "stars that are seen with the naked eye",
        "Same-sex couples wave",
        "grilled chicken breasts",
        "a sextet plays in Essex and Middlesex",
        "the analyst is shot in a basketball game",
        "a skateboarder executes a perfect jump",
        "a pussy-willow in the wind",
        "a scrapbook about grapes and titles",
        "",
    ],
)
def test_harmless_captions_pass(caption: str) -> None:
    assert unsafe_words([caption]) is None


def test_the_list_is_well_formed() -> None:
    lines = [line for line in safety.WORDS.read_text().splitlines() if line and not line.startswith("#")]
    assert len(lines) == len(set(lines)) > 150
    assert all(line == line.lower().strip() and "-" not in line for line in lines)
    for line in lines:
        word = line.lstrip("!").rstrip("*")
        assert (unsafe_words([f"a {word} b"]) is None) == line.startswith("!"), line
    for phrase in (line[1:] for line in lines if line.startswith("!")):
        parts = phrase.split()
        spans = [" ".join(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1)]
        assert any(unsafe_words([span]) for span in spans), f"without effect: {phrase}"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random network whose last layer makes of a bright picture "nsfw", of any other "normal"."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("hub") / "judge"
    small: dict[str, Any] = {"image_size": 8, "patch_size": 8, "hidden_size": 8, "intermediate_size": 8}
    config = transformers.ViTConfig(num_hidden_layers=1, num_attention_heads=1, id2label=dict(enumerate(LABELS)), **small)
    network = transformers.ViTForImageClassification(config).eval()
    processor = transformers.ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    pictures = [np.full((8, 8, 3), value, np.uint8) for value in (0, 255)]
    with torch.no_grad():
        dark, bright = network.vit(**processor(images=pictures, return_tensors="pt")).last_hidden_state[:, 0]
        towards = (bright - dark) / (bright - dark).square().sum()
        network.classifier.weight.copy_(torch.stack([torch.zeros(8), 20 * towards, torch.zeros(8)]))
        network.classifier.bias.copy_(torch.tensor([0.0, -10 - 20 * float(towards @ dark), -20.0]))
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def clip(values: list[int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.stack([np.full((16, 16, 3), value, np.uint8) for value in values])


def settings(**change: object) -> PrepSettings:
    return PrepSettings.model_validate(SMALL | change)


def test_one_bright_frame_among_those_that_are_seen_is_enough(classifier: Path, capfd: Any) -> None:
    judge = Classifier(str(classifier), settings())
    assert judge.labels == ["nsfw", "gore"]
    assert judge(clip([0] * 8)) is None
    assert judge(clip([0, 0, 0, 0, 0, 255, 0, 0])) == "nsfw 1.00 in frame 5, by judge"
    assert judge(clip([255, 0, 0, 0, 0, 0, 0, 0])) is None, "frames 1, 3, 5 and 7 are looked at"
    assert Classifier(str(classifier), settings(unsafe_frames=8))(clip([255] + [0] * 7)) == "nsfw 1.00 in frame 0, by judge"
    assert judge(clip([0, 255])) == "nsfw 1.00 in frame 1, by judge"
    assert capfd.readouterr() == ("", "")


def test_labels_and_threshold_are_chosen_by_name(classifier: Path) -> None:
    normal = Classifier(str(classifier), settings(unsafe_labels=["Normal"]))
    assert normal.labels == ["normal"]
    assert normal(clip([0] * 4)) == "normal 1.00 in frame 0, by judge"
    assert normal(clip([255] * 4)) is None
    judge = Classifier(str(classifier), settings())
    scores = judge._probabilities(clip(list(range(256))))[:, [1, 2]].sum(1)
    value = int((scores - 0.5).abs().argmin())
    middle, found = clip([value] * 3), float(scores[value])
    assert 0.1 < found < 0.9
    assert Classifier(str(classifier), settings(unsafe_threshold=found * 1.01))(middle) is None
    assert Classifier(str(classifier), settings(unsafe_threshold=found * 0.99))(middle) is not None
    with pytest.raises(TheseusError, match="has no label: nswf") as caught:
        Classifier(str(classifier), settings(unsafe_labels=["nswf"]))
    assert "did you mean nsfw" in (caught.value.hint or "")


def test_labels_that_do_not_exclude_one_another(classifier: Path, tmp_path: Path) -> None:
    shutil.copytree(classifier, tmp_path / "many")
    config = json.loads((tmp_path / "many" / "config.json").read_text())
    (tmp_path / "many" / "config.json").write_text(json.dumps(config | {"problem_type": "multi_label_classification"}))
    judge = Classifier(str(tmp_path / "many"), settings())
    logits = judge._network(**judge._processor(images=list(clip([128])), return_tensors="pt")).logits
    expected = logits.sigmoid()[0]
    torch.testing.assert_close(judge._probabilities(clip([128]))[0], expected)
    assert judge(clip([0] * 3)) is None
    assert judge(clip([255] * 3)) is not None


def test_what_is_no_classifier(classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(TheseusError, match="cannot read the classifier"):
        Classifier(str(tmp_path), settings())
    shutil.copytree(classifier, tmp_path / "animals")
    config = json.loads((tmp_path / "animals" / "config.json").read_text())
    labels = {"id2label": {"0": "cat", "1": "dog", "2": "cow"}, "label2id": {"cat": 0, "dog": 1, "cow": 2}}
    (tmp_path / "animals" / "config.json").write_text(json.dumps(config | labels))
    with pytest.raises(TheseusError, match="no label of this classifier is known to mean unsafe") as caught:
        Classifier(str(tmp_path / "animals"), settings())
    assert "it has: cat, dog, cow" in (caught.value.hint or "")
    with pytest.raises(TheseusError, match="no classifier has these labels: cat"):
        open_classifiers(settings(unsafe_labels=["cat"], safety=["captions"]))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "gifs"
    folder.mkdir()
    white = np.stack([[0, 0, 0]] * 120 + [[255, 255, 255]] * 8).astype(np.uint8)
    for name, level in (("bright", 125), ("dark", 3)):
        frames = [Picture(np.full((16, 16), level, np.uint8)) for _ in range(4)]
        frames[0].indices[0, 0] = 127
        (folder / f"{name}.gif").write_bytes(gif((16, 16), frames, palette=white))
    (folder / "walk.gif").write_bytes(moving_gif(4, 3))
    (folder / "walk.txt").write_text("a dot walks\nthe dot is naked\n")
    return folder


def run(source: Path, **change: object) -> tuple[Summary, dict[str, str]]:
    output = source.parent / "out"
    shutil.rmtree(output, ignore_errors=True)
    summary = prepare([source], output, settings(**change))
    rejected = [json.loads(line) for line in (output / "rejected.jsonl").read_text().splitlines()]
    assert len(Dataset.open(output)) == summary.clips
    return summary, {entry["source"]: f"{entry['reason']}: {entry['detail']}" for entry in rejected}


def test_what_was_left_out_and_why_is_in_the_report(source: Path, classifier: Path) -> None:
    assert run(source)[1] == {}
    assert run(source, safety=["captions"])[1] == {"walk.gif": "unsafe_caption: naked: the dot is naked"}
    summary, rejected = run(source, safety=["captions", str(classifier)])
    assert summary.rejected == {"unsafe_caption": 1, "unsafe_frames": 1}
    assert rejected["bright.gif"] == "unsafe_frames: nsfw 1.00 in frame 0, by judge"
    assert [record.source for record in Dataset.open(source.parent / "out").records] == ["dark.gif"]


def test_from_the_command_line(source: Path, classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from theseus_cli.main import app

    monkeypatch.chdir(source.parent)
    words = f"prep gifs --size 16 --min-frames 3 --workers 1 --safety captions --safety {classifier} --unsafe-label nsfw"
    result = CliRunner().invoke(app, [*words.split(), "--unsafe-threshold", "0.9", "--unsafe-frames", "2", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["rejected"] == {"unsafe_caption": 1, "unsafe_frames": 1}
    said = " ".join(result.stderr.split())
    assert "unsafe_frames 1 by the classifier of --safety" in said
    assert "look at the contact sheet for what it does not know" in said
