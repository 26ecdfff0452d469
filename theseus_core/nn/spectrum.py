"""A clip's time as frequencies."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def cosines(frames: int, device: torch.device | str = "cpu") -> Tensor:
    """(T, T), a cosine in each row, slow before fast: the orthonormal DCT-II (Ahmed et al. 1974), whose transpose undoes it."""
    order = torch.arange(frames, device=device)
    table = torch.cos(math.pi / frames * order[:, None] * (order + 0.5)) * math.sqrt(2 / frames)
    table[0] *= math.sqrt(0.5)
    return table


def spectrum(clip: Tensor) -> Tensor:
    """(B, Z, t, h, w) to as many frequencies, in place of the frames; noise stays noise."""
    return torch.einsum("kt,bzthw->bzkhw", cosines(clip.shape[2], clip.device).to(clip.dtype), clip)


def from_spectrum(clip: Tensor) -> Tensor:
    """The inverse of `spectrum`."""
    return torch.einsum("kt,bzkhw->bzthw", cosines(clip.shape[2], clip.device).to(clip.dtype), clip)
