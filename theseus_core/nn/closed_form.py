"""First weights of linear layers, computed from data instead of drawn."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FITTED_ON = 65_536  # vectors, at most, that weights are computed from


def some_of(patches: Tensor) -> Tensor:
    """At most `FITTED_ON` of vectors (n, ...), at random."""
    return patches[torch.randperm(len(patches))[:FITTED_ON]]


def project(inward: nn.Linear, patches: Tensor) -> None:
    """Principal components in falling order; the first has a deviation of 1, and the others are in proportion."""
    mean = patches.mean(0)
    centred = patches - mean
    variances, vectors = torch.linalg.eigh((centred.T @ centred).double() / len(patches))
    count = min(inward.out_features, len(mean))
    basis = vectors.flip(1)[:, :count].T / variances[-1].clamp_min(1e-8).sqrt()  # (count, patch)
    nn.init.zeros_(inward.weight)
    inward.weight[:count] = basis.float()
    inward.bias.copy_(-inward.weight @ mean)


def read_off(linear: nn.Linear, kept: int) -> None:
    """The first `kept` values as they are, behind a 1 where there is room for it."""
    ahead = linear.out_features - kept
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    linear.weight[ahead:, :kept] = torch.eye(kept)
    linear.bias[:ahead] = 1


def solve(outward: nn.Linear, entries: Tensor, patches: Tensor) -> None:
    """The least squares from (n, K) to (n, patch) as the first K columns and the bias, drawn a little towards zero."""
    known = F.pad(entries, (0, 1), value=1.0)
    square = (known.T @ known).double() + 1e-6 * len(known) * torch.eye(known.shape[1], dtype=torch.float64)
    solution = torch.linalg.solve(square, (known.T @ patches).double())  # (K + 1, patch)
    outward.weight[:, : entries.shape[1]] = solution[:-1].T.float()
    outward.bias.copy_(solution[-1])
