"""What a clip of moving shapes shows, measured from its pixels alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import inf, log, pi

import torch
from torch import Tensor
from torch.nn import functional as F

from theseus_core.world import canvas
from theseus_core.world.description import Description
from theseus_core.world.motion import DIRECTIONS
from theseus_core.world.shapes import COLOURS, RELATIONS, SHAPES
from theseus_core.world.tracking import Track, background, follow

SHARPEST = 64  # pixels of the shorter side, about: more would cost time and show nothing new
SIDE, REACH = 32, 1.4  # of the picture in which shapes are compared: pixels, and half of it in roots of the shape's area
STEP = 4  # degrees between two angles that are tried
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Seen:
    """What a clip shows.

    Attributes:
        count: shapes that are there in nearly every frame; 0 where that number changes.
        attributes: as in a `Description` of kind "shapes"; "unknown" for what is nothing of the kind.
        relations: all that hold throughout; a shape may be above and left of another.
    """

    count: int
    attributes: Mapping[str, str]
    relations: frozenset[str] = frozenset()


def judge(video: Tensor) -> Seen:
    """Look at one clip, (3, T, H, W) in [-1, 1], of at least 17 frames: between fewer, what spins turns too far to be followed."""
    video = (video.float().cpu() + 1) / 2
    video = F.avg_pool2d(video, max(1, min(video.shape[-2:]) // SHARPEST))
    ground = background(video)
    tracks = follow(video, ground)
    seen = {"background": _background(ground)}
    if not tracks:
        return Seen(0, seen)
    things = sorted((_thing(track) for track in tracks), key=lambda thing: -thing.activity)
    first = things[0]
    seen |= {"shape": first.shape, "colour": first.colour, "motion": first.motion, "way": first.way, "speed": first.speed}
    if len(things) != 2:
        return Seen(len(things), seen)
    if things[1].motion != "still":
        return Seen(2, seen | {"motion": UNKNOWN})
    return Seen(2, seen | {"other_shape": things[1].shape, "other_colour": things[1].colour}, _relations(first, things[1]))


def agreement(seen: Seen, asked: Description) -> dict[str, bool]:
    """Whether a clip shows what is asked for: "presence", and each attribute that is asked for; "motion" includes its way."""
    a = asked.attributes
    right = {"presence": seen.count == (2 if "relation" in a else 1)}
    for key in ("shape", "colour", "speed", "background", "other_shape", "other_colour"):
        if key in a:
            right[key] = seen.attributes.get(key) == a[key]
    if "motion" in a:
        right["motion"] = all(seen.attributes.get(key) == a[key] for key in ("motion", "way") if key in a)
    if "relation" in a:
        right["relation"] = a["relation"] in seen.relations
    return right


# --- one thing ---


@dataclass(frozen=True)
class Thing:
    """A track, in words."""

    track: Track
    shape: str
    colour: str
    motion: str
    way: str
    speed: str
    activity: float


def _thing(track: Track) -> Thing:
    shape, turn = _shape(track)
    growth = _steady(track.size.clamp(min=1e-3).log().diff())
    motion, way, amount, threshold = _motion(track, growth, turn)
    activity = _range(track.x) + _range(track.y) + abs(growth) + abs(turn) / 4
    speed = UNKNOWN if motion in ("still", UNKNOWN) else "fast" if amount > threshold else "slow"
    return Thing(track, shape, _colour(track.colour), motion, way, speed, activity)


def _colour(colour: Tensor) -> str:
    away = {name: float((colour - torch.tensor(prototype)).norm()) for name, prototype in COLOURS.items()}
    best = min(away, key=lambda name: away[name])
    return best if away[best] < 0.3 else UNKNOWN


def _shape(track: Track) -> tuple[str, float]:
    """The shape whose outline fits best, over all frames, and by how much it turns clockwise, in radians."""
    half_height, half_width = (side / min(track.cover.shape[-2:]) for side in track.cover.shape[-2:])
    q = torch.linspace(-REACH, REACH, SIDE)
    scale = track.size.view(-1, 1, 1)
    x = (track.x.view(-1, 1, 1) + q.view(1, 1, -1) * scale / half_width).expand(-1, SIDE, -1)
    y = (track.y.view(-1, 1, 1) + q.view(1, -1, 1) * scale / half_height).expand(-1, -1, SIDE)
    sampled = F.grid_sample(track.cover.unsqueeze(1), torch.stack([x, y], -1), align_corners=False).flatten(1)  # (T, SIDE SIDE)
    weight = track.size / track.size.sum()
    fits, angles = {}, {}
    for name, outlines in _outlines().items():
        away, angles[name] = torch.cdist(sampled, outlines).min(1)
        fits[name] = float((away * weight).sum()) / SIDE
    best = min(fits, key=lambda name: fits[name])
    return (best if fits[best] < 0.3 else UNKNOWN), _turn(angles[best] * (STEP * pi / 180), SHAPES[best].symmetry)


def _turn(angles: Tensor, symmetry: float) -> float:
    """The sum of all turns, each taken the shorter way round."""
    if symmetry == inf:
        return 0.0
    period = 2 * pi / symmetry
    return _steady(torch.remainder(angles.diff() + period / 2, period) - period / 2)


def _steady(steps: Tensor) -> float:
    """The sum of steps that go mostly one way; 0 where they go to and fro."""
    total = float(steps.sum())
    return total if abs(total) > 0.5 * float(steps.abs().sum()) else 0.0


@cache
def _outlines() -> dict[str, Tensor]:
    """Each shape of area 1 about its centre of gravity, at all angles that look different: (angles, SIDE SIDE)."""
    fine = torch.linspace(-1.25, 1.25, 500)
    q = torch.linspace(-REACH, REACH, SIDE)
    outlines = {}
    for name, shape in SHAPES.items():
        inside = (shape.distance(fine.view(1, -1), fine.view(-1, 1)) < 0).float()
        root = float(inside.mean()) ** 0.5 * 2.5
        middle_y = float((inside.sum(1) * fine).sum() / inside.sum())  # all are upright, and symmetric in x
        turns = torch.arange(0, 1 if shape.symmetry == inf else 360 / shape.symmetry, STEP).view(-1, 1, 1) * (pi / 180)
        x, y = canvas.turned(q.view(1, 1, -1), q.view(1, -1, 1), turns)
        distance = shape.distance(x * root, y * root + middle_y) / root
        outlines[name] = canvas.cover(distance, 2 * REACH / SIDE, 2.0).flatten(1)
    return outlines


# --- its motion ---


def _motion(track: Track, growth: float, turn: float) -> tuple[str, str, float, float]:
    """The motion, its way, and an amount with the threshold above which it is fast."""
    x, y = track.x, track.y
    across, down = _range(x), _range(y)
    if max(across, down) < 0.25:
        return _in_place(growth, turn)
    net_x, net_y = float(x[-1] - x[0]), float(y[-1] - y[0])
    net = (net_x**2 + net_y**2) ** 0.5
    if net > 0.9 * float(torch.hypot(x.diff(), y.diff()).sum()):
        return _direction(net_x, net_y), "", net, 0.67
    around = _around(track)
    if around:
        return "circling", "clockwise" if around > 0 else "counter-clockwise", abs(around), 1.3 * 2 * pi
    legs_x, legs_y = (float(values.diff().abs().sum()) / max(_range(values), 1e-6) for values in (x, y))
    if across < 0.3:
        return "bouncing", "vertically", legs_y, 4.5
    if down < 0.3:
        return "bouncing", "horizontally", legs_x, 4.5
    if abs(net_x) > 0.6 and legs_x < 1.2:
        return "zigzag", "horizontally", legs_y, 3.8
    if abs(net_y) > 0.6 and legs_y < 1.2:
        return "zigzag", "vertically", legs_x, 3.8
    return UNKNOWN, "", 0.0, 1.0


def _in_place(growth: float, turn: float) -> tuple[str, str, float, float]:
    if abs(growth) > 0.22:
        return "growing" if growth > 0 else "shrinking", "", abs(growth), log(1.85)
    if abs(turn) > 0.9:
        return "spinning", "clockwise" if turn > 0 else "counter-clockwise", abs(turn), 3.1
    return "still", "", 0.0, 1.0


def _direction(x: float, y: float) -> str:
    return max(DIRECTIONS, key=lambda name: x * DIRECTIONS[name][0] + y * DIRECTIONS[name][1])


def _around(track: Track) -> float:
    """By how much it goes around the middle of its path, clockwise in radians; 0 where that path is no circle."""
    height, width = track.cover.shape[-2:]
    x = (track.x - (track.x.max() + track.x.min()) / 2) * width
    y = (track.y - (track.y.max() + track.y.min()) / 2) * height
    radius = torch.hypot(x, y)
    steps = torch.remainder(torch.atan2(y, x).diff() + pi, 2 * pi) - pi
    round_enough = radius.std() < 0.2 * radius.mean() and abs(float(steps.sum())) > 1.3 * pi
    return float(steps.sum()) if round_enough else 0.0


def _range(values: Tensor) -> float:
    return float(values.max() - values.min())


# --- the rest ---


def _relations(first: Thing, other: Thing) -> frozenset[str]:
    """Which hold in every frame: the middles differ by more than the smaller shape's half."""
    x, y = first.track.x - other.track.x, first.track.y - other.track.y
    apart = 0.15
    holds = ((y < -apart).all(), (y > apart).all(), (x < -apart).all(), (x > apart).all())
    return frozenset(relation for relation, held in zip(RELATIONS, holds, strict=True) if held)


def _background(ground: Tensor) -> str:
    corners = ground[:, [0, 0, -1, -1], [0, -1, 0, -1]]  # (3, 4)
    if float(torch.cdist(corners.T, corners.T).max()) > 0.12:
        return "gradient"
    colour = corners.mean(1)
    if float(colour.max() - colour.min()) > 0.12:
        return UNKNOWN
    level = float(colour.mean())
    return "white" if level > 0.85 else "black" if level < 0.15 else "grey" if 0.3 < level < 0.7 else UNKNOWN
