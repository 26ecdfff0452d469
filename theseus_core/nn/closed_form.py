"""What is computed from data in closed form: first weights of linear layers, principal components, scales of latents."""

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


def evened(std: Tensor, whiten: float) -> Tensor:
    """What channels of deviations (Z,) are divided by: a variance of 1 over all, and strong and weak ones evened out.

    Args:
        whiten: how far: 1 to the same deviation, 0 not at all.
    """
    scale = std**whiten
    return scale * (std / scale).square().mean().sqrt()


class Covariance:
    """Running mean and covariance of vectors of `size` values, in double precision."""

    def __init__(self, size: int) -> None:
        self.count = 0
        self.sum = torch.zeros(size, dtype=torch.float64)
        self.products = torch.zeros(size, size, dtype=torch.float64)

    def add(self, vectors: Tensor) -> None:
        """Any shape (..., size)."""
        x = vectors.flatten(0, -2).cpu()
        self.count += len(x)
        self.sum += x.sum(0, dtype=torch.float64)
        self.products += (x.T @ x).double()

    def principal_components(self, kept: int, scale_by: int) -> tuple[Tensor, Tensor]:
        """The mean (size,) and a basis (kept, size) by falling variance; its first `scale_by` give deviations of about 1."""
        mean, variances, vectors = self.eigenvectors()
        scale = variances[:kept][:scale_by].clamp_min(1e-8).sqrt().mean()
        basis = torch.zeros(kept, len(mean), dtype=torch.float64)
        basis[: len(vectors)] = vectors[:kept] / scale
        return mean.float(), basis.float()

    def eigenvectors(self) -> tuple[Tensor, Tensor, Tensor]:
        """The mean (size,), and by falling variance the variances (size,) and the directions (size, size), one in each row."""
        mean = self.sum / self.count
        variances, vectors = torch.linalg.eigh(self.products / self.count - mean.outer(mean))
        return mean, variances.flip(0), vectors.flip(1).T
