"""Samplers against the exact solution, known where clean values are normal; the path they follow, and guidance."""

import math

import pytest
import torch
from torch import Tensor

from theseus_core.contracts import Text
from theseus_core.diffusion.guidance import guided
from theseus_core.diffusion.samplers import SAMPLERS, noise_after
from theseus_core.diffusion.schedule import RectifiedFlow, logit_normal, shifted, times, uniform

RANDOM = ("ddpm", "dpmpp_2m_sde")  # samplers with new noise in every step
MEAN, DEVIATION = 0.7, 0.3  # of the clean values
NOISE = torch.linspace(-2, 2, 9, dtype=torch.float64)


def predict(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The best possible prediction of the clean value and of the noise."""
    clean = MEAN + (1 - t) * DEVIATION**2 / ((1 - t) ** 2 * DEVIATION**2 + t**2) * (x - (1 - t) * MEAN)
    return clean, (x - (1 - t) * clean) / t


def solution(t: float) -> Tensor:
    """Where each noise is at time t: the flow to a normal distribution is linear."""
    return (1 - t) * MEAN + math.sqrt((1 - t) ** 2 * DEVIATION**2 + t**2) * NOISE


def error_of(sampler: str, grid: Tensor) -> float:
    begin, end = grid[0].item(), grid[-1].item()
    made = SAMPLERS[sampler](predict, solution(begin), grid.double(), RectifiedFlow(), None)
    return float((made - solution(end)).abs().max())


@pytest.mark.parametrize("sampler", sorted(set(SAMPLERS) - set(RANDOM)))
def test_more_steps_come_nearer_from_noise_to_clean(sampler: str) -> None:
    coarse, fine = (error_of(sampler, times(steps, 1.0, torch.device("cpu"))) for steps in (80, 320))
    assert fine < coarse / 3.5 < 0.01


@pytest.mark.parametrize(("sampler", "order"), [("ddim", 1), ("heun", 2), ("dpmpp_2m", 2)])
def test_samplers_converge_at_their_order(sampler: str, order: int) -> None:
    """Away from both ends, where steps in log(alpha / sigma) are infinite and every solver is of first order."""
    coarse, fine = (error_of(sampler, torch.linspace(0.95, 0.05, steps + 1, dtype=torch.float64)) for steps in (64, 128))
    assert fine < 0.01
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m"])
def test_second_order_is_worth_it(sampler: str) -> None:
    grid = times(40, 1.0, torch.device("cpu"))
    assert error_of(sampler, grid) < error_of("ddim", grid) / 4


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_a_sampler_stays_finite_at_both_ends_even_in_one_step(sampler: str) -> None:
    for steps in (1, 2, 3):
        out = SAMPLERS[sampler](
            lambda x, t: (torch.ones_like(x), torch.zeros_like(x)),
            torch.randn(4),
            times(steps, 3.0, torch.device("cpu")),
            RectifiedFlow(),
            None,
        )
        torch.testing.assert_close(out, torch.ones(4))


@pytest.mark.parametrize("sampler", RANDOM)
def test_new_noise_in_every_step_leads_to_the_same_distribution(sampler: str) -> None:
    torch.manual_seed(0)
    noise = torch.randn(1, 20_000, dtype=torch.float64)
    made = SAMPLERS[sampler](predict, noise, times(160, 1.0, torch.device("cpu")).double(), RectifiedFlow(), None)
    assert made.mean().item() == pytest.approx(MEAN, abs=0.01) and made.std().item() == pytest.approx(DEVIATION, rel=0.03)
    assert abs(torch.corrcoef(torch.cat([made, noise]))[0, 1]) < 0.9, "not the noise that it began with"


def test_the_noise_of_a_clip_follows_from_its_own_beginning() -> None:
    start = torch.randn(2, 3, 4)
    both, alone = noise_after(start), noise_after(start[1:])
    first = both()
    assert torch.equal(first[1:], alone()) and not torch.equal(first[0], first[1])
    assert not torch.equal(both(), first), "and is new at each call"
    assert abs(noise_after(torch.randn(1, 10_000))().std() - 1) < 0.03


def test_noising_and_its_inverse() -> None:
    path, clean, noise, t = RectifiedFlow(), torch.randn(3, 2, 2), torch.randn(3, 2, 2), torch.tensor([0.1, 0.5, 0.9])
    x = path.add_noise(clean, noise, t)
    torch.testing.assert_close(x[1], 0.5 * clean[1] + 0.5 * noise[1])
    found_clean, found_noise = path.split(x[2:], (noise - clean)[2:], t[2])
    torch.testing.assert_close(found_clean, clean[2:], atol=1e-5, rtol=0)
    torch.testing.assert_close(found_noise, noise[2:], atol=1e-5, rtol=0)


def test_times_run_from_noise_to_clean_and_shift_towards_noise() -> None:
    plain, moved = times(4, 1.0, torch.device("cpu")), times(4, 3.0, torch.device("cpu"))
    assert plain.tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert moved[0] == 1 and moved[-1] == 0 and (moved[1:-1] > plain[1:-1]).all()
    assert shifted(torch.tensor(0.5), 3.0).item() == pytest.approx(0.75)
    torch.manual_seed(0)
    drawn = logit_normal(10_000, 1.0, torch.device("cpu"))
    assert drawn.min() > 0 and drawn.max() < 1 and drawn.median().item() == pytest.approx(0.5, abs=0.02)
    even = uniform(100, 1.0, torch.device("cpu"))
    assert torch.equal((even * 100).floor(), torch.arange(100.0)), "one of each hundredth"
    assert uniform(101, 3.0, torch.device("cpu"))[50].item() == pytest.approx(0.75, abs=0.01)


def test_guidance_extrapolates_and_is_skipped_at_scale_one() -> None:
    text = Text(torch.ones(1, 1, dtype=torch.bool), embeddings=torch.full((1, 1, 1), 5.0))
    negative = Text(torch.ones(1, 1, dtype=torch.bool), embeddings=torch.full((1, 1, 1), 2.0))
    calls: list[int] = []

    def model(x: Tensor, t: Tensor, words: Text) -> Tensor:
        calls.append(len(x))
        assert words.embeddings is not None
        return x * 0 + words.embeddings.view(-1, 1)

    x, t = torch.zeros(1, 1), torch.tensor(0.5)
    assert guided(model, text, negative, 3.0)(x, t).item() == 2 + 3 * (5 - 2)
    assert guided(model, text, negative, 1.0)(x, t).item() == 5
    for interval, value in (((0.0, 1.0), 11), ((float(t), float(t)), 11), ((float(t) + 0.01, 1.0), 5), ((0.0, float(t) - 0.01), 5)):
        assert guided(model, text, negative, 3.0, interval)(x, t).item() == value
    assert calls == [2, 1, 2, 2, 1, 1]
