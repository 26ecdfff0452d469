"""Colour as people see it: CIELAB, as a loss and, by CIEDE2000, as a figure."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# sRGB primaries to XYZ (IEC 61966-2-1), each row divided by the white point D65, so that white is (1, 1, 1)
_TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
_BEND = 6 / 29  # where the cube root of CIELAB becomes a straight line
_SCALE = (100.0, 110.0, 110.0)  # L, a and b to about [0, 1] and [-1, 1]


def lab(video: Tensor) -> Tensor:
    """sRGB (B, 3, ...) in [-1, 1] to CIELAB (B, 3, ...): L in [0, 100], a and b in about [-110, 110].

    Values outside are clamped. The gradient is finite everywhere.
    """
    rgb = (video.float().clamp(-1, 1) + 1) / 2
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4)
    matrix = torch.tensor(_TO_XYZ, device=video.device)
    xyz = torch.einsum("ij,bj...->bi...", matrix / matrix.sum(dim=1, keepdim=True), linear)
    bent = torch.where(xyz > _BEND**3, xyz.clamp_min(_BEND**3) ** (1 / 3), xyz / (3 * _BEND**2) + 4 / 29)
    x, y, z = bent.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def colour_error(a: Tensor, b: Tensor) -> Tensor:
    """The mean distance of two videos (B, 3, T, H, W) in CIELAB, L counted in units of 100, a and b of 110: a scalar, as a loss.

    Unscaled and squared it would be ten thousand times the error of the pixels, and nothing else would be learned.
    """
    scale = torch.tensor(_SCALE, device=a.device).view(1, 3, *[1] * (a.ndim - 2))
    apart = (lab(a) - lab(b)) / scale
    return (apart.square().sum(1) + 1e-6).sqrt().mean()  # smooth where the colours agree


def saturation(video: Tensor) -> Tensor:
    """The mean chroma in CIELAB of each clip (B,) of (B, 3, T, H, W): 0 is grey."""
    return lab(video)[:, 1:].square().sum(1).sqrt().flatten(1).mean(1)


def ciede2000(a: Tensor, b: Tensor) -> Tensor:
    """The difference that people see between CIELAB colours (..., 3), about 1 where it is just visible: (...).

    The formula of CIE 142-2001 as Sharma, Wu and Dalal (2005) write it out, with all weights 1.
    """
    a, b = a.double(), b.double()
    chroma = (a[..., 1:].square().sum(-1).sqrt() + b[..., 1:].square().sum(-1).sqrt()) / 2
    stretch = 1 + 0.5 * (1 - _saturating(chroma))
    (l1, c1, h1), (l2, c2, h2) = (_polar(colour, stretch) for colour in (a, b))
    turn = torch.remainder(h2 - h1 + 180, 360) - 180
    turn = torch.where(c1 * c2 == 0, 0.0, turn)
    hue_apart = 2 * (c1 * c2).sqrt() * _sin(turn / 2)
    c, light = (c1 + c2) / 2, (l1 + l2) / 2
    hue = torch.where(c1 * c2 == 0, h1 + h2, _mean_hue(h1, h2))
    t = 1 - 0.17 * _cos(hue - 30) + 0.24 * _cos(2 * hue) + 0.32 * _cos(3 * hue + 6) - 0.20 * _cos(4 * hue - 63)
    light_weight = 1 + 0.015 * (light - 50) ** 2 / (20 + (light - 50) ** 2).sqrt()
    chroma_part = (c2 - c1) / (1 + 0.045 * c)
    hue_part = hue_apart / (1 + 0.015 * c * t)
    rotation = -2 * _saturating(c) * _sin(60 * torch.exp(-(((hue - 275) / 25) ** 2)))
    squares = ((l2 - l1) / light_weight) ** 2 + chroma_part**2 + hue_part**2 + rotation * chroma_part * hue_part
    return squares.clamp_min(0).sqrt()


def colour_difference(a: Tensor, b: Tensor) -> Tensor:
    """The mean CIEDE2000 of the pixels of each clip (B,); a and b are (B, 3, T, H, W) in [-1, 1]."""
    return ciede2000(lab(a).movedim(1, -1), lab(b).movedim(1, -1)).flatten(1).mean(1).float()


def _polar(colour: Tensor, stretch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Lightness, chroma and hue in degrees from 0 to 360, the red-green axis stretched."""
    light, red, yellow = colour.unbind(-1)
    red = red * stretch
    return light, (red.square() + yellow.square()).sqrt(), torch.remainder(torch.rad2deg(torch.atan2(yellow, red)), 360)


def _mean_hue(h1: Tensor, h2: Tensor) -> Tensor:
    """On the shorter way around the circle."""
    total = h1 + h2
    around = torch.where(total < 360, total + 360, total - 360)
    return torch.where((h1 - h2).abs() <= 180, total, around) / 2


def _saturating(chroma: Tensor) -> Tensor:
    return (chroma**7 / (chroma**7 + 25.0**7)).sqrt()


def _sin(degrees: Tensor) -> Tensor:
    return torch.sin(degrees * (math.pi / 180))


def _cos(degrees: Tensor) -> Tensor:
    return torch.cos(degrees * (math.pi / 180))
