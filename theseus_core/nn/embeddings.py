"""Embeddings of scalars."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def sinusoidal(t: Tensor, width: int, period: float = 10_000.0) -> Tensor:
    """(B,) times to (B, width): cosines, then sines, of geometrically spaced frequencies (Vaswani et al. 2017)."""
    frequency = torch.exp(-math.log(period) * torch.arange(width // 2, device=t.device) / (width // 2))
    angle = t.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def sincos_3d(t: int, h: int, w: int, width: int, device: torch.device) -> Tensor:
    """(t h w, width) absolute positions of a grid: a quarter of the values is for time, three eighths for each side.

    Args:
        width: a multiple of 16.
    """
    axes = [(t, width // 4), (h, width * 3 // 8), (w, width * 3 // 8)]
    tables = [sinusoidal(torch.arange(size, device=device), dim) for size, dim in axes]
    when, high, right = tables[0][:, None, None], tables[1][None, :, None], tables[2][None, None, :]
    parts = [table.expand(t, h, w, -1) for table in (when, high, right)]
    return torch.cat(parts, dim=-1).reshape(t * h * w, width)


def masked_mean(words: Tensor, mask: Tensor) -> Tensor:
    """(B, L, E) and (B, L) to (B, E): the mean of what the mask lets through, zero where that is nothing."""
    weights = mask.unsqueeze(-1).to(words.dtype)
    return (words * weights).sum(1) / weights.sum(1).clamp_min(1)


class TimeEmbedding(nn.Module):
    """(B,) numbers, up to about a thousand, to (B, out): their sinusoid through two linear layers."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(nn.Linear(width, out), nn.SiLU(), nn.Linear(out, out))

    def forward(self, number: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        embedded: Tensor = self.layers(sinusoidal(number, self.width).to(dtype))
        return embedded
