"""Convolutions at finer resolutions around a transformer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from theseus_core.nn.causal import ConvBlock
from theseus_core.nn.patches import patchify, unpatchify


class Level(nn.Module):
    """Convolutional blocks at one resolution around the transformer, after the hourglass of Crowson et al. (2024).

    What lies within a few latents of another, such as an edge under noise, needs no attention, and what the patches of the
    transformer are too coarse for goes by it from the blocks before to those behind. Layout is channels last.

    Args:
        channels: of the level above.
        width: D.
        patch: side of the square of the level above that one place of this one stands for.
    """

    def __init__(self, channels: int, width: int, time_width: int, blocks: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.first = nn.Linear(channels * patch**2, width)
        self.before = nn.ModuleList(ConvBlock(width, 2.0) for _ in range(blocks))
        self.behind = nn.ModuleList(ConvBlock(width, 2.0) for _ in range(blocks))
        self.time_before = nn.Linear(time_width, 2 * width)
        self.time_behind = nn.Linear(time_width, 2 * width)
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.last = nn.Linear(width, channels * patch**2)
        for modulation in (self.time_before, self.time_behind):
            nn.init.zeros_(modulation.weight)
            nn.init.zeros_(modulation.bias)

    def enter(self, x: Tensor, time: Tensor) -> Tensor:
        """(B, t, h, w, channels) and (B, time width) to (B, t, h / patch, w / patch, D)."""
        x = modulated(self.first(patchify(x, self.patch)), self.time_before(time))
        for block in self.before:
            x = block(x)
        return x

    def leave(self, x: Tensor, time: Tensor) -> Tensor:
        """(B, t, h / patch, w / patch, D) to (B, t, h, w, channels)."""
        x = modulated(x, self.time_behind(time))
        for block in self.behind:
            x = block(x)
        return unpatchify(self.last(self.norm(x)), self.patch)


def modulated(x: Tensor, modulation: Tensor) -> Tensor:
    """(B, t, h, w, D) moved and stretched by the two halves of (B, 2 D)."""
    shift, scale = modulation.view(len(x), 1, 1, 1, -1).chunk(2, dim=-1)
    return torch.addcmul(shift, x, 1 + scale)
