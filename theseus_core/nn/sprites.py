"""Things on a smooth ground: found in frames without learning, looked at, and drawn again from some thirty numbers each.

As in AIR (Eslami et al. 2016) each thing of a frame is looked at by itself, in a window that follows it, and told by where it is,
how large, of what colour and shape; the frame is drawn again from that alone, as with learned sprites (Monnier et al. 2021). Where
things are is found first without learning, and corrected by what is learned; shapes are learned altogether.

Frames know nothing of each other but which thing is which. What is drawn has no size of its own: it is drawn at any.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from theseus_core.config import Config as BaseConfig
from theseus_core.contracts import Batch, VideoTokenizer
from theseus_core.device import full_precision
from theseus_core.nn.foreground import MAX_THINGS, axes, fit_ground, follow, foreground, ground, patches

PLACE = 7  # numbers of a thing beside its shape: y, x, size, three of colour, and whether it is there
GROUND = 9
UNIT = 0.3  # the half width of a thing of size 0; two more are e times as much
REACH = 1.25  # how far the window goes beyond that, in half widths
LOOKED_AT = 64  # pixels of the shorter side of the frames that things are found in: larger ones show no more
TURNS = 1  # angles that a thing is learned at beside its own
THERE = 6.0  # how steeply a thing that is there, 1, differs from one that is not, -1


class SpriteConfig(BaseConfig):
    """What all families of sprites can be told."""

    things: int = Field(2, ge=1, le=MAX_THINGS, description="sprites of a frame, at most; of more, the largest are kept")
    shape_channels: int = Field(12, ge=1, description="numbers that tell a shape, turned as it is")
    canvas: int = Field(32, ge=8, multiple_of=8, description="side of the square that a shape is drawn on")
    width: int = Field(64, ge=8, description="channels of the convolutions that look at a thing; four times as many draw it")
    noise: float = Field(
        0.05, ge=0, description="deviation of what is added to a shape's numbers in training; a tenth to the others"
    )
    l1_weight: float = Field(0.3, ge=0, description="weight of the mean absolute error")
    mse_weight: float = Field(1.0, ge=0, description="weight of the mean squared error")
    shape_weight: float = Field(1e-3, ge=0, description="weight of the mean square of the shapes' numbers")


class Look(nn.Module):
    """What is seen of a thing in its window (n, 7, S, S), to corrections of its place and colour (n, 6) and its shape (n, Z')."""

    def __init__(self, config: SpriteConfig) -> None:
        super().__init__()
        width = config.width
        self.see = nn.Sequential(
            nn.Conv2d(7, width // 2, 5, 2, 2),
            nn.SiLU(),
            nn.Conv2d(width // 2, width, 3, 2, 1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, 2, 1),
            nn.SiLU(),
        )
        last = nn.Linear(4 * width, PLACE - 1 + config.shape_channels)
        self.tell = nn.Sequential(nn.Linear(2 * width * (config.canvas // 8) ** 2, 4 * width), nn.SiLU(), last)
        with torch.no_grad():
            last.weight.mul_(0.3)

    def forward(self, window: Tensor) -> Tensor:
        told: Tensor = self.tell(self.see(window).flatten(1))
        return told


class Canvas(nn.Module):
    """Shapes (n, Z') to how much they cover of a square (n, 1, S, S), from 0 to 1; a soft disc to begin with."""

    def __init__(self, config: SpriteConfig) -> None:
        super().__init__()
        self.side = config.canvas
        hidden = 4 * config.width
        last = nn.Linear(hidden, self.side**2)
        self.draw = nn.Sequential(nn.Linear(config.shape_channels, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), last)
        with torch.no_grad():
            y, x = (REACH * line for line in axes(self.side, self.side))
            last.weight.mul_(0.3)
            last.bias.copy_((6 * (0.7 - torch.hypot(y[:, None], x))).flatten())

    def forward(self, shape: Tensor) -> Tensor:
        covered: Tensor = self.draw(shape).float().sigmoid()
        return covered.view(-1, 1, self.side, self.side)


class Sprites(VideoTokenizer):
    """Videos (B, 3, T, H, W) to numbers (B, T, Z) and back, Z = `numbers_of_frame`; what families make of these is theirs."""

    config: SpriteConfig
    time_factor = 1
    space_factor = 1
    exact_in_chunks: ClassVar[bool] = False
    sizeless: ClassVar[bool] = True

    def __init__(self, config: SpriteConfig) -> None:
        super().__init__()
        self.config = config
        self.each = PLACE + config.shape_channels
        self.numbers_of_frame = config.things * self.each + GROUND
        self.look = Look(config)
        self.canvas = Canvas(config)

    def numbers(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, T, Z): each frame's things, then its ground."""
        batch, _, frames, _, _ = video.shape
        pictures = video.transpose(1, 2).flatten(0, 1)  # (B T, 3, H, W)
        coefficients, places, views = self._find(pictures)
        things = self._look_at(places.flatten(0, 1), views.flatten(0, 1)).view(batch, frames, self.config.things, self.each)
        order = follow(things.detach(), things[..., PLACE - 1] > 0)
        things = things.gather(2, order[..., None].expand_as(things))
        return torch.cat([things.flatten(2), coefficients.view(batch, frames, GROUND)], dim=-1)

    def draw(self, numbers: Tensor, height: int, width: int) -> Tensor:
        """(B, T, Z) -> (B, 3, T, H, W)."""
        drawn = self._draw(numbers.flatten(0, 1), height, width)
        return drawn.view(*numbers.shape[:2], 3, height, width).transpose(1, 2)

    def things(self, numbers: Tensor) -> Tensor:
        """(..., Z) -> (..., K, PLACE + Z')."""
        return numbers[..., :-GROUND].reshape(*numbers.shape[:-1], self.config.things, self.each)

    def losses(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        """How well each thing is drawn again in its window, upright and turned by any angles: few things turn by themselves."""
        assert batch.video is not None
        c, pictures = self.config, batch.video.transpose(1, 2).flatten(0, 1)
        _, places, views = self._find(pictures)
        there = places[..., -1].flatten() > 0
        if not there.any():  # nothing to learn from, and no mean of nothing
            nothing = 0.0 * torch.stack([p.sum() for p in self.parameters()]).sum()
            return {"loss": nothing, "l1": nothing, "mse": nothing, "shape": nothing}
        places, views = places.flatten(0, 1)[there], views.flatten(0, 1)[there]
        angles = 2 * math.pi * torch.rand(TURNS, len(views), device=views.device)
        window = torch.cat([self._window(places, views), *(self._window(places, views, angle) for angle in angles)])
        places = places.repeat(1 + TURNS, 1)
        told = self.look(window).float()
        told = told + c.noise * torch.randn_like(told) * (1 - 0.9 * (torch.arange(told.shape[1], device=told.device) < PLACE - 1))
        line = axes(c.canvas, c.canvas, views.device)[0] * REACH
        stretch = (0.5 * told[:, 2:3]).clamp(-3, 3).exp() * REACH
        rows, columns = (line - told[:, :1]) / stretch, (line - told[:, 1:2]) / stretch
        covered = _sample(self.canvas(told[:, PLACE - 1 :]), rows[:, :, None], columns[:, None, :], c.canvas, c.canvas, "zeros")
        target, behind = window[:, :3], window[:, :3] - window[:, 3:6]
        colour = places[:, 3:6] + told[:, 3:6]
        output = behind + covered * (colour[:, :, None, None] - behind)
        # a share of the frame as large as the window's: what is large shows more
        weight = (REACH * _half_width(places)).square()[:, None, None, None]
        error = output - target
        terms = {
            "l1": (weight * error.abs()).mean(),
            "mse": (weight * error.square()).mean(),
            "shape": told[:, PLACE - 1 :].square().mean(),
        }
        loss = c.l1_weight * terms["l1"] + c.mse_weight * terms["mse"] + c.shape_weight * terms["shape"]
        return {"loss": loss, **terms}

    @torch.no_grad()
    def _find(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures (n, 3, H, W) to their grounds (n, 3, 3), and each thing's place (n, K, 7) and view (n, K, 7, h, w).

        A view shows the thing alone on the ground, how it differs from that, and where it is.
        """
        with full_precision(pictures.device):
            pictures = pictures.float()
            height, width = pictures.shape[2:]
            if min(height, width) > LOOKED_AT:
                scale = LOOKED_AT / min(height, width)
                pictures = F.adaptive_avg_pool2d(pictures, (round(scale * height), round(scale * width)))
            height, width = pictures.shape[2:]
            y, x = axes(height, width, pictures.device)
            coefficients = fit_ground(pictures)
            behind = ground(coefficients, height, width)
            difference = pictures - behind
            mask = foreground(difference)
            found = patches(mask, self.config.things)  # (n, K, h, w)
            near = F.max_pool2d(found.float(), 3, 1, 1)  # its soft edge too
            weights = mask * near
            share = weights / (weights.sum((2, 3), keepdim=True) + 1e-3)
            at_y, at_x = (share.sum(3) * y).sum(2), (share.sum(2) * x).sum(2)  # (n, K)
            off_y, off_x = y - at_y[..., None], x - at_x[..., None]
            spread = ((share.sum(3) * off_y.square()).sum(2) + (share.sum(2) * off_x.square()).sum(2)).sqrt()
            colour = torch.einsum("nkhw,nchw->nkc", share, pictures)
            half_width = 2 * torch.log((1.35 * spread + 0.02) / UNIT)  # of a disc the spread is 0.71 of the radius
            there = found.any(3).any(2)[..., None]  # (n, K, 1)
            place = torch.cat([torch.stack([at_y, at_x, half_width], dim=-1), colour], dim=-1) * there
            differs = difference[:, None] * near[:, :, None]  # (n, K, 3, h, w)
            views = torch.cat([behind[:, None] + differs, differs, 2 * weights[:, :, None] - 1], dim=2)
            return coefficients, torch.cat([place, 2.0 * there - 1], dim=-1), views

    def _look_at(self, places: Tensor, views: Tensor) -> Tensor:
        """Places (n, 7) and views (n, 7, h, w) of things to all that is told of them, (n, PLACE + Z'); 0 of those not there."""
        centre, size, there = places[:, :2], _half_width(places), places[:, -1:] > 0
        told = self.look(self._window(places, views)).float() * there
        corrected = torch.cat([centre + size[:, None] * told[:, :2], places[:, 2:6] + told[:, 2:6]], dim=-1)
        return torch.cat([corrected, places[:, -1:], told[:, 6:]], dim=-1)

    def _window(self, places: Tensor, views: Tensor, angles: Tensor | None = None) -> Tensor:
        """(n, 7, S, S) of views (n, 7, h, w): a square about each place, turned by angles (n,)."""
        centre, size = places[:, :2], _half_width(places)[:, None]
        line = size * axes(self.config.canvas, self.config.canvas, views.device)[0] * REACH  # (n, S)
        down, right = line[:, :, None], line[:, None, :]
        if angles is not None:
            cos, sin = angles.cos()[:, None, None], angles.sin()[:, None, None]
            down, right = cos * down + sin * right, cos * right - sin * down
        height, width = views.shape[2:]
        return _sample(views, centre[:, :1, None] + down, centre[:, 1:, None] + right, height, width, "border")

    def _draw(self, numbers: Tensor, height: int, width: int) -> Tensor:
        """Numbers (n, Z) to pictures (n, 3, H, W): the ground, and on it one thing after the other."""
        picture = ground(numbers[:, -GROUND:].view(-1, 3, 3), height, width)
        y, x = axes(height, width, numbers.device)
        for thing in reversed(self.things(numbers).unbind(1)):  # what moves lies before what does not
            size = _half_width(thing)[:, None] * REACH
            rows, columns = (y - thing[:, :1]) / size, (x - thing[:, 1:2]) / size  # (n, H), (n, W) on the canvas
            shape = self.canvas(thing[:, PLACE:].to(next(self.canvas.parameters()).dtype))
            covered = _sample(shape, rows[:, :, None], columns[:, None, :], self.config.canvas, self.config.canvas, "zeros")
            covered = covered * (THERE * thing[:, PLACE - 1]).sigmoid()[:, None, None, None]
            picture = picture + covered * (thing[:, 3:6, None, None] - picture)
        return picture


def _half_width(thing: Tensor) -> Tensor:
    """(n, ...) -> (n,): in units of half the shorter side of a frame; never more than a few frames, nor nothing."""
    return UNIT * (0.5 * thing[:, 2]).clamp(-4, 3).exp()


def _sample(pictures: Tensor, rows: Tensor, columns: Tensor, height: int, width: int, beyond: str) -> Tensor:
    """Pictures (n, C, height, width) at rows and columns in the units of `axes`, which spread to (n, h, w): (n, C, h, w)."""
    shorter = min(height, width)
    shape = (len(pictures), rows.shape[1], columns.shape[2])
    columns, rows = columns * (shorter / width), rows * (shorter / height)  # of `grid_sample` each side goes from -1 to 1
    grid = torch.stack([columns.expand(shape), rows.expand(shape)], dim=-1)
    return F.grid_sample(pictures, grid.to(pictures.dtype), mode="bilinear", padding_mode=beyond, align_corners=False)
