"""How a shape moves: where it is, how large, and how it is turned, at every frame of a clip.

Here x and y go from -1 to 1 over the whole frame, whatever its shape, so that "a fifth of the frame" means the same in both;
sizes are in halves of the shorter side. A clip shows the whole motion, however many frames it has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import pi
from random import Random

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

DIAGONAL = 0.5**0.5
DIRECTIONS = {
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
    "up-left": (-DIAGONAL, -DIAGONAL),
    "up-right": (DIAGONAL, -DIAGONAL),
    "down-left": (-DIAGONAL, DIAGONAL),
    "down-right": (DIAGONAL, DIAGONAL),
}
REACH = 1.12  # no shape of size 1 reaches further from its middle, however it is turned
MARGIN = 0.03


@dataclass(frozen=True)
class Room:
    """A part of the frame that a shape has for itself.

    Attributes:
        aspect: the frame's half width and half height, in halves of its shorter side.
        crowded: whether another shape needs place too; this one is then smaller.
    """

    left: float
    top: float
    right: float
    bottom: float
    aspect: tuple[float, float] = (1.0, 1.0)
    crowded: bool = False

    def within(self, size: float) -> Room:
        """Where the middle of a shape of this size may be."""
        x, y = ((REACH * size + MARGIN) / side for side in self.aspect)
        return replace(self, left=self.left + x, top=self.top + y, right=self.right - x, bottom=self.bottom - y)

    def point(self, random: Random) -> tuple[float, float]:
        return random.uniform(self.left, self.right), random.uniform(self.top, self.bottom)

    def on_its_side(self) -> Room:
        """With x and y exchanged."""
        return Room(self.top, self.left, self.bottom, self.right, self.aspect[::-1], self.crowded)

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top


@dataclass(frozen=True)
class Path:
    """The frames of one shape, each (T,): place, size, and angle in radians, clockwise."""

    x: Array
    y: Array
    size: Array
    angle: Array


Mover = Callable[[bool, Array, Room, Random], Path]


def path(motion: str, way: str, fast: bool, frames: int, room: Room, random: Random) -> Path:
    """One of `MOTIONS`, somewhere in a room."""
    clock = np.linspace(0, 1, frames)
    if motion in DIRECTIONS:
        return _straight(DIRECTIONS[motion], fast, clock, room, random)
    return MOVERS[motion, way](fast, clock, room, random)


def still(size: float, x: float, y: float, frames: int) -> Path:
    return Path(*(np.full(frames, value) for value in (x, y, size, 0.0)))


def _straight(direction: tuple[float, float], fast: bool, clock: Array, room: Room, random: Random) -> Path:
    size = random.uniform(0.19, 0.23) if room.crowded else random.uniform(0.22, 0.38)
    inner = room.within(size)
    x, y = direction
    longest = min(inner.width / max(abs(x), 1e-9), inner.height / max(abs(y), 1e-9))
    length = random.uniform(min(0.95, longest * 0.93), min(1.35, longest)) if fast else random.uniform(0.44, 0.58)
    step_x, step_y = x * length, y * length
    start = replace(
        inner,
        left=inner.left - min(0, step_x),
        right=inner.right - max(0, step_x),
        top=inner.top - min(0, step_y),
        bottom=inner.bottom - max(0, step_y),
    ).point(random)
    return Path(start[0] + step_x * clock, start[1] + step_y * clock, np.full_like(clock, size), np.zeros_like(clock))


def _growing(fast: bool, clock: Array, room: Room, random: Random) -> Path:
    largest = random.uniform(0.30, 0.35) if room.crowded else random.uniform(0.46, 0.62)
    ratio = random.uniform(2.1, 2.5) if fast else random.uniform(1.45, 1.65)
    x, y = room.within(largest).point(random)
    return replace(still(largest, x, y, len(clock)), size=largest * ratio ** (clock - 1))


def _shrinking(fast: bool, clock: Array, room: Room, random: Random) -> Path:
    grown = _growing(fast, clock, room, random)
    return replace(grown, size=grown.size[::-1].copy())


def _spinning(sign: int) -> Mover:
    def mover(fast: bool, clock: Array, room: Room, random: Random) -> Path:
        size = random.uniform(0.24, 0.30) if room.crowded else random.uniform(0.32, 0.48)
        turn = random.uniform(3.8, 5.0) if fast else random.uniform(1.6, 2.4)
        x, y = room.within(size).point(random)
        return replace(still(size, x, y, len(clock)), angle=random.uniform(0, 2 * pi) + sign * turn * clock)

    return mover


def _bouncing(vertically: bool) -> Mover:
    """Upright like a ball on the floor; sideways evenly between two walls."""

    def mover(fast: bool, clock: Array, room: Room, random: Random) -> Path:
        size = random.uniform(0.20, 0.30)
        inner = room.within(size)
        times = random.uniform(2.8, 3.4) if fast else random.uniform(1.5, 2.0)
        phase = np.mod(times * clock + random.random(), 1)
        if vertically:
            height = random.uniform(0.75, 1) * inner.height
            y = random.uniform(inner.top + height, inner.bottom) - height * 4 * phase * (1 - phase)
            x = random.uniform(inner.left, inner.right) * (1 - 0.2 * clock)
        else:
            width = random.uniform(0.75, 1) * inner.width
            x = random.uniform(inner.left, inner.right - width) + width * np.abs(2 * phase - 1)
            y = random.uniform(inner.top, inner.bottom) * (1 - 0.2 * clock)
        return Path(x, y, np.full_like(clock, size), np.zeros_like(clock))

    return mover


def _zigzag(horizontally: bool) -> Mover:
    """From one side of the room to the other, to and fro on the way."""

    def mover(fast: bool, clock: Array, room: Room, random: Random) -> Path:
        size = random.uniform(0.18, 0.26)
        inner = (room if horizontally else room.on_its_side()).within(size)
        length, height = random.uniform(0.8, 1) * inner.width, random.uniform(0.35, 0.6) * inner.height
        legs = random.uniform(4.6, 5.2) if fast else random.uniform(2.6, 3.2)
        along = clock if random.random() < 0.5 else 1 - clock
        wave = np.abs(np.mod(legs * clock + random.random() * 2, 2) - 1)  # between 0 and 1, a leg each way
        x = random.uniform(inner.left, inner.right - length) + length * along
        y = random.uniform(inner.top, inner.bottom - height) + height * wave
        x, y = (x, y) if horizontally else (y, x)
        return Path(x, y, np.full_like(clock, size), np.zeros_like(clock))

    return mover


def _circling(sign: int) -> Mover:
    def mover(fast: bool, clock: Array, room: Room, random: Random) -> Path:
        size = random.uniform(0.20, 0.29)
        inner = room.within(size)
        radius = random.uniform(0.75, 1) * min(inner.width * room.aspect[0], inner.height * room.aspect[1]) / 2
        radius_x, radius_y = (radius / side for side in room.aspect)
        middle_x = random.uniform(inner.left + radius_x, inner.right - radius_x)
        middle_y = random.uniform(inner.top + radius_y, inner.bottom - radius_y)
        turn = sign * 2 * pi * (random.uniform(1.6, 2.0) if fast else random.uniform(0.85, 1.05))
        angle = random.uniform(0, 2 * pi) + turn * clock
        x, y = middle_x + radius_x * np.cos(angle), middle_y + radius_y * np.sin(angle)
        return Path(x, y, np.full_like(clock, size), np.zeros_like(clock))

    return mover


MOVERS: dict[tuple[str, str], Mover] = {
    ("growing", ""): _growing,
    ("shrinking", ""): _shrinking,
    ("bouncing", "vertically"): _bouncing(vertically=True),
    ("bouncing", "horizontally"): _bouncing(vertically=False),
    ("zigzag", "horizontally"): _zigzag(horizontally=True),
    ("zigzag", "vertically"): _zigzag(horizontally=False),
    ("circling", "clockwise"): _circling(1),
    ("circling", "counter-clockwise"): _circling(-1),
    ("spinning", "clockwise"): _spinning(1),
    ("spinning", "counter-clockwise"): _spinning(-1),
}
MOTIONS = (*((direction, "") for direction in DIRECTIONS), *MOVERS)
