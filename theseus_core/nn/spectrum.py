"""A clip's time as frequencies."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def cosines(frames: int, device: torch.device | str = "cpu") -> Tensor:
    """(T, T), a cosine in each row, slow before fast: the orthonormal DCT-II (Ahmed et al. 1974), whose transpose undoes it."""
    order = torch.arange(frames, device=device)
    table = torch.cos(math.pi / frames * order[:, None] * (order + 0.5)) * math.sqrt(2 / frames)
    table[0] *= math.sqrt(0.5)
    return table


def sines(frames: int, device: torch.device | str = "cpu") -> Tensor:
    """(T, T), a sine in each row, the orthonormal DST-II. One of frequency 0 is nothing: the first row is the fastest of all."""
    order = torch.arange(frames, device=device)
    table = torch.sin(math.pi / frames * order[:, None] * (order + 0.5)) * math.sqrt(2 / frames)
    table[0] = torch.cos(math.pi * order) * math.sqrt(1 / frames)
    return table


def spectrum(clip: Tensor, both: bool = False) -> Tensor:
    """(B, Z, t, h, w) to as many frequencies, in place of the frames; noise stays noise.

    Args:
        both: sines too, (B, 2 Z, t, h, w), behind the cosines: the clip twice.
    """
    tables = (cosines, sines) if both else (cosines,)
    return torch.cat([torch.einsum("kt,bzthw->bzkhw", _table(table, clip), clip) for table in tables], dim=1)


def from_spectrum(clip: Tensor, both: bool = False) -> Tensor:
    """The clip that cosines stand for, and, of cosines and sines, the sum of both clips."""
    if both:
        of_cosines, of_sines = clip.chunk(2, dim=1)
        return from_spectrum(of_cosines) + torch.einsum("kt,bzkhw->bzthw", _table(sines, of_sines), of_sines)
    return torch.einsum("kt,bzkhw->bzthw", _table(cosines, clip), clip)


def _table(table: Callable[[int, torch.device], Tensor], clip: Tensor) -> Tensor:
    return table(clip.shape[2], clip.device).to(clip.dtype)
