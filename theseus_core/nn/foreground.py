"""What lies on a smooth ground, found without learning: the ground, the things on it, and which of them is which in time."""

from __future__ import annotations

from itertools import permutations

import torch
from torch import Tensor
from torch.nn import functional as F

SIDE = 32  # of the picture that the ground is fitted to
ROUNDS = 6
OUTLIER = 0.12  # a colour off by this, of 2 from black to white, counts a quarter
INNER = 0.85  # of the frame, which counts a tenth to begin with: things are rather in the middle of it
CONTRAST = 0.02  # a mean squared difference by which a pixel is half a thing's and half the ground's
LEAST = 4  # pixels of a thing
MAX_THINGS = 4  # of which all orders are tried


def axes(height: int, width: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Middles of the rows (H,) and columns (W,) of pixels; the shorter side goes from -1 to 1, and a pixel is a square."""
    shorter = min(height, width)
    y, x = ((2 * torch.arange(side, device=device) + 1 - side) / shorter for side in (height, width))
    return y, x


def ground(coefficients: Tensor, height: int, width: int) -> Tensor:
    """(B, 3, 3): a colour, and how it changes downwards and to the right, to the picture (B, 3, H, W)."""
    y, x = axes(height, width, coefficients.device)
    constant, down, right = coefficients.float()[..., None, None].unbind(2)
    return constant + down * y[:, None] + right * x


def fit_ground(picture: Tensor) -> Tensor:
    """The ground of pictures (B, 3, H, W): (B, 3, 3) for `ground`, by least squares that forget what does not fit.

    Iteratively reweighted, with the weights of Geman and McClure (1987).
    """
    height, width = picture.shape[2:]
    y, x = axes(height, width, picture.device)
    scale = min(1.0, SIDE / min(height, width))
    size = (max(1, round(scale * height)), max(1, round(scale * width)))
    seen = F.adaptive_avg_pool2d(picture.float(), size).flatten(2)  # (B, 3, n)
    y, x = (F.adaptive_avg_pool1d(line[None, None], side).flatten() for line, side in zip((y, x), size, strict=True))
    known = torch.stack([torch.ones(size, device=y.device), y[:, None].expand(size), x.expand(size)]).flatten(1)  # (3, n)
    inner = (known[1].abs() < INNER * y.abs().max()) & (known[2].abs() < INNER * x.abs().max())
    weights = torch.where(inner, 0.1, 1.0).expand(len(seen), -1)
    ridge = 1e-3 * torch.eye(3, device=y.device)
    fitted = seen.new_zeros(len(seen), 3, 3)
    for _ in range(ROUNDS):
        square = torch.einsum("bp,ip,jp->bij", weights, known, known) + ridge
        fitted = torch.linalg.solve(square, torch.einsum("bp,bcp,ip->bic", weights, seen, known)).mT
        error = (seen - fitted @ known).square().mean(1)
        weights = (1 + error / OUTLIER**2) ** -2
    return fitted


def foreground(difference: Tensor) -> Tensor:
    """(B, 3, H, W) from the ground to how much of each pixel is a thing's: (B, 1, H, W), from 0 to 1."""
    energy = difference.square().mean(1, keepdim=True)
    return (energy / (energy + CONTRAST)).square()


def patches(mask: Tensor, count: int) -> Tensor:
    """The largest connected patches of masks (B, 1, H, W), the largest first: (B, count, H, W), empty where there are fewer."""
    batch, _, height, width = mask.shape
    on = mask > 0.5
    number = torch.arange(1, height * width + 1, device=mask.device).view(1, 1, height, width)
    labels = torch.where(on, number, 0).float()
    while True:  # the largest number in a patch spreads along rows and columns at once, and around corners
        spread = _along(_along(labels, on).mT, on.mT).mT
        spread = F.max_pool2d(spread, 3, 1, 1) * on
        if torch.equal(spread, labels):
            break
        labels = spread
    offset = torch.arange(batch, device=mask.device).view(-1, 1, 1, 1) * (height * width + 1)
    areas = torch.bincount((labels.long() + offset).flatten(), minlength=batch * (height * width + 1)).view(batch, -1)
    areas[:, 0] = 0
    sizes, which = areas.topk(count)  # (B, count)
    return (labels == which[..., None, None]) & (sizes >= LEAST)[..., None, None]


def _along(labels: Tensor, on: Tensor) -> Tensor:
    """The largest label of each unbroken run of a row, on all of it."""
    starts = on & ~F.pad(on, (1, 0))[..., :-1]
    runs = starts.flatten().cumsum(0)  # 0 before the first; between runs the number of the last one, whose labels are 0
    largest = labels.new_zeros(int(runs[-1]) + 1).scatter_reduce_(0, runs, labels.flatten(), "amax")
    return largest.index_select(0, runs).view_as(labels) * on


def follow(things: Tensor, present: Tensor) -> Tensor:
    """Which thing of a frame is which of the clip: each stays itself from frame to frame, and the one that moves most is the first.

    Args:
        things: (B, T, K, n), numbers that change little from frame to frame, K at most 4.
        present: (B, T, K) bool.

    Returns:
        (B, T, K) int64: in its place k the number of the thing in the frame that is the clip's k-th. Those that are there longer
        stand before the others, and moving is counted in the units of the numbers.
    """
    batch, frames, count, _ = things.shape
    if count == 1:
        return torch.zeros(batch, frames, 1, dtype=torch.int64, device=things.device)
    orders = torch.tensor(list(permutations(range(count))), device=things.device)  # (P, K)
    order = torch.arange(count, device=things.device).expand(batch, frames, count).clone()
    last, seen = things[:, 0], present[:, 0]
    moved = things.new_zeros(batch, count)
    for frame in range(1, frames):
        candidates, there = things[:, frame][:, orders], present[:, frame][:, orders]  # (B, P, K, n), (B, P, K)
        both = there & seen[:, None]
        steps = (candidates - last[:, None]).square().sum(-1) * both  # (B, P, K)
        surprise = (there != seen[:, None]).float().sum(-1)  # what comes and goes rather than moves: only if nothing else fits
        best = (steps.sum(-1) + 100 * surprise).argmin(1)
        order[:, frame] = orders[best]
        rows = torch.arange(batch, device=things.device)
        moved += steps[rows, best].sqrt()
        here = there[rows, best]
        last = torch.where(here[..., None], candidates[rows, best], last)
        seen = seen | here
    longer = present.gather(2, order).float().mean(1)  # (B, K)
    ranks = (1e3 * longer + moved / (1 + moved)).argsort(dim=1, descending=True, stable=True)
    return order.gather(2, ranks[:, None].expand_as(order))
