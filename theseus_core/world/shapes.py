"""Flat shapes that move: what there is of them, and how they are drawn."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import cos, inf, pi, sin
from random import Random

import numpy as np
import torch
from torch import Tensor

from theseus_core.world import canvas
from theseus_core.world.canvas import spread
from theseus_core.world.description import Description, Group, shows
from theseus_core.world.grammar import caption, parse
from theseus_core.world.motion import MARGIN, MOTIONS, REACH, Path, Room, path, still

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Shape:
    """A shape of size 1 about the middle.

    Attributes:
        distance: from its edge, negative inside.
        symmetry: after which part of a full turn it looks the same.
    """

    distance: Callable[[Tensor, Tensor], Tensor]
    symmetry: float


def _cross(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(canvas.box(x, y, 1.0, 0.34), canvas.box(x, y, 0.34, 1.0))


def _heart(x: Tensor, y: Tensor, side: float = 0.58) -> Tensor:
    """A square on its tip, and a half disc on each of its upper sides."""
    y = y - 0.08
    centre = side * 0.5**0.5
    square = canvas.diamond(x, y, 2 * centre, 2 * centre)
    return torch.minimum(square, canvas.circle(x.abs() - centre, y + centre, side))


SHAPES = {
    "circle": Shape(lambda x, y: canvas.circle(x, y, 0.95), inf),
    "square": Shape(lambda x, y: canvas.box(x, y, 0.78, 0.78), 4),
    "triangle": Shape(lambda x, y: canvas.star(x, y, 3, REACH, REACH / 2), 3),
    "star": Shape(lambda x, y: canvas.star(x, y, 5, REACH, 0.48), 5),
    "diamond": Shape(lambda x, y: canvas.diamond(x, y, 0.64, 1.08), 2),
    "ring": Shape(lambda x, y: canvas.ring(x, y, 1.0, 0.42), inf),
    "cross": Shape(_cross, 4),
    "heart": Shape(_heart, 1),
}
COLOURS: dict[str, Colour] = {
    "red": (0.90, 0.10, 0.10),
    "orange": (1.00, 0.55, 0.05),
    "yellow": (0.98, 0.88, 0.10),
    "green": (0.12, 0.66, 0.22),
    "cyan": (0.05, 0.84, 0.90),
    "blue": (0.12, 0.26, 0.90),
    "purple": (0.50, 0.14, 0.72),
    "pink": (1.00, 0.50, 0.74),
    "white": (0.98, 0.98, 0.98),
    "black": (0.03, 0.03, 0.03),
}
CROWDED_MOTIONS = tuple(each for each in MOTIONS if each[0] not in ("bouncing", "zigzag", "circling"))  # those need the frame
SPEEDS = ("slow", "fast")
BACKGROUNDS = ("white", "black", "grey", "gradient")
RELATIONS = ("above", "below", "left of", "right of")
PAIRS = 0.3  # share of clips with two shapes


# --- what there is ---


def sample(kind: str, random: Random) -> dict[str, str]:
    """Attributes of one shape, or of one that moves and another that does not."""
    while True:
        pair = random.random() < PAIRS
        motion, way = random.choice(CROWDED_MOTIONS if pair else MOTIONS)
        attributes = {
            "shape": random.choice(list(SHAPES)),
            "colour": random.choice(list(COLOURS)),
            "motion": motion,
            "speed": random.choice(SPEEDS),
            "background": random.choice(BACKGROUNDS),
        }
        if way:
            attributes["way"] = way
        if pair:
            attributes["relation"] = random.choice(RELATIONS)
            attributes["other_shape"] = random.choice(list(SHAPES))
            attributes["other_colour"] = random.choice(list(COLOURS))
        if visible(attributes):
            return attributes


def visible(attributes: dict[str, str]) -> bool:
    """Whether everything can be seen: no white on white, no two shapes of one colour, nothing round that spins."""
    colours = [attributes[key] for key in ("colour", "other_colour", "background") if key in attributes]
    spins = attributes["motion"] == "spinning"
    return len(set(colours)) == len(colours) and not (spins and SHAPES[attributes["shape"]].symmetry == inf)


def possible(kind: str, attributes: dict[str, str]) -> bool:
    """Whether these are all the attributes of a clip, and fit together."""
    pair = {"relation", "other_shape", "other_colour"}
    whole = not pair & attributes.keys() or pair <= attributes.keys()
    moves = (attributes["motion"], attributes.get("way", "")) in (CROWDED_MOTIONS if "relation" in attributes else MOTIONS)
    return whole and moves and visible(attributes)


def shown(clip: Description, asked: Description) -> bool:
    """As `description.shows`; what is asked for may be the shape that stands still, too."""
    if shows(clip, asked):
        return True
    other = {key: clip.attributes[f"other_{key}"] for key in ("shape", "colour") if f"other_{key}" in clip.attributes}
    return bool(other) and asked.attributes.items() <= (other | {"background": clip.attributes["background"]}).items()


# --- how it is drawn ---


@dataclass(frozen=True)
class Thing:
    """One shape of a clip."""

    shape: str
    colour: Colour
    path: Path


@dataclass(frozen=True)
class Layout:
    """A clip, worked out: its shapes, and a background that goes from one colour to another along an angle."""

    things: tuple[Thing, ...]
    ground: tuple[Colour, Colour]
    angle: float


def layout(clip: Description, frames: int, aspect: tuple[float, float]) -> Layout:
    """Settle by the clip's seed what its attributes leave open."""
    a, random = clip.attributes, Random(f"shapes {clip.seed}")
    room = Room(-1, -1, 1, 1, aspect)
    things = []
    if "relation" in a:
        room, x, y, size = _divide(room, a["relation"], random)
        things.append(Thing(a["other_shape"], _shade(a["other_colour"], random), still(size, x, y, frames)))
    moving = path(a["motion"], a.get("way", ""), a["speed"] == "fast", frames, room, random)
    things.append(Thing(a["shape"], _shade(a["colour"], random), moving))
    return Layout(tuple(things), _ground(a["background"], [thing.colour for thing in things], random), random.uniform(0, 2 * pi))


def _divide(room: Room, relation: str, random: Random) -> tuple[Room, float, float, float]:
    """Place for a shape that stands still at one side, and the room that this leaves to the other."""
    size = random.uniform(0.19, 0.22)
    inner = room.within(size)
    x, y = (random.uniform(0.6 * low, 0.6 * high) for low, high in ((inner.left, inner.right), (inner.top, inner.bottom)))
    wide, high = ((2 * REACH * size + 4 * MARGIN) / side for side in room.aspect)
    if relation == "above":
        return Room(-1, -1, 1, 1 - high, room.aspect, True), x, inner.bottom, size
    if relation == "below":
        return Room(-1, -1 + high, 1, 1, room.aspect, True), x, inner.top, size
    if relation == "left of":
        return Room(-1, -1, 1 - wide, 1, room.aspect, True), inner.right, y, size
    return Room(-1 + wide, -1, 1, 1, room.aspect, True), inner.left, y, size


def _shade(colour: str, random: Random) -> Colour:
    """A shade that still goes by the same name."""
    hue, saturation, value = colorsys.rgb_to_hsv(*COLOURS[colour])
    hue += random.uniform(-0.01, 0.01)
    saturation *= random.uniform(0.94, 1.0)
    value += random.uniform(-0.03, 0.02)
    return colorsys.hsv_to_rgb(hue % 1, saturation, min(1.0, value))


def _ground(background: str, colours: Sequence[Colour], random: Random) -> tuple[Colour, Colour]:
    flat = {"white": (0.96, 1.0), "black": (0.0, 0.04), "grey": (0.43, 0.57)}
    if background in flat:
        level = random.uniform(*flat[background])
        return (level,) * 3, (level,) * 3
    while True:
        hue, light = random.random(), random.uniform(0.35, 0.9)
        start = colorsys.hsv_to_rgb(hue, random.uniform(0.15, 0.4), light)
        end = colorsys.hsv_to_rgb((hue + random.uniform(-0.15, 0.15)) % 1, random.uniform(0.15, 0.4), random.uniform(0.35, 0.9))
        middle = tuple((a + b) / 2 for a, b in zip(start, end, strict=True))
        if _apart(start, end) > 0.3 and all(_apart(place, c) > 0.42 for place in (start, middle, end) for c in colours):
            return start, end


def _apart(one: Sequence[float], other: Sequence[float]) -> float:
    return float(np.linalg.norm(np.subtract(one, other)))


def render(clips: Sequence[Description], frames: int, height: int, width: int, device: torch.device) -> Tensor:
    """(B, 3, T, H, W), colours from 0 to 1."""
    aspect = canvas.extent(height, width)
    layouts = [layout(clip, frames, aspect) for clip in clips]
    picture = _backgrounds(layouts, height, width, device)
    for turn in (0, 1):  # of two shapes in a clip, each has its turn: they never touch
        things = [each.things[turn] if len(each.things) > turn else None for each in layouts]
        if any(things):
            colours = torch.tensor([thing.colour if thing else (0.0, 0.0, 0.0) for thing in things], device=device)
            picture = canvas.over(picture, canvas.paint(colours), _covered(things, frames, height, width, device))
    return picture


def _backgrounds(layouts: Sequence[Layout], height: int, width: int, device: torch.device) -> Tensor:
    """(B, 3, 1, H, W)."""
    x, y = canvas.grid(height, width, device)
    right, bottom = canvas.extent(height, width)
    toward = torch.tensor([[cos(each.angle), sin(each.angle)] for each in layouts], device=device)
    along = spread(toward[:, 0]) * x / right + spread(toward[:, 1]) * y / bottom  # within 1.42 of the middle
    return canvas.ramp(0.5 + along / 2.83, torch.tensor([each.ground for each in layouts], device=device))


def _covered(things: Sequence[Thing | None], frames: int, height: int, width: int, device: torch.device) -> Tensor:
    """(B, T, H, W): how much of each pixel a clip's thing covers."""
    covered = torch.zeros(len(things), frames, height, width, device=device)
    for name in SHAPES:
        chosen = {place: thing for place, thing in enumerate(things) if thing and thing.shape == name}
        if chosen:
            drawn = _draw(name, [thing.path for thing in chosen.values()], height, width, device)
            for place, field in zip(chosen, drawn, strict=True):
                covered[place] = field
    return covered


def _draw(shape: str, paths: Sequence[Path], height: int, width: int, device: torch.device) -> Tensor:
    right, bottom = canvas.extent(height, width)
    places = np.stack([[path.x * right, path.y * bottom, path.size, path.angle] for path in paths], axis=1)
    at_x, at_y, size, angle = (spread(value) for value in torch.from_numpy(places).float().to(device))
    x, y = canvas.grid(height, width, device)
    x, y = (x - at_x) / size, (y - at_y) / size
    if any(path.angle.any() for path in paths):
        x, y = canvas.turned(x, y, angle)
    return canvas.cover(SHAPES[shape].distance(x, y) * size, canvas.pixel(height, width))


GROUP = Group(("shapes",), sample, render, caption, parse, shown, possible)
