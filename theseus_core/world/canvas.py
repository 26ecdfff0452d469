"""Drawing by formula: distances, colours and chance over the pixels of all frames of many clips at once.

A field is (B, T, H, W), a picture (B, 3, T, H, W) with colours from 0 to 1; any of their sides may be 1 where nothing depends on
it, which saves most of the work. What is the same for every pixel of a frame is (B, T) or (B, 1) and goes through `spread`.

Coordinates: x to the right, y down, the frame's middle is (0, 0), its shorter side reaches from -1 to 1. Angles turn clockwise as
seen on the screen. Every function is pure: chance is `uniform`, a hash of seeds, the same on every device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Number = Tensor | float


# --- coordinates ---


def grid(height: int, width: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """x (1, 1, 1, W) and y (1, 1, H, 1) of the pixels' middles."""
    unit = pixel(height, width)
    x = (torch.arange(width, device=device) - (width - 1) / 2) * unit
    y = (torch.arange(height, device=device) - (height - 1) / 2) * unit
    return x.view(1, 1, 1, width), y.view(1, 1, height, 1)


def pixel(height: int, width: int) -> float:
    """The side of a pixel."""
    return 2 / min(height, width)


def extent(height: int, width: int) -> tuple[float, float]:
    """Where the frame ends to the right and at the bottom: (1, 1) for a square."""
    return width / min(height, width), height / min(height, width)


def spread(value: Tensor) -> Tensor:
    """(B, T) as a field (B, T, 1, 1); (B,) as (B, 1, 1, 1)."""
    return value.view(value.shape[0], -1, 1, 1)


def turned(x: Tensor, y: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates of an object that is turned clockwise by `angle` (radians; a field)."""
    cos, sin = torch.cos(angle), torch.sin(angle)
    return cos * x + sin * y, cos * y - sin * x


# --- distances: negative inside, in the units of the coordinates ---


def circle(x: Tensor, y: Tensor, radius: Number) -> Tensor:
    return torch.hypot(x, y) - radius


def ring(x: Tensor, y: Tensor, radius: Number, thickness: Number) -> Tensor:
    """A ring whose outer edge is `radius`."""
    middle = radius - thickness / 2
    return (torch.hypot(x, y) - middle).abs() - thickness / 2


def box(x: Tensor, y: Tensor, half_width: Number, half_height: Number, rounding: Number = 0.0) -> Tensor:
    dx, dy = x.abs() - (half_width - rounding), y.abs() - (half_height - rounding)
    outside = torch.hypot(dx.clamp(min=0), dy.clamp(min=0))
    return outside + torch.maximum(dx, dy).clamp(max=0) - rounding


def ellipse(x: Tensor, y: Tensor, half_width: Number, half_height: Number) -> Tensor:
    """Near the edge it is the distance to first order, which is all that an anti-aliased edge needs."""
    level = torch.hypot(x / half_width, y / half_height)
    slope = torch.hypot(x / half_width**2, y / half_height**2)
    return level * (level - 1) / slope.clamp(min=1e-6)


def diamond(x: Tensor, y: Tensor, half_width: Number, half_height: Number) -> Tensor:
    """A rhombus that stands on its tip; beyond the tips the distance is that to the sides' lines."""
    longer = (half_width**2 + half_height**2) ** 0.5
    return (x.abs() * half_height + y.abs() * half_width - half_width * half_height) / longer


def segment(x: Tensor, y: Tensor, from_x: Number, from_y: Number, to_x: Number, to_y: Number, thickness: Number) -> Tensor:
    """A line with round ends."""
    along_x, along_y = to_x - from_x, to_y - from_y
    square = along_x**2 + along_y**2
    place = (((x - from_x) * along_x + (y - from_y) * along_y) / (square + 1e-12)).clamp(0, 1)
    return torch.hypot(x - from_x - place * along_x, y - from_y - place * along_y) - thickness / 2


def star(x: Tensor, y: Tensor, points: int, outer: float, inner: float) -> Tensor:
    """A star with a tip at the top; a regular polygon where `inner` is `outer * cos(pi / points)`.

    Every tip is a mirror image of half of the first, so that one edge is enough.
    """
    half = math.pi / points
    angle = torch.remainder(torch.atan2(x, -y) + half, 2 * half) - half
    radius = torch.hypot(x, y)
    along, across = radius * torch.cos(angle) - outer, radius * torch.sin(angle).abs()  # from the tip
    edge_x, edge_y = inner * math.cos(half) - outer, inner * math.sin(half)
    place = ((along * edge_x + across * edge_y) / (edge_x**2 + edge_y**2)).clamp(0, 1)
    distance = torch.hypot(along - place * edge_x, across - place * edge_y)
    return torch.where(edge_x * across - edge_y * along > 0, -distance, distance)


# --- colours ---


def paint(colours: Tensor) -> Tensor:
    """(B, 3) or (B, T, 3) as a picture of one pixel, (B, 3, 1 or T, 1, 1)."""
    colours = colours if colours.dim() == 3 else colours.unsqueeze(1)
    return colours.transpose(1, 2)[..., None, None]


def cover(distance: Tensor, pixel: float, softness: float = 1.0) -> Tensor:
    """How much of each pixel lies inside, from 0 to 1: an edge is `softness` pixels wide."""
    return (0.5 - distance / (pixel * softness)).clamp(0, 1)


def smoothstep(start: Number, end: Number, value: Tensor) -> Tensor:
    """From 0 at `start` to 1 at `end`, level at both."""
    place = ((value - start) / (end - start)).clamp(0, 1)
    return place * place * (3 - 2 * place)


def over(picture: Tensor, colour: Tensor, cover: Tensor) -> Tensor:
    """A colour or picture laid over another, where the field `cover` is 1."""
    return torch.lerp(picture, colour, cover.unsqueeze(1))


def lit(picture: Tensor, colour: Tensor, light: Tensor) -> Tensor:
    """Light added to a picture, as by a second projector, so that nothing gets brighter than 1."""
    return 1 - (1 - picture) * (1 - colour * light.unsqueeze(1)).clamp(0, 1)


def ramp(place: Tensor, colours: Tensor) -> Tensor:
    """Colours (B, K, 3) blended along a field that goes from 0 to 1, evenly spaced."""
    scaled = place.clamp(0, 1) * (colours.shape[1] - 1)
    picture = paint(colours[:, 0])
    for number in range(1, colours.shape[1]):
        picture = over(picture, paint(colours[:, number]), (scaled - (number - 1)).clamp(0, 1))
    return picture


# --- chance ---


def uniform(seeds: Tensor, *keys: Tensor | int) -> Tensor:
    """Numbers from 0 to 1, below 1: a hash of whole numbers, of the shape they broadcast to."""
    state = (seeds ^ (seeds >> 32)) & 0xFFFFFFFF
    for key in keys:
        state = _mixed(state ^ ((key * 0x9E3779B1 + 0x7F4A7C15) & 0xFFFFFFFF))
    return (_mixed(state) >> 8).float() / 2**24


def _mixed(state: Tensor) -> Tensor:
    """32 bits, each of which depends on all that came in (a multiply-xorshift finaliser)."""
    state = ((state ^ (state >> 16)) * 0x21F0AAAD) & 0xFFFFFFFF
    state = ((state ^ (state >> 15)) * 0x735A2D97) & 0xFFFFFFFF
    return state ^ (state >> 15)
