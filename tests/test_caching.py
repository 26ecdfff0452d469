"""Steps without an evaluation: where the clip is foretold well they are left out, elsewhere not, and never to another's cost."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from theseus_core.contracts import Text
from theseus_core.diffusion.caching import Cache, Foretold, best_order, continued, parts_of_steps
from theseus_core.diffusion.discrete import Betas, DiscretePath
from theseus_core.diffusion.samplers import SAMPLERS, Predict
from theseus_core.diffusion.schedule import RectifiedFlow, times
from theseus_core.generators.dit import Model
from theseus_core.registry import build

PATH = RectifiedFlow()
VISITED = times(40, 3.0, torch.device("cpu"))


def clip(seed: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, 2, 1, 3, 3, generator=torch.Generator().manual_seed(seed))


def smooth(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """A network whose clean clip is bent in time, and leans a little on what it is given."""
    clean = clip(1) + (2 * t).sin() * clip(2) + 0.1 * (1 - t) * x
    return clean, (x - (1 - t) * clean) / t


def counted(predict: Predict) -> tuple[Predict, list[float]]:
    asked: list[float] = []

    def run(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(float(t))
        return predict(x, t)

    return run, asked


@pytest.mark.parametrize("order", [0, 1, 2])
def test_polynomials_are_continued_exactly(order: int) -> None:
    def at(t: float) -> Tensor:
        return sum((t**k * clip(k) for k in range(order + 1)), torch.zeros(()))

    seen = [(t, at(t)) for t in (0.9, 0.7, 0.6)]
    torch.testing.assert_close(continued(seen, 0.4, order), at(0.4))
    found, rate = best_order(seen, 0.4, at(0.4))
    assert rate < 1e-5 and (order == 0 or found >= order)


@pytest.mark.parametrize("path", [PATH, DiscretePath(Betas())])
def test_the_parts_of_all_steps_make_up_the_clip(path: RectifiedFlow | DiscretePath) -> None:
    visited = path.times(10, torch.device("cpu")) if isinstance(path, DiscretePath) else VISITED
    parts = parts_of_steps(path, visited)
    assert parts[float(visited[0])] == pytest.approx(1) and parts[float(visited[-2])] == pytest.approx(1)
    assert all(0 < part <= 1 for part in parts.values())
    share = 0.0  # of the clip in x that DDIM has put there, if every prediction is the same
    for t in visited[:-1]:
        share = share * (1 - parts[float(t)]) + parts[float(t)]
    assert share == pytest.approx(1)


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "heun"])
def test_half_the_evaluations_of_a_smooth_network_are_left_out(sampler: str) -> None:
    predict, asked = counted(smooth)
    cache = Cache(0.005)
    exact = SAMPLERS[sampler](smooth, clip(0), VISITED, PATH, None)
    found = SAMPLERS[sampler](cache.over(predict, PATH, VISITED), clip(0), VISITED, PATH, None)
    assert cache.evaluated == len(asked) and cache.evaluated + cache.continued == (79 if sampler == "heun" else 40)
    assert cache.evaluated < 0.6 * (cache.evaluated + cache.continued)
    error = float((found - exact).norm() / exact.norm())
    assert 0 < error < 0.02 and cache.estimate > 0
    assert f"{cache.continued} of" in cache.report()


def test_a_lower_tolerance_leaves_less_out_and_errs_less() -> None:
    exact = SAMPLERS["ddim"](smooth, clip(0), VISITED, PATH, None)
    left, errors = [], []
    for tolerance in (1e-4, 1e-2, 0.3):
        cache = Cache(tolerance)
        errors.append(float((SAMPLERS["ddim"](cache.over(smooth, PATH, VISITED), clip(0), VISITED, PATH, None) - exact).norm()))
        left.append(cache.continued)
    assert left == sorted(left) and left[0] < left[-1]
    assert errors[0] < errors[-1]


def test_what_cannot_be_foretold_is_evaluated() -> None:
    def jumping(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        clean = clip(int(1e6 * float(t)))
        return clean, (x - (1 - t) * clean) / t

    cache = Cache(0.005)
    SAMPLERS["ddim"](cache.over(jumping, PATH, VISITED), clip(0), VISITED, PATH, None)
    assert cache.continued == 0


def test_nothing_is_continued_across_an_edge() -> None:
    predict, asked = counted(smooth)
    SAMPLERS["ddim"](Cache(0.9).over(predict, PATH, VISITED, (0.3, 0.7)), clip(0), VISITED, PATH, None)
    for edge in (0.3, 0.7):
        first = next(float(t) for t in VISITED if t < edge)
        assert first in asked
    kept = Foretold((0.5,), dict.fromkeys((0.6, 0.55, 0.52, 0.5), 0.1))
    for now in (0.6, 0.55):
        assert kept.guess(now, 0.9) is None
        kept.learn(now, clip(0))
    assert kept.guess(0.52, 0.9) is not None and kept.guess(0.5, 0.9) is None


def test_a_clip_goes_as_it_would_alone() -> None:
    def of_both(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        clean = torch.cat([smooth(one, t)[0] if i else one.tanh() * (30 * t).sin() for i, one in enumerate(x.split(1))])
        return clean, (x - (1 - t) * clean) / t

    def run(x: Tensor, predict: Predict) -> Tensor:
        return SAMPLERS["dpmpp_2m"](Cache(0.01).over(predict, PATH, VISITED), x, VISITED, PATH, None)

    x = clip(5, batch=2)
    together = run(x, of_both)
    torch.testing.assert_close(together[1:], run(x[1:], smooth), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(together[1:], SAMPLERS["dpmpp_2m"](smooth, x[1:], VISITED, PATH, None), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("preset", ["debug", "released"])
def test_a_transformer_samples_with_a_cache_and_starts_anew_each_time(preset: str) -> None:
    torch.manual_seed(0)
    released = {"pooled_text": False, "norms_at_end": 2, "positions": "sincos", "grid": {}, "betas": {}}
    model = build("generators", "dit", "debug", released if preset == "released" else {"guidance_interval": (0.2, 0.9)}).eval()
    assert isinstance(model, Model) and "cache" in model.takes
    text = Text(mask=torch.ones(1, 4, dtype=torch.bool), embeddings=torch.randn(1, 4, 32))
    negative = Text(mask=text.mask, embeddings=torch.zeros(1, 4, 32))

    def run(cache: Cache | None) -> Tensor:
        noise = torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(1))
        return model.sample(noise, text, negative, steps=20, guidance_scale=3.0, sampler="dpmpp_2m", cache=cache)

    first, second = Cache(0.02), Cache(0.02)
    assert torch.equal(run(first), run(second))
    assert 0 < first.continued == second.continued and first.evaluated + first.continued == 20
