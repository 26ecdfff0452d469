"""Classifier-free guidance (Ho and Salimans 2022) as a wrapper around a prediction."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from theseus_core.contracts import Text


def guided(
    model: Callable[[Tensor, Tensor, Text], Tensor],
    text: Text,
    negative: Text,
    scale: float,
    interval: tuple[float, float] = (0.0, 1.0),
) -> Callable[[Tensor, Tensor], Tensor]:
    """`model(x, t (B,), text)` as a function of x and a scalar t, guided away from `negative`; both halves go in one batch.

    Args:
        interval: the times in which guidance acts (Kynkäänniemi et al. 2024); outside, a prediction costs half.
    """
    if scale == 1:
        return lambda x, t: model(x, t.expand(len(x)), text)
    assert text.embeddings is not None and negative.embeddings is not None
    both = Text(mask=torch.cat([negative.mask, text.mask]), embeddings=torch.cat([negative.embeddings, text.embeddings]))

    def predict(x: Tensor, t: Tensor) -> Tensor:
        if not interval[0] <= float(t) <= interval[1]:
            return model(x, t.expand(len(x)), text)
        without, with_text = model(torch.cat([x, x]), t.expand(2 * len(x)), both).chunk(2)
        return without + scale * (with_text - without)

    return predict
