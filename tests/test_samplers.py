"""Samplers against the exact solution: for Gaussian clips the best prediction, and where each noise ends, are known."""

import pytest
import torch
from torch import Tensor

from theseus_core.diffusion.samplers import SAMPLERS
from theseus_core.diffusion.schedule import RectifiedFlow, times

VARIANCE = 0.3  # of the clips
PATH = RectifiedFlow()


def predict(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    alpha, sigma = PATH.alpha(t), PATH.sigma(t)
    clean = alpha * VARIANCE * x / (alpha**2 * VARIANCE + sigma**2)
    return clean, (x - alpha * clean) / sigma


def error_of(sampler: str, steps: int) -> float:
    noise = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = SAMPLERS[sampler](predict, noise, times(steps, 1.0, torch.device("cpu")).double(), PATH, None)
    return float((made - noise * VARIANCE**0.5).abs().mean())


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_more_steps_come_nearer(sampler: str) -> None:
    assert error_of(sampler, 320) < error_of(sampler, 80) / 3.5 < 0.01


def test_first_and_second_order() -> None:
    for steps in (20, 40, 80):
        assert error_of("ddim", steps) / error_of("ddim", 2 * steps) == pytest.approx(2, abs=0.1)
    assert error_of("heun", 80) / error_of("heun", 160) == pytest.approx(4, abs=0.6)
    for sampler in ("heun", "dpmpp_2m"):
        assert error_of(sampler, 40) < error_of("ddim", 40) / 5
