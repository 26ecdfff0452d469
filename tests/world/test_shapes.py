"""Moving shapes: what is drawn is what was described, what is said can be read back, and the judge sees it or its absence."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from theseus_core import world
from theseus_core.data.clip import Clip
from theseus_core.errors import TheseusError
from theseus_core.render.video import read, write
from theseus_core.world import canvas, grammar
from theseus_core.world.description import Description
from theseus_core.world.judge_shapes import agreement, judge
from theseus_core.world.motion import MOTIONS
from theseus_core.world.shapes import BACKGROUNDS, COLOURS, SHAPES, layout

SEEDS = range(3000)
CLIPS = [world.sample(seed) for seed in SEEDS]


def shapes(seed: int = 0, **attributes: str) -> Description:
    """A described clip: a slow red circle that moves left over white, but for what is said."""
    plain = {"shape": "circle", "colour": "red", "motion": "left", "speed": "slow", "background": "white"}
    return Description("shapes", plain | attributes, seed)


def as_seen(video: Tensor) -> Tensor:
    """What is left of a clip in 8 bits."""
    return ((video + 1) * 127.5).round() / 127.5 - 1


# --- drawing ---


@pytest.mark.parametrize(
    ("distance", "area"),
    [
        (lambda x, y: canvas.circle(x, y, 0.5), math.pi / 4),
        (lambda x, y: canvas.ring(x, y, 0.8, 0.3), math.pi * (0.8**2 - 0.5**2)),
        (lambda x, y: canvas.box(x, y, 0.6, 0.3), 0.72),
        (lambda x, y: canvas.box(x, y, 0.6, 0.3, 0.2), 0.72 - (4 - math.pi) * 0.04),
        (lambda x, y: canvas.ellipse(x, y, 0.8, 0.4), math.pi * 0.32),
        (lambda x, y: canvas.diamond(x, y, 0.5, 0.9), 0.9),
        (lambda x, y: canvas.star(x, y, 5, 0.9, 0.4), 5 * 0.9 * 0.4 * math.sin(math.pi / 5)),
        (lambda x, y: canvas.star(x, y, 3, 0.9, 0.45), 0.75 * math.sqrt(3) * 0.81),
        (lambda x, y: canvas.segment(x, y, -0.5, -0.1, 0.3, 0.5, 0.2), 0.2 + math.pi * 0.01),
    ],
)
def test_anti_aliased_shapes_have_their_area_at_any_resolution(distance: Callable[[Tensor, Tensor], Tensor], area: float) -> None:
    for height, width in ((64, 64), (64, 96), (200, 120)):
        x, y = canvas.grid(height, width, "cpu")
        covered = canvas.cover(distance(x, y), canvas.pixel(height, width)).sum() * canvas.pixel(height, width) ** 2
        assert covered == pytest.approx(area, rel=0.01)


def test_distances_are_distances() -> None:
    x, y = canvas.grid(200, 200, "cpu")
    for distance in (canvas.star(x, y, 5, 0.9, 0.4), canvas.box(x, y, 0.6, 0.3), canvas.segment(x, y, -0.5, -0.1, 0.3, 0.5, 0.2)):
        slope = torch.hypot(*torch.gradient(distance[0, 0], spacing=canvas.pixel(200, 200)))
        assert slope.median() == pytest.approx(1, abs=0.01)


def test_hashed_numbers_are_even_and_unrelated() -> None:
    numbers = canvas.uniform(torch.arange(64).view(-1, 1), torch.arange(1024))
    counts = torch.histc(numbers, 16, 0, 1)
    assert (counts / numbers.numel() - 1 / 16).abs().max() < 0.003
    assert numbers.unique().numel() > 0.99 * numbers.numel()
    assert torch.corrcoef(numbers).fill_diagonal_(0).abs().max() < 0.2


# --- what is drawn ---


def test_everything_is_drawn_sometime_and_nothing_that_cannot_be_seen() -> None:
    of = {key: Counter(clip.attributes.get(key) for clip in CLIPS) for key in ("shape", "colour", "background", "other_shape")}
    assert set(of["shape"]) == set(SHAPES) == set(of["other_shape"]) - {None}
    assert set(of["colour"]) == set(COLOURS)
    assert set(of["background"]) == set(BACKGROUNDS)
    moves = Counter((clip.attributes["motion"], clip.attributes.get("way", "")) for clip in CLIPS)
    assert set(moves) == set(MOTIONS)
    assert min(moves.values()) > len(CLIPS) / len(MOTIONS) / 3
    for clip in CLIPS:
        colours = [clip.attributes[key] for key in ("colour", "background", "other_colour") if key in clip.attributes]
        assert len(set(colours)) == len(colours)


def test_a_clip_is_a_function_of_its_description_alone() -> None:
    whole = world.render(CLIPS[:9], 17, 48, 64)
    assert whole.shape == (9, 3, 17, 48, 64)
    assert whole.min() >= -1 and whole.max() <= 1
    for number in (0, 3, 8):
        assert torch.equal(world.render([world.sample(number)], 17, 48, 64)[0], whole[number])
    assert not torch.equal(world.render([shapes(1)], 17, 48, 64), world.render([shapes(2)], 17, 48, 64))


@pytest.mark.parametrize(("height", "width", "frames"), [(32, 32, 17), (40, 72, 25), (72, 40, 33), (16, 16, 1)])
def test_any_size_and_length(height: int, width: int, frames: int) -> None:
    assert world.render(CLIPS[:3], frames, height, width).shape == (3, 3, frames, height, width)


@pytest.mark.parametrize("aspect", [(1.0, 1.0), (16 / 9, 1.0), (1.0, 1.5)])
def test_motion_is_real_and_stays_in_the_frame(aspect: tuple[float, float]) -> None:
    for clip in CLIPS[:1000]:
        for thing in layout(clip, 17, aspect).things:
            path = thing.path
            for place, side in ((path.x, aspect[0]), (path.y, aspect[1])):
                assert np.all(np.abs(place) + path.size / side < 1)
        moving = layout(clip, 17, aspect).things[-1].path
        travelled = np.hypot(np.ptp(moving.x), np.ptp(moving.y)) / 2  # of the frame
        grown = np.ptp(moving.size) * 2 / min(aspect)
        assert travelled >= 0.2 or grown >= 0.08 or np.ptp(moving.angle) > 1.5
        if clip.attributes["motion"] not in ("growing", "shrinking", "spinning"):
            assert travelled >= 0.2


def test_clockwise_is_as_seen_on_the_screen() -> None:
    right, up = (torch.tensor([1.0]), torch.tensor([0.0])), (torch.tensor([0.0]), torch.tensor([-1.0]))
    turned = canvas.turned(*right, torch.tensor([math.pi / 2]))  # what pointed up points right after a quarter of a turn
    assert torch.allclose(torch.cat(turned), torch.cat(up), atol=1e-6)
    for way, sign in (("clockwise", 1), ("counter-clockwise", -1)):
        spinning = layout(shapes(motion="spinning", way=way, shape="star"), 17, (1.0, 1.0)).things[0].path
        assert np.all(np.sign(np.diff(spinning.angle)) == sign)
        circling = layout(shapes(motion="circling", way=way), 17, (1.0, 1.0)).things[0].path
        top = np.argmin(circling.y[1:-1]) + 1
        assert np.sign(circling.x[top + 1] - circling.x[top - 1]) == sign  # at the top it goes right


def test_two_shapes_never_touch() -> None:
    pairs = [layout(clip, 17, (1.0, 1.0)).things for clip in CLIPS if "relation" in clip.attributes][:300]
    for still, moving in pairs:
        apart = np.maximum(np.abs(still.path.x - moving.path.x), np.abs(still.path.y - moving.path.y))
        assert np.all(apart > still.path.size + moving.path.size)


def test_no_frame_is_blank_and_no_clip_stands_still() -> None:
    video = world.render(CLIPS[:64], 17, 32, 32)
    middle = video.flatten(3).median(-1).values[..., None, None]
    assert ((video - middle).abs().amax((1, 3, 4)) > 0.4).all()
    assert ((video - video[:, :, :1]).abs().amax((1, 2, 3, 4)) > 0.4).all()


def test_what_is_held_out_is_never_shown() -> None:
    held = [world.wanted(text) for text in ("circle moving up-right", "a red star", "square above something: a blue heart")]
    clips = [world.sample(seed, hold_out=held) for seed in SEEDS]
    for clip in clips:
        a = clip.attributes
        assert (a["shape"], a["motion"]) != ("circle", "up-right")
        assert ("red", "star") not in ((a["colour"], a["shape"]), (a.get("other_colour"), a.get("other_shape")))
    assert any(clip.attributes["shape"] == "circle" for clip in clips)
    assert any(clip.attributes["motion"] == "up-right" for clip in clips)
    untouched = [clip for clip in CLIPS if not any(world.GROUPS["shapes"].shows(clip, each) for each in held)]
    assert len(untouched) > 0.95 * len(CLIPS)
    assert set(map(str, untouched)) <= set(map(str, clips))


def test_holding_out_everything_is_an_error() -> None:
    everything = [world.wanted(name) for name in SHAPES]
    with pytest.raises(TheseusError, match="nothing is left of: shapes"):
        world.sample(0, hold_out=everything)


def test_only_what_is_asked_for_is_shown() -> None:
    only = [world.wanted("star spinning clockwise"), world.wanted("heart moving in a circle")]
    never = [world.wanted("red star")]
    clips = [world.sample(seed, hold_out=never, only=only) for seed in range(60)]
    shown = {tuple(clip.attributes[key] for key in ("shape", "motion")) for clip in clips}
    assert shown == {("star", "spinning"), ("heart", "circling")}
    assert {clip.attributes["way"] for clip in clips if clip.attributes["shape"] == "star"} == {"clockwise"}
    assert {clip.attributes["way"] for clip in clips if clip.attributes["shape"] == "heart"} == {"clockwise", "counter-clockwise"}
    assert "red" not in {clip.attributes["colour"] for clip in clips if clip.attributes["shape"] == "star"}
    with pytest.raises(TheseusError, match="nothing is left of: shapes"):
        world.sample(0, hold_out=only, only=only)


def test_unknown_scenes_and_texts_are_errors() -> None:
    assert world.kinds_of(["shapes", "shapes"]) == ("shapes",)
    with pytest.raises(TheseusError, match=r"no such scenes: shape$") as raised:
        world.kinds_of(["shape"])
    assert "did you mean shapes?" in str(raised.value.hint)
    with pytest.raises(TheseusError, match="the world has nothing like: an elephant"):
        world.wanted("an elephant")


# --- words ---


def test_every_caption_reads_back_to_what_it_was_made_from() -> None:
    said: Counter[str] = Counter()
    for seed, clip in zip(SEEDS, CLIPS, strict=True):
        text = world.caption(clip, seed)
        reading = world.parse(text)
        assert reading is not None, text
        assert reading.attributes.items() <= clip.attributes.items(), text
        said.update(reading.attributes.keys())
    assert said["shape"] == len(CLIPS)
    for key in ("colour", "motion", "speed", "background", "way", "other_colour"):
        assert 0.3 < said[key] / sum(key in clip.attributes for clip in CLIPS) < 0.99, key


def test_captions_are_many_short_and_long() -> None:
    texts = {world.caption(shapes(), seed) for seed in range(400)}
    assert len(texts) > 250
    lengths = [len(text.split()) for text in texts]
    assert min(lengths) <= 3 and max(lengths) >= 12
    assert world.caption(shapes(), 7) == world.caption(shapes(), 7)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("circle moving up-right", {"shape": "circle", "motion": "up-right"}),
        ("circle moving down", {"shape": "circle", "motion": "down"}),
        ("circle moving left", {"shape": "circle", "motion": "left"}),
        ("circle moving diagonally down-left", {"shape": "circle", "motion": "down-left"}),
        ("circle growing", {"shape": "circle", "motion": "growing"}),
        ("circle expanding", {"shape": "circle", "motion": "growing"}),
        ("circle shrinking", {"shape": "circle", "motion": "shrinking"}),
        ("circle bouncing horizontally", {"shape": "circle", "motion": "bouncing", "way": "horizontally"}),
        ("circle zigzagging vertically", {"shape": "circle", "motion": "zigzag", "way": "vertically"}),
        ("circle rotating clockwise", {"shape": "circle", "motion": "circling", "way": "clockwise"}),
        ("square rotating clockwise", {"shape": "square", "motion": "spinning", "way": "clockwise"}),
        ("crimson disc drifting to the upper right", {"shape": "circle", "colour": "red", "motion": "up-right"}),
        ("A heart, downwards and right!", {"shape": "heart", "motion": "down-right"}),
        ("a ball of wool", None),
        ("a star falling down", {"shape": "star", "motion": "down"}),
        ("a square going in a circle", {"shape": "square", "motion": "circling"}),
        ("white cross on a white background", {"shape": "cross", "colour": "white", "background": "white"}),
        (
            "a red circle moving left above a blue square",
            {"shape": "circle", "colour": "red", "motion": "left"}
            | {"relation": "above", "other_shape": "square", "other_colour": "blue"},
        ),
        (
            "ring moving up, to the left of a star, quickly",
            {"shape": "ring", "motion": "up", "relation": "left of", "other_shape": "star", "speed": "fast"},
        ),
    ],
)
def test_free_wording_is_understood(text: str, expected: dict[str, str] | None) -> None:
    reading = grammar.parse(text)
    assert (reading and dict(reading.attributes)) == expected


# --- the judge ---


def score(clips: list[Description], size: tuple[int, int], through: Callable[[Tensor], Tensor] = as_seen) -> dict[str, float]:
    """The share of clips that the judge finds to be as described, by attribute."""
    right: Counter[str] = Counter()
    judged: Counter[str] = Counter()
    for start in range(0, len(clips), 8):
        some = clips[start : start + 8]
        for clip, video in zip(some, world.render(some, 17, *size), strict=True):
            found = agreement(judge(through(video)), clip)
            right.update(found)
            judged.update(found.keys())
    return {key: right[key] / count for key, count in judged.items()}


@pytest.mark.parametrize(("size", "first", "count"), [((64, 64), 0, 200), ((128, 128), 200, 120), ((64, 112), 320, 40)])
def test_the_judge_agrees_with_the_renderer(size: tuple[int, int], first: int, count: int) -> None:
    scores = score(CLIPS[first : first + count], size)
    assert set(scores) == {
        "presence",
        "shape",
        "colour",
        "motion",
        "speed",
        "background",
        "relation",
        "other_shape",
        "other_colour",
    }
    assert min(scores.values()) >= 0.99, scores


def test_the_judge_bears_what_a_video_file_loses(tmp_path: Path) -> None:
    def through_mp4(video: Tensor) -> Tensor:
        frames = ((video + 1) * 127.5).round().byte().permute(1, 2, 3, 0).contiguous().numpy()
        back = read(write(Clip(frames, 8.0), tmp_path / "clip.mp4"), 17)
        return torch.from_numpy(back.frames).permute(3, 0, 1, 2).float() / 127.5 - 1

    scores = score(CLIPS[500:532], (64, 64), through_mp4)
    assert min(scores.values()) >= 0.96, scores  # one of 32 may fail


def corner(video: Tensor) -> Tensor:
    rows, columns = (torch.arange(side) for side in video.shape[-2:])
    return (rows.view(-1, 1) < 9) & (columns < 9)


MOVING = [shapes(seed, motion=motion, shape="star") for seed, motion in enumerate(("left", "right", "up", "down-left", "up-right"))]
TURNING = [
    shapes(1, motion="growing"),
    shapes(2, motion="shrinking", shape="heart"),
    shapes(3, motion="spinning", way="clockwise", shape="triangle"),
    shapes(4, motion="circling", way="counter-clockwise"),
]


@pytest.mark.parametrize(
    ("key", "clips", "spoil"),
    [
        ("motion", MOVING + TURNING, lambda video: video.flip(1)),
        ("motion", MOVING + TURNING, lambda video: video[:, :1].expand_as(video)),
        ("motion", MOVING[:2] + TURNING[2:], lambda video: video.flip(3)),
        ("motion", MOVING + TURNING, lambda video: video[:, torch.randperm(17, generator=torch.Generator().manual_seed(1))]),
        ("colour", MOVING, lambda video: video.roll(1, 0)),
        ("presence", MOVING, lambda video: torch.ones_like(video)),
        ("presence", MOVING, lambda video: torch.rand(video.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1),
        ("presence", MOVING, lambda video: torch.where(torch.arange(17).view(-1, 1, 1) % 3 == 0, torch.ones_like(video), video)),
        ("presence", MOVING, lambda video: torch.where(corner(video), -torch.ones_like(video), video)),
        ("background", MOVING, lambda video: torch.where(video.amin(0) > 0.8, torch.zeros_like(video), video)),
    ],
    ids=["reversed", "frozen", "mirrored", "shuffled", "recoloured", "blank", "noise", "flickering", "two", "grey"],
)
def test_the_judge_fails_what_is_wrong(key: str, clips: list[Description], spoil: Callable[[Tensor], Tensor]) -> None:
    assert min(score(clips, (64, 64)).values()) == 1
    assert score(clips, (64, 64), spoil)[key] == 0


def test_the_judge_tells_every_shape_and_colour_from_every_other() -> None:
    clips = [shapes(seed, shape=shape, background="grey") for seed, shape in enumerate(SHAPES)]
    clips += [shapes(seed, colour=colour, background="grey") for seed, colour in enumerate(COLOURS)]
    for clip, video in zip(clips, world.render(clips, 17, 64, 64), strict=True):
        seen = judge(as_seen(video)).attributes
        assert (seen["shape"], seen["colour"]) == (clip.attributes["shape"], clip.attributes["colour"])


def test_the_judge_wants_the_relation_that_was_asked_for() -> None:
    opposite = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}
    for seed, (asked, other) in enumerate(opposite.items()):
        pair = shapes(seed, relation=asked, other_shape="square", other_colour="blue")
        seen = judge(as_seen(world.render([pair], 17, 64, 64)[0]))
        assert all(agreement(seen, pair).values())
        assert not agreement(seen, shapes(seed, relation=other))["relation"]
        assert not agreement(seen, shapes(seed))["presence"]


def test_what_is_not_asked_for_is_not_judged() -> None:
    seen = judge(as_seen(world.render([shapes(colour="green", motion="up")], 17, 64, 64)[0]))
    asked = world.wanted("circle moving up")
    assert agreement(seen, asked) == {"presence": True, "shape": True, "motion": True}
    assert agreement(seen, world.wanted("a red square going up fast")) == {
        "presence": True,
        "shape": False,
        "colour": False,
        "speed": False,
        "motion": True,
    }


def test_chance_is_drawn_from_no_global_generator() -> None:
    def states() -> tuple[object, ...]:
        return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()

    before = states()
    world.render([world.sample(1)], 17, 32, 32)
    world.caption(world.sample(1), 1)
    assert states() == before
