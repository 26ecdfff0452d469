"""Paths of numbered noise levels: those of DDPM and of CogVideoX, with no signal at the last if so wished (Lin et al. 2023).

Time t = k / steps is level k: 0 is the clean clip, 1 is pure noise. What diffusers calls timestep is k - 1.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from theseus_core.config import Config
from theseus_core.errors import TheseusError


class Betas(Config):
    """The noise levels, and what the network tells of a noisy clip."""

    steps: int = Field(1000, ge=2, description="number of noise levels in training")
    curve: Literal["scaled_linear", "linear", "cosine"] = Field(
        "scaled_linear",
        description="how the variance that a step adds grows: its root in a line, itself in a line (Ho et al. 2020), or so that "
        "the signal falls as a cosine (Nichol and Dhariwal 2021)",
    )
    start: float = Field(0.00085, gt=0, lt=1, description="variance added by the first step, where it grows in a line")
    end: float = Field(0.012, gt=0, lt=1, description="variance added by the last step, before the shift, where it grows in a line")
    snr_shift: float = Field(3.0, gt=0, description="the ratio of signal to noise is divided by this at every level")
    zero_terminal_snr: bool = Field(True, description="the last level is pure noise")
    clean_end: bool = Field(True, description="sampling ends at no noise at all, rather than at the first level")
    spacing: Literal["trailing", "leading", "linspace"] = Field(
        "trailing", description="which levels sampling visits: evenly from the last, evenly from the first, or with both ends"
    )
    predicts: Literal["v_prediction", "epsilon", "sample"] = Field(
        "v_prediction", description="what the network gives: alpha * noise - sigma * clean, the noise, or the clean clip"
    )

    @model_validator(mode="after")
    def _signal_where_it_is_needed(self) -> Betas:
        if self.predicts == "epsilon" and self.zero_terminal_snr and self.spacing != "leading":
            raise ValueError("noise says nothing of the clip where all is noise: epsilon needs zero_terminal_snr off")
        return self


LEAST_SIGNAL = 2.0**-12  # with none, the step from the last level would be infinite in log(alpha / sigma); diffusers takes this


class DiscretePath:
    """The path of `Betas`: alpha^2 + sigma^2 = 1 at every level.

    Args:
        least_signal: alpha where it would be 0, for solvers that count in log(alpha / sigma): `LEAST_SIGNAL`.
    """

    def __init__(self, betas: Betas, least_signal: float = 0.0) -> None:
        self.betas = betas
        alphas, sigmas = _levels(betas)
        self._alphas, self._sigmas = alphas.where(alphas > 0, torch.full_like(alphas, least_signal)), sigmas

    def alpha(self, t: Tensor) -> Tensor:
        return self._alphas.to(t.device)[self._level(t)]

    def sigma(self, t: Tensor) -> Tensor:
        return self._sigmas.to(t.device)[self._level(t)]

    def add_noise(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t for t of shape (B,)."""
        return _each(self.alpha(t), clean) * clean + _each(self.sigma(t), clean) * noise

    def target(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network should give at x_t, t of shape (B,)."""
        if self.betas.predicts == "v_prediction":
            return _each(self.alpha(t), clean) * noise - _each(self.sigma(t), clean) * clean
        return noise if self.betas.predicts == "epsilon" else clean

    def snr_weights(self, t: Tensor, least: float, most: float) -> Tensor:
        """(B,) weights of the errors of what the network gives at t (B,): an error of the clean clip counts by the ratio of signal
        to noise, at least by one number (Salimans and Ho 2022) and at most by the other (min-SNR, Hang et al. 2023)."""
        ratio = (self.alpha(t) / self.sigma(t)).square()
        weights = ratio.clamp(least, most)
        if self.betas.predicts == "epsilon":
            return weights / ratio
        return weights / (ratio + 1) if self.betas.predicts == "v_prediction" else weights

    def split(self, x: Tensor, predicted: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(x_0, noise) that x_t and what the network gives for it stand for; t is a scalar."""
        alpha, sigma = self.alpha(t), self.sigma(t)
        if self.betas.predicts == "v_prediction":
            return alpha * x - sigma * predicted, sigma * x + alpha * predicted
        if self.betas.predicts == "epsilon":
            return (x - sigma * predicted) / alpha, predicted
        return predicted, (x - alpha * predicted) / sigma

    def clock(self, t: Tensor) -> Tensor:
        """The number that the network is told for times t: that of its training step, from 0."""
        return (self._level(t) - 1).clamp_min(0).float()

    def snap(self, t: Tensor) -> Tensor:
        """Times in [0, 1] moved up to the next level, the first at least: what training may draw."""
        return (t * self.betas.steps).ceil().clamp_min(1) / self.betas.steps

    def times(self, steps: int, device: torch.device) -> Tensor:
        """(steps + 1,) sampling times, ending at 0. A step ends where the next one begins, also where `steps` does not divide.

        Raises:
            TheseusError: more steps than there are levels.
        """
        count = self.betas.steps
        if not 1 <= steps <= count:
            raise TheseusError(f"this model has noise levels for 1 to {count} steps, not for: {steps}")
        numbers = torch.arange(steps, dtype=torch.float64)
        if self.betas.spacing == "trailing":
            levels = count - numbers * (count / steps)
        elif self.betas.spacing == "leading":
            levels = (numbers * (count // steps)).flip(0) + 1
        else:
            levels = torch.linspace(0, count - 1, steps, dtype=torch.float64).round().flip(0) + 1
        return torch.cat([levels.round(), torch.zeros(1)]).div(count).float().to(device)

    def _level(self, t: Tensor) -> Tensor:
        return (t * self.betas.steps).round().long()


def _levels(betas: Betas) -> tuple[Tensor, Tensor]:
    """alpha and sigma at the levels 0 .. steps, (steps + 1,) each, computed in double precision, also on the meta device."""
    signal = (1 - _variances(betas)).cumprod(0)  # alpha^2
    signal = signal / (betas.snr_shift + (1 - betas.snr_shift) * signal)
    if betas.zero_terminal_snr:
        alpha = signal.sqrt()
        signal = ((alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])) ** 2
    signal = torch.cat([torch.ones_like(signal[:1]) if betas.clean_end else signal[:1], signal])
    return signal.sqrt().float(), (1 - signal).sqrt().float()


def _variances(betas: Betas) -> Tensor:
    """(steps,) variance that each step adds."""
    if betas.curve != "cosine":
        power = 0.5 if betas.curve == "scaled_linear" else 1.0
        line = torch.linspace(betas.start**power, betas.end**power, betas.steps, dtype=torch.float64, device="cpu")
        return line ** (1 / power)
    ends = torch.arange(betas.steps + 1, dtype=torch.float64, device="cpu") / betas.steps
    signal = ((ends + 0.008) / 1.008 * math.pi / 2).cos().square()
    added = (1 - signal[1:] / signal[:-1]).clamp_max(0.999)
    return added.float().double()  # as others store them: of what the last steps leave, the rounding is no small part


def _each(value: Tensor, like: Tensor) -> Tensor:
    """(B,) values, shaped to multiply (B, ...)."""
    return value.view(-1, *[1] * (like.ndim - 1))
