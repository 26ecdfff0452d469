"""Where a scene is drawn: coordinates under a moving camera, a clock, noise and points of light, on top of `canvas`.

A stage holds B clips that share a camera. The scene's unit is the height of the frame: y runs from 0 at the top to 1 at the
bottom, x is 0 in the middle. Coordinates keep the sides on which they do not depend at 1, (B, T, 1, W) or (B, 1, H, 1), so that
what stands still is drawn once and a silhouette costs a line, not a plane. Masks are fields (B, T, H, W), pictures (B, 3, T, H, W).
"""

from __future__ import annotations

import math
import zlib

import torch
import torch.nn.functional as F
from torch import Tensor

from theseus_core.world import canvas
from theseus_core.world.canvas import Number, lit, over, smoothstep

__all__ = ["CAMERAS", "FPS", "Stage", "blend", "lit", "over", "rgb", "smoothstep"]

FPS = 8.0  # the rate at which seconds pass, and at which the clips are meant to be seen
CAMERAS = ("still", "pan left", "pan right", "zoom in", "zoom out")
PAN, ZOOM = 0.3, 0.34  # over the whole clip, of what is near: frame heights, and the logarithm of the growth
PLASTIC = 1.32471795724  # the root of x^3 = x + 1
TILE = 256  # resolution of a noise tile


class Stage:
    """The frame, the camera and the clock of B clips.

    Args:
        seeds: (B,) int64; all chance comes from them.
        camera: one of `CAMERAS`. What the camera turns towards comes into the frame: panning right, things move left.
    """

    def __init__(self, seeds: Tensor, frames: int, height: int, width: int, camera: str = "still") -> None:
        assert camera in CAMERAS, camera
        self.seeds, self.height, self.width, self.camera = seeds, height, width, camera
        self.device = seeds.device
        self.pixel = 1.0 / height
        self.aspect = width / height
        steps = torch.arange(frames, device=self.device, dtype=torch.float32).view(1, -1, 1, 1)
        self.seconds = steps / FPS  # (1, T, 1, 1)
        self.progress = steps / max(1, frames - 1)  # (1, T, 1, 1), from 0 to 1
        self._tiles: dict[tuple[str, int, int, float], Tensor] = {}

    # --- coordinates ---

    def x(self, near: float = 1.0) -> Tensor:
        """(1, T or 1, 1, W): across, 0 in the middle; `near` is 1 for what moves with the camera and 0 for the sky."""
        across = (torch.arange(self.width, device=self.device) + 0.5) * self.pixel - self.aspect / 2
        across = across.view(1, 1, 1, -1) / self._growth(near)
        if not self.camera.startswith("pan"):
            return across
        sign = 1.0 if self.camera == "pan right" else -1.0
        return across + sign * PAN * near * (self.progress - 0.5)

    def y(self, near: float = 1.0) -> Tensor:
        """(1, T or 1, H, 1): down, from 0 to 1."""
        down = (torch.arange(self.height, device=self.device) + 0.5) * self.pixel - 0.5
        return down.view(1, 1, -1, 1) / self._growth(near) + 0.5

    def _growth(self, near: float) -> Number:
        """At least 1, so that a zoom never shows more than the still camera does: scenes are composed for its frame."""
        if not self.camera.startswith("zoom"):
            return 1.0
        return torch.exp(ZOOM * near * (self.progress if self.camera == "zoom in" else 1 - self.progress))

    # --- chance ---

    def chance(self, name: str, *shape: int) -> Tensor:
        """(B, *shape) uniform in [0, 1), a pure function of the clip's seed, the name and the place."""
        index = torch.arange(math.prod(shape), device=self.device)
        return canvas.uniform(self.seeds.view(-1, 1), zlib.crc32(name.encode()), index).view(-1, *shape)

    def between(self, name: str, low: float, high: float, *shape: int) -> Tensor:
        """Uniform in [low, high): (B, 1, 1, 1), or (B, 1, *shape) for the many points of one clip."""
        value = low + (high - low) * self.chance(name, *(shape or (1,)))
        return value.unsqueeze(1) if shape else value.view(-1, 1, 1, 1)

    def scatter(self, name: str, count: int) -> tuple[Tensor, Tensor]:
        """Places of P things that keep apart, (B, 1, P) across and down the unit square, which repeats itself downwards.

        They lie on the Kronecker lattice of the plastic number (M. Roberts, "The unreasonable effectiveness of quasirandom
        sequences", 2018), each a little off its place, and all of them a little further down or up. What is strewn at random lies
        in heaps and leaves holes; and a small network that has to guess every place by itself paints a mixture of all.
        """
        index = torch.arange(count, device=self.device, dtype=torch.float32)
        off = 0.15 / count**0.5
        across = (0.5 + index / PLASTIC) % 1 + self.between(f"{name} x", -off, off, count)
        shift = self.between(name, -0.06, 0.06).squeeze(-1)
        down = (index / PLASTIC**2 + shift + self.between(f"{name} y", -off, off, count)) % 1
        return across, down

    def side(self, name: str) -> Tensor:
        """-1 or 1, (B, 1, 1, 1)."""
        return torch.where(self.between(name, 0, 1) < 0.5, -1.0, 1.0)

    # --- noise ---

    def tile(self, name: str, base: int = 4, octaves: int = 5, gain: float = 0.5) -> Tensor:
        """(B, 1, S + 1, S + 1): fractal value noise of mean 0 and deviation 1 that repeats itself after S.

        All octaves lie in one tile, so that a moving fractal field costs one look-up a pixel.
        """
        key = (name, base, octaves, gain)
        if key not in self._tiles:
            total = self._octave(f"{name} 0", base)
            for k in range(1, octaves):
                total = total + gain**k * self._octave(f"{name} {k}", base * 2**k)
            total = (total - total.mean((1, 2), keepdim=True)) / total.std((1, 2), keepdim=True)
            self._tiles[key] = F.pad(total.unsqueeze(1), (0, 1, 0, 1), mode="circular")
        return self._tiles[key]

    def _octave(self, name: str, cells: int) -> Tensor:
        lattice = self.chance(name, cells, cells)  # (B, n, n)
        place = torch.arange(TILE, device=self.device).view(-1, 1) * (cells / TILE)
        away = (place - torch.arange(cells, device=self.device) + cells / 2) % cells - cells / 2
        weight = smoothstep(0.0, 1.0, 1 - away.abs())  # (S, n)
        return weight @ lattice @ weight.T  # (B, S, S)

    def look(self, tile: Tensor, u: Tensor, v: Number) -> Tensor:
        """The tile at fields of coordinates, a tile being one unit: a field of mean 0 and deviation 1."""
        v = v if isinstance(v, Tensor) else torch.full((1, 1, 1, 1), v, device=self.device)
        shape = [max(sides) for sides in zip(u.shape, v.shape, strict=True)]
        batch, frames, height, width = tile.shape[0], *shape[1:]
        points = torch.stack(((u % 1).expand(shape), (v % 1).expand(shape)), -1).mul_(2).sub_(1)
        points = points.expand(batch, -1, -1, -1, -1).reshape(batch, frames * height, width, 2)
        return F.grid_sample(tile, points, align_corners=True).view(batch, frames, height, width)

    def fractal(self, name: str, u: Tensor, v: Number, base: int = 4, octaves: int = 5, gain: float = 0.5) -> Tensor:
        return self.look(self.tile(name, base, octaves, gain), u, v)

    def profile(self, name: str, x: Tensor, base: int = 4, octaves: int = 5, gain: float = 0.5) -> Tensor:
        """A line of noise along x, a tile to a unit: (B, T or 1, 1, W)."""
        return self.fractal(name, x, self.between(name, 0, 1), base, octaves, gain)

    # --- fields ---

    def cover(self, distance: Tensor, soft: float = 0.0) -> Tensor:
        """1 inside a distance below 0, over an edge of a pixel or of `soft` units where that is more."""
        return canvas.cover(distance, max(soft, self.pixel))

    def disc(self, cx: Number, cy: Number, radius: Number, near: float = 1.0, soft: float = 0.0) -> Tensor:
        return self.cover(canvas.circle(self.x(near) - cx, self.y(near) - cy, radius), soft)

    def glow(self, cx: Number, cy: Number, radius: Number, near: float = 1.0) -> Tensor:
        """Light around a point: 1 at the centre, less than half at the radius, and a tail."""
        square = ((self.x(near) - cx) ** 2 + (self.y(near) - cy) ** 2) / (radius * radius)
        return 1 / (1 + square * (1 + 0.7 * square))

    def line(self, ax: Number, ay: Number, bx: Number, by: Number, thickness: Number, near: float = 1.0) -> Tensor:
        return self.cover(canvas.segment(self.x(near), self.y(near), ax, ay, bx, by, thickness))

    def dots(self, px: Tensor, py: Tensor, rx: Number, weight: Tensor, ry: Number | None = None, near: float = 1.0) -> Tensor:
        """The sum of P soft points, by one matrix product a frame, since a Gaussian is the product of its rows and columns.

        Args:
            px, py, rx, ry: places and radii, (B, T or 1, P); radii below a pixel are drawn at a pixel, and fainter.
            weight: (B, T or 1, P), or (B, 3, T or 1, P) for colours.

        Returns:
            A field, or a picture where the weights are colours.
        """
        columns = self._bells(self.x(near).squeeze(2), px, rx)  # (B, T, P, W)
        rows = self._bells(self.y(near).squeeze(3), py, rx if ry is None else ry)  # (B, T, P, H)
        if weight.dim() == 4:
            columns, rows = columns.unsqueeze(1), rows.unsqueeze(1)
        return (rows * weight.unsqueeze(-1)).transpose(-1, -2) @ columns

    def _bells(self, axis: Tensor, centre: Tensor, radius: Number) -> Tensor:
        radius = torch.as_tensor(radius, device=self.device, dtype=torch.float32)
        wide = radius.clamp(min=0.75 * self.pixel)
        away = (axis.unsqueeze(2) - centre.unsqueeze(-1)) / (wide.unsqueeze(-1) if wide.dim() else wide)
        faint = radius / wide
        return torch.exp(-away * away) * (faint.unsqueeze(-1) if faint.dim() else faint)


def rgb(code: str, light: Tensor | None = None) -> Tensor:
    """(1, 3, 1, 1, 1) of "#rrggbb", under a light of the same shape where one is given."""
    colour = torch.tensor([int(code[place : place + 2], 16) / 255 for place in (1, 3, 5)]).view(1, 3, 1, 1, 1)
    return colour if light is None else colour * light


def blend(a: Tensor, b: Tensor, share: Number) -> Tensor:
    return a + (b - a) * share
