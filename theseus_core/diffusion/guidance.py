"""Classifier-free guidance (Ho and Salimans 2022) as a wrapper around a prediction."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from theseus_core.contracts import Text


def guided(
    model: Callable[[Tensor, Tensor, Text], Tensor],
    text: Text,
    negative: Text,
    scale: float | Callable[[float], float],
    interval: tuple[float, float] = (0.0, 1.0),
) -> Callable[[Tensor, Tensor], Tensor]:
    """`model(x, t (B,), text)` as a function of x and a scalar t, guided away from `negative`; both halves go in one batch.

    Args:
        scale: 1 for no guidance; or a function of t, such as `rising`.
        interval: the times in which guidance acts (Kynkäänniemi et al. 2024); outside, a prediction costs half.
    """
    if scale == 1:
        return lambda x, t: model(x, t.expand(len(x)), text)
    assert text.embeddings is not None and negative.embeddings is not None
    both = Text(mask=torch.cat([negative.mask, text.mask]), embeddings=torch.cat([negative.embeddings, text.embeddings]))

    def predict(x: Tensor, t: Tensor) -> Tensor:
        now = scale(float(t)) if callable(scale) else scale
        if now == 1 or not interval[0] <= float(t) <= interval[1]:
            return model(x, t.expand(len(x)), text)
        without, with_text = model(torch.cat([x, x]), t.expand(2 * len(x)), both).chunk(2)
        return without + now * (with_text - without)

    return predict


def rising(scale: float, times: Tensor) -> Callable[[float], float]:
    """The dynamic guidance of CogVideoX, by the number of the step: 1 at the first of `times`, near `1 + scale` at the last."""
    steps = len(times) - 1
    number = {float(t): i for i, t in enumerate(times)}
    return lambda t: 1 + scale * (1 - math.cos(math.pi * (number[t] / steps) ** 5)) / 2
