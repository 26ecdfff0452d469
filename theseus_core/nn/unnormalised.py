"""Layers that keep the variance of what goes through them, so that a network needs no norms."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SLOPE = 0.2  # of the leaky ReLUs
GAIN = sqrt(2 / (1 + SLOPE**2))  # what keeps the variance through them


def linear(width: int, out: int, gain: float = 1.0) -> nn.Linear:
    """A linear layer whose outputs have `gain` times the root mean square of its inputs."""
    layer = nn.Linear(width, out)
    nn.init.normal_(layer.weight, std=gain / sqrt(width))
    nn.init.zeros_(layer.bias)
    return layer


def activated(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE)


class Level(nn.Module):
    """Half the width and height, then half the frames."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.space = nn.Conv2d(width, out, 3, stride=2, padding=1)
        self.time = linear(3 * out, out, GAIN)
        nn.init.normal_(self.space.weight, std=GAIN / sqrt(9 * width))

    def forward(self, x: Tensor) -> Tensor:  # (B, T, H, W, C)
        clips = len(x)
        x = activated(self.space(x.flatten(0, 1).permute(0, 3, 1, 2)))  # (B T, C', H / 2, W / 2)
        x = x.permute(0, 2, 3, 1).reshape(clips, -1, *x.shape[2:], x.shape[1])  # (B, T, H / 2, W / 2, C')
        x = F.pad(x, (0, 0, 0, 0, 0, 0, 1, x.shape[1] % 2))
        return activated(self.time(torch.cat([x[:, :-2:2], x[:, 1:-1:2], x[:, 2::2]], dim=-1)))
