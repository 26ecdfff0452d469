"""The path from a clean clip to noise, and the times a sampler visits.

A schedule gives `x_t = alpha(t) x_0 + sigma(t) noise` for t from 0 (clean) to 1 (noise).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Schedule(Protocol):
    """What samplers ask of a path: its two coefficients as functions of t in [0, 1]."""

    def alpha(self, t: Tensor) -> Tensor: ...

    def sigma(self, t: Tensor) -> Tensor: ...


class RectifiedFlow:
    """The straight path (Liu et al. 2022; Lipman et al. 2022): alpha = 1 - t, sigma = t; the velocity is `noise - x_0`."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def add_noise(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t for t of shape (B,)."""
        t = t.view(-1, *[1] * (clean.ndim - 1))
        return (1 - t) * clean + t * noise

    def target(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The velocity, the same at all times."""
        return noise - clean

    def snap(self, t: Tensor) -> Tensor:
        """The times nearest to t that training may draw: any will do."""
        return t

    def clock(self, t: Tensor) -> Tensor:
        """The number that the network is told for times t."""
        return 1000 * t

    def split(self, x: Tensor, velocity: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(x_0, noise) that x_t and its velocity stand for."""
        return x - t * velocity, x + (1 - t) * velocity


def shifted(t: Tensor, shift: float) -> Tensor:
    """Move times towards the noise by the factor `shift` (Esser et al. 2024, eq. 23): larger clips need more steps there."""
    return shift * t / (1 + (shift - 1) * t)


def logit_normal(count: int, shift: float, device: torch.device) -> Tensor:
    """(count,) training times: the sigmoid of a standard normal (Esser et al. 2024), shifted."""
    return shifted(torch.randn(count, device=device).sigmoid(), shift)


def uniform(count: int, shift: float, device: torch.device) -> Tensor:
    """(count,) training times: one from each of as many equal parts of [0, 1], shifted; a batch meets every kind of time."""
    return shifted((torch.arange(count, device=device) + torch.rand(count, device=device)) / count, shift)


def times(steps: int, shift: float, device: torch.device) -> Tensor:
    """(steps + 1,) sampling times from 1 down to 0, evenly spaced before the shift."""
    return shifted(torch.linspace(1, 0, steps + 1, device=device), shift)
