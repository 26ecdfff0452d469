"""Samplers: plain functions from noise to a clean clip over `predict(x, t) -> (x_0, noise)`.

Every one of them makes exactly `len(times) - 1` predictions, `heun` twice as many less one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from theseus_core.contracts import Progress
from theseus_core.diffusion.schedule import Schedule

Predict = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # (x_t, t scalar) -> (x_0, noise)
Sampler = Callable[[Predict, Tensor, Tensor, Schedule, Progress | None], Tensor]


def ddim(predict: Predict, x: Tensor, times: Tensor, schedule: Schedule, progress: Progress | None = None) -> Tensor:
    """DDIM with eta 0 (Song et al. 2020, eq. 12); on the straight path this is Euler's method."""
    for i, (t, s) in enumerate(pairwise(times)):
        clean, noise = predict(x, t)
        x = schedule.alpha(s) * clean + schedule.sigma(s) * noise
        _report(progress, i, times)
    return x


def ddpm(
    predict: Predict,
    x: Tensor,
    times: Tensor,
    schedule: Schedule,
    progress: Progress | None = None,
    fresh: Callable[[], Tensor] | None = None,
) -> Tensor:
    """Ancestral sampling (Ho et al. 2020, algorithm 2): each step draws from what x and the clean clip leave open.

    The variance is the smaller of the paper's two. It holds on any path (Kingma et al. 2021, eq. 25).

    Args:
        fresh: noise like x, new at each call; else drawn by `noise_after(x)`.
    """
    fresh = fresh or noise_after(x)
    for i, (t, s) in enumerate(pairwise(times)):
        clean, _ = predict(x, t)
        alpha_t, sigma_t, alpha_s, sigma_s = schedule.alpha(t), schedule.sigma(t), schedule.alpha(s), schedule.sigma(s)
        kept = alpha_t / alpha_s  # of the signal, on the way from s to t
        added = sigma_t**2 - kept**2 * sigma_s**2  # variance on that way
        x = (kept * sigma_s**2 * x + alpha_s * added * clean) / sigma_t**2
        if s > 0:
            x = x + added.clamp_min(0).sqrt() * sigma_s / sigma_t * fresh()
        _report(progress, i, times)
    return x


def heun(predict: Predict, x: Tensor, times: Tensor, schedule: Schedule, progress: Progress | None = None) -> Tensor:
    """A DDIM step, then again from its start with the mean prediction of both ends (Karras et al. 2022, algorithm 1)."""
    for i, (t, s) in enumerate(pairwise(times)):
        clean, noise = predict(x, t)
        y = schedule.alpha(s) * clean + schedule.sigma(s) * noise
        if s > 0:
            clean = (clean + predict(y, s)[0]) / 2
            noise = (x - schedule.alpha(t) * clean) / schedule.sigma(t)  # what that clean clip leaves of x
            y = schedule.alpha(s) * clean + schedule.sigma(s) * noise
        x = y
        _report(progress, i, times)
    return x


def dpmpp_2m(predict: Predict, x: Tensor, times: Tensor, schedule: Schedule, progress: Progress | None = None) -> Tensor:
    """DPM-Solver++ (2M) (Lu et al. 2022, algorithm 2): second order from the step before, first order at both ends."""
    return _multistep(predict, x, times, schedule, progress, None)


def dpmpp_2m_sde(
    predict: Predict,
    x: Tensor,
    times: Tensor,
    schedule: Schedule,
    progress: Progress | None = None,
    fresh: Callable[[], Tensor] | None = None,
) -> Tensor:
    """SDE-DPM-Solver++ (2M) (Lu et al. 2022, appendix): `dpmpp_2m` with new noise in every step but the last, as CogVideoX has it.

    Args:
        fresh: noise like x, new at each call; else drawn by `noise_after(x)`.
    """
    return _multistep(predict, x, times, schedule, progress, fresh or noise_after(x))


def _multistep(
    predict: Predict,
    x: Tensor,
    times: Tensor,
    schedule: Schedule,
    progress: Progress | None,
    fresh: Callable[[], Tensor] | None,
) -> Tensor:
    previous: Tensor | None = None
    last_h = torch.zeros(())
    for i, (t, s) in enumerate(pairwise(times)):
        clean, _ = predict(x, t)
        alpha_t, sigma_t, alpha_s, sigma_s = schedule.alpha(t), schedule.sigma(t), schedule.alpha(s), schedule.sigma(s)
        decay = sigma_s * alpha_t / (alpha_s * sigma_t)  # exp(-h) with h the step in log(alpha / sigma); 0 where h is infinite
        kept = decay if fresh else torch.ones_like(decay)  # how much of the old noise
        h = -decay.log()
        target = clean
        if previous is not None and s > 0 and torch.isfinite(last_h):
            target = clean + h / (2 * last_h) * (clean - previous)
        x = sigma_s / sigma_t * kept * x + alpha_s * (1 - kept * decay) * target
        if fresh and s > 0:
            x = x + sigma_s * (1 - kept**2).sqrt() * fresh()
        previous, last_h = clean, h
        _report(progress, i, times)
    return x


def noise_after(start: Tensor) -> Callable[[], Tensor]:
    """Noise like `start`, new at each call. A clip's follows from its own starting noise alone, whatever machine or batch."""
    hashes = [hashlib.sha256(clip.detach().cpu().float().numpy().tobytes()).digest() for clip in start]
    generators = [torch.Generator("cpu").manual_seed(int.from_bytes(digest[:7])) for digest in hashes]
    return lambda: torch.stack([torch.randn(start.shape[1:], generator=each) for each in generators]).to(start)


SAMPLERS: dict[str, Sampler] = {
    "ddim": ddim,
    "ddpm": ddpm,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "heun": heun,
}
IN_LOG_SNR = ("dpmpp_2m", "dpmpp_2m_sde")  # those whose steps are counted in log(alpha / sigma)


def _report(progress: Progress | None, i: int, times: Tensor) -> None:
    if progress is not None:
        progress(i + 1, len(times) - 1)
