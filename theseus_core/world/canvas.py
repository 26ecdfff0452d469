"""Drawing by formula: distances, noise and colours over the pixels of all frames of many clips at once.

A field is (B, T, H, W), a picture (B, 3, T, H, W) with colours from 0 to 1; any of their sides may be 1 where nothing depends on
it, which saves most of the work. What is the same for every pixel of a frame is (B, T) or (B, 1) and goes through `spread`.

Coordinates: x to the right, y down, the frame's middle is (0, 0), its shorter side reaches from -1 to 1. Angles turn clockwise as
seen on the screen. Every function is pure: chance is `uniform`, a hash of seeds, the same on every device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

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


def progress(frames: int, device: torch.device | str) -> Tensor:
    """(1, T) from 0 at the first frame to 1 at the last; 0 for a single frame."""
    return torch.linspace(0, 1, frames, device=device).view(1, frames)


def turned(x: Tensor, y: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates of an object that is turned clockwise by `angle` (radians; a field)."""
    cos, sin = torch.cos(angle), torch.sin(angle)
    return cos * x + sin * y, cos * y - sin * x


def seen(
    x: Tensor, y: Tensor, pan_x: Number = 0.0, pan_y: Number = 0.0, zoom: Number = 1.0, depth: float = 1.0
) -> tuple[Tensor, Tensor]:
    """What the camera sees at (x, y): the camera stands at `pan` and enlarges `zoom` times.

    Args:
        depth: 1 for what stands where the camera looks; less for what is further away and moves less (parallax), 0 for the sky.
    """
    scale = zoom**depth
    return x / scale + pan_x * depth, y / scale + pan_y * depth


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


def noise(x: Tensor, y: Tensor, seeds: Tensor, time: Tensor | None = None, period: int = 32) -> Tensor:
    """A smooth random field from 0 to 1, whose bumps are about 1 wide; it repeats after `period`.

    Args:
        x, y: fields; scale them to make the bumps smaller.
        seeds: (B,) int64.
        time: (B, T) or (1, T); the field changes altogether when time goes on by 1. None for one that stands still.
    """
    table = _table(seeds, time, period)
    whole = torch.broadcast_shapes(x.shape, y.shape)  # type: ignore[no-untyped-call]
    clips, frames = max(whole[0], table.shape[0]), max(whole[1], table.shape[1])
    points = torch.stack([_faded(x, period).expand(whole), _faded(y, period).expand(whole)], -1) * (2 / period) - 1
    points = points.expand(clips, frames, *points.shape[2:]).flatten(0, 1)
    table = table.expand(clips, frames, *table.shape[2:]).reshape(-1, 1, period + 1, period + 1)
    sampled = F.grid_sample(table, points, mode="bilinear", align_corners=True, padding_mode="border")
    return sampled.view(clips, frames, *whole[2:])


def fractal(
    x: Tensor, y: Tensor, seeds: Tensor, time: Tensor | None = None, octaves: int = 4, gain: float = 0.5, period: int = 32
) -> Tensor:
    """Octaves of `noise`, each twice as fine and `gain` times as strong as the last; from 0 to 1, about 0.5 on average."""
    total, weight, strength = noise(x, y, seeds, time, period), 1.0, 1.0
    for octave in range(1, octaves):
        strength *= gain
        weight += strength
        shift = 0.37 * octave  # else the lattices of all octaves meet at 0
        total = total + strength * noise(x * 2**octave + shift, y * 2**octave + shift, seeds + 7919 * octave, time, period)
    return total / weight


def _table(seeds: Tensor, time: Tensor | None, period: int) -> Tensor:
    """(B, T, period + 1, period + 1): the values at the corners of the lattice, blended between two moments."""
    corner = torch.arange(period + 1, device=seeds.device) % period
    seeds, row, column = seeds.view(-1, 1, 1, 1), corner.view(-1, 1), corner
    if time is None:
        return uniform(seeds, row, column, 0)
    moment = spread(torch.floor(time)).long()
    part = spread(_fade(time - torch.floor(time)))
    return torch.lerp(uniform(seeds, row, column, moment), uniform(seeds, row, column, moment + 1), part)


def _faded(value: Tensor, period: int) -> Tensor:
    """A coordinate within the period, eased between the lattice's corners so that linear interpolation shows no creases."""
    corner = torch.floor(value)
    return torch.remainder(corner, period) + _fade(value - corner)


def _fade(part: Tensor) -> Tensor:
    return part * part * part * (part * (6 * part - 15) + 10)
