"""Sprites as codes: each word is of its own kind, decoding knows the codes alone, and they are fitted before they are looked at."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import Tensor

from theseus_core import world
from theseus_core.data.sources.world import World, WorldSettings
from theseus_core.data.writer import write_dataset
from theseus_core.errors import TheseusError
from theseus_core.losses import psnr
from theseus_core.model_folder import load_tokenizer
from theseus_core.registry import build
from theseus_core.tokenizers.sprite_codes import Model
from theseus_core.train.runs import configure_run
from theseus_core.train.tokenizer import train_tokenizer
from theseus_core.world import Description

SIZE = (32, 32)


def clip(**attributes: str) -> Tensor:
    """A red circle going right on white, or what else is said: (1, 3, 17, 32, 32)."""
    said = {"shape": "circle", "colour": "red", "motion": "right", "speed": "fast", "background": "white"} | attributes
    return world.render([Description("shapes", said, 5)], 17, *SIZE)


CLIPS = [clip(colour=colour, motion=motion) for colour in ("red", "blue") for motion in ("right", "up", "growing")]


def tokenizer(**changes: object) -> Model:
    torch.manual_seed(0)
    model = build("tokenizers", "sprite_codes", "debug", changes)
    assert isinstance(model, Model)
    return model.eval()


@pytest.fixture(scope="module")
def fitted() -> Model:
    model = tokenizer(place_codes=64)
    model.calibrate(CLIPS)
    return model


@torch.no_grad()
def test_every_word_is_a_code_of_its_kind(fitted: Model) -> None:
    codes = torch.cat([fitted.encode(video) for video in CLIPS])
    assert codes.dtype == torch.int64 and codes.shape == (6, *fitted.latent_shape(17, *SIZE))
    ends = [*list(fitted.first.values())[1:], fitted.codebook_size]
    for name, column in zip(fitted.words, codes[:, 0, :, :, 0].unbind(-1), strict=True):
        start, end = fitted.first[name], ends[list(fitted.first).index(name)]
        assert int(column.min()) >= start and int(column.max()) < end, name


@torch.no_grad()
def test_clips_come_back_from_their_codes_and_what_goes_right_goes_right(fitted: Model) -> None:
    for video in CLIPS:
        assert float(psnr(fitted.decode(fitted.encode(video), size=SIZE), video)) > 20
    x = fitted.encode(CLIPS[0])[0, 0, :, fitted.words.index("x"), 0]
    assert (x.diff() >= 0).all() and int(x[-1]) > int(x[0]) + 10


@torch.no_grad()
def test_decoding_ignores_the_encoder_and_the_first_frames_have_the_codes_they_had_in_the_clip(fitted: Model) -> None:
    codes = fitted.encode(CLIPS[0])
    assert torch.equal(fitted.encode(CLIPS[0][:, :, :8]), codes[:, :, :8])
    before = fitted.decode(codes, size=SIZE)
    other = tokenizer(place_codes=64)
    other.load_state_dict(fitted.state_dict())
    for parameter in other.look.parameters():
        parameter.normal_()
    assert torch.equal(other.decode(codes, size=SIZE), before)


@torch.no_grad()
def test_the_same_clips_give_the_same_codes_and_no_random_number_is_taken(fitted: Model) -> None:
    again = tokenizer(place_codes=64)
    torch.manual_seed(3)
    again.calibrate(CLIPS)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(1))
    for name, book in fitted.state_dict().items():
        assert torch.equal(book, again.state_dict()[name]), name


@torch.no_grad()
def test_in_half_precision_the_nearest_code_is_still_the_nearest(fitted: Model) -> None:
    numbers = torch.cat([fitted.numbers(video) for video in CLIPS])
    with mock.patch.object(fitted, "numbers", return_value=numbers):
        before = fitted.encode(CLIPS[0])
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(fitted.encode(CLIPS[0]), before)


@torch.no_grad()
def test_two_things_are_twelve_words_and_stay_what_they_are() -> None:
    model = tokenizer(things=2, place_codes=64)
    pair = {"relation": "above", "other_shape": "square", "other_colour": "blue"}
    video = clip(motion="left", **pair)
    model.calibrate([video, clip()])
    codes = model.encode(video)
    assert codes.shape == (1, 1, 17, 12, 1)
    assert float(psnr(model.decode(codes, size=SIZE), video)) > 18
    colours = [codes[0, 0, :, i, 0] for i, name in enumerate(model.words) if name == "colour"]
    assert not set(colours[0].tolist()) & set(colours[1].tolist())


@torch.no_grad()
def test_a_ground_that_was_never_seen_is_put_together_from_its_colour_and_how_that_changes() -> None:
    def video(colour: Tensor, slope: Tensor) -> Tensor:
        """A ground alone, (1, 3, 2, 32, 32); the slope from left to right."""
        frame = colour[:, None, None] + slope[:, None, None] * torch.linspace(-1, 1, 32)
        return frame.expand(3, 32, 32)[None, :, None].expand(1, 3, 2, 32, 32)

    colours = torch.tensor([[0.5, 0.2, -0.3], [-0.2, 0.4, 0.1], [0.1, -0.5, 0.4]])
    slopes = torch.tensor([[0.3, 0.1, 0.0], [-0.2, 0.2, 0.2], [0.0, -0.3, 0.1]])
    model = tokenizer()
    model.calibrate([video(colours[i], slopes[j]) for i in range(3) for j in range(3) if i != j])
    for i in range(3):
        never = video(colours[i], slopes[i])
        assert float(psnr(model.decode(model.encode(never), size=SIZE), never)) > 40


@torch.no_grad()
def test_a_code_that_is_no_word_of_its_place_is_read_as_the_nearest(fitted: Model) -> None:
    codes = fitted.encode(CLIPS[0])
    wrong = codes.clone()
    wrong[0, 0, :, fitted.words.index("x")] = fitted.codebook_size - 1  # a ground
    right = codes.clone()
    right[0, 0, :, fitted.words.index("x")] = fitted.first["size"] - 1  # the last x
    assert torch.equal(fitted.decode(wrong, size=SIZE), fitted.decode(right, size=SIZE))


def test_what_are_no_codes_is_refused(fitted: Model) -> None:
    for bad in (
        torch.zeros(1, 1, 3, 7, 1),
        torch.zeros(1, 1, 3, 6, 1, dtype=torch.int64),
        torch.zeros(1, 2, 3, 7, 1, dtype=torch.int64),
    ):
        with pytest.raises(TheseusError, match="codes must be whole numbers"):
            fitted.decode(bad, size=SIZE)


def test_there_are_codes_to_look_at_before_the_training_ends_and_in_what_it_gives(tmp_path: Path) -> None:
    drawn = World(WorldSettings(objects=1, height=32, width=32)).clips(4, 8.0)
    write_dataset(tmp_path / "dataset", drawn, {"size": [32, 32]})
    short = {"steps": 4, "evaluate_every": 2, "checkpoint_every": 2, "log_every": 2, "batch_size": 2, "threads": 1}
    settings = {"family": "sprite_codes", "frames": 5, "pictures": 2, "train": short}
    train_tokenizer(configure_run("vae", "debug", settings), tmp_path / "dataset", tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    scores = {line["step"]: line for line in lines if "eval/perplexity" in line}
    assert scores[2]["eval/perplexity"] > 8  # 7 where each word has one code
    assert scores[4]["eval/psnr"] > 20
    given, video = load_tokenizer(tmp_path / "run"), clip()
    with torch.no_grad():
        assert float(psnr(given.decode(given.encode(video), size=SIZE), video)) > 15
