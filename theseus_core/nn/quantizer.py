"""A codebook: vectors to the numbers of their nearest codes, with what keeps all the codes in use.

Against collapse: the nearest code is looked up in a space of few dimensions on the unit sphere (Yu et al. 2022), the codes start
as the k-means of the data, follow the moving average of what they stand for (van den Oord et al. 2017), and move where the data
is when nothing has taken them for long.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from theseus_core.device import full_precision

AT_ONCE = 16_384  # vectors whose distances to all codes are in memory together
SAMPLED = 8192  # vectors, at most, that the diversity is measured on
SOFTNESS = 0.5  # of the choice that the diversity is measured by, in units of the mean squared distance to the second nearest code
LEAST_APART = 0.01  # that distance at least, in units of the mean to all codes: of two codes in one place it is none
RECENT = 0.1  # how fast what is measured of the codes' use forgets: over a hundred steps codes wander, and all seem to be in use
RARE = 0.01  # a code in use is taken at least so often, in units of the mean


@dataclass(frozen=True)
class Quantized:
    """What the codebook made of vectors (..., D).

    Attributes:
        vectors: (..., D) as the decoder gets them: a function of the codes alone, with a gradient for the encoder.
        codes: (...) int64.
        commitment: the mean squared distance to the code, whose gradient moves the vectors.
        codebook: the same number; its gradient moves the codes, where they are learned by it.
        diversity: 1 - entropy of the mean soft choice / ln V: 0 where all codes are taken alike; with a gradient.
    """

    vectors: Tensor
    codes: Tensor
    commitment: Tensor
    codebook: Tensor
    diversity: Tensor


class Quantizer(nn.Module):
    """V codes.

    Args:
        size: V.
        width_in, width_out: D of the vectors that come, and of those that go.
        lookup_width: K, where the nearest code is looked for.
        cosine: vectors and codes are on the unit sphere.
        learned_by: "average" or "gradient".
        decay: how much of a moving average stays in a step.
        restart_after: steps without being taken after which a code is moved; 0 for never.
        passes: how the gradient goes past the choice: "straight" as it is, or turned and stretched as the vector is turned into
            its code ("rotation", Fifty et al. 2024).
    """

    together = True  # where there are several ranks: learn from all of them
    codebook: Tensor
    mass: Tensor
    sums: Tensor
    shares: Tensor
    idle: Tensor

    def __init__(
        self,
        size: int,
        width_in: int,
        width_out: int,
        lookup_width: int,
        *,
        cosine: bool,
        learned_by: Literal["average", "gradient"],
        decay: float,
        restart_after: int,
        passes: Literal["straight", "rotation"],
    ) -> None:
        super().__init__()
        self.size, self.cosine, self.learned_by, self.decay = size, cosine, learned_by, decay
        self.restart_after, self.passes = restart_after, passes
        self.inward = nn.Linear(width_in, lookup_width)
        self.outward = nn.Linear(lookup_width, width_out)
        codes = torch.randn(size, lookup_width)
        codes = F.normalize(codes, dim=-1) if cosine else codes
        if learned_by == "gradient":
            self.codebook = nn.Parameter(codes)
        else:
            self.register_buffer("codebook", codes)
            self.register_buffer("mass", torch.full((size,), 1 / size))  # the average of the share of vectors, and
            self.register_buffer("sums", codes / size)  # of their sum: a code is the one by the other
        self.register_buffer("shares", torch.zeros(size))  # the average as it is measured: restarts leave it alone
        self.register_buffer("idle", torch.zeros(size, dtype=torch.int64))  # steps since the code was taken
        self._counted: Tensor | None = None  # since the last step: how often each code was taken,
        self._summed: Tensor | None = None  # the sums of the vectors that took it,
        self._others: Tensor | None = None  # and vectors that an idle code may become

    def forward(self, x: Tensor) -> Quantized:
        """Vectors (..., D) to codes and back."""
        with full_precision(x.device):
            z = self.place(x)  # (..., K)
            codes = self.nearest(z.detach())
            found = self.entries(codes)  # (..., K)
            if self.training and torch.is_grad_enabled():
                self._remember(z.detach().flatten(0, -2), codes.flatten())
            commitment = (z - found.detach()).square().sum(-1).mean()
            codebook = (z.detach() - found).square().sum(-1).mean()
            diversity = self._diversity(z.flatten(0, -2))
            passed = _rotated(z, found.detach()) if self.passes == "rotation" else z + (found - z).detach()
        return Quantized(self.outward(passed), codes, commitment, codebook, diversity)

    def encode(self, x: Tensor) -> Tensor:
        """Vectors (..., D) to codes (...)."""
        with full_precision(x.device):
            return self.nearest(self.place(x))

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (...) to vectors (..., D): all that a decoder gets to know."""
        vectors: Tensor = self.outward(self.entries(codes))
        return vectors

    def place(self, x: Tensor) -> Tensor:
        """Where vectors (..., D) lie among the codes: (..., K) fp32."""
        z: Tensor = self.inward(x.float())
        return F.normalize(z, dim=-1) if self.cosine else z

    def entries(self, codes: Tensor) -> Tensor:
        book = F.normalize(self.codebook, dim=-1) if self.cosine else self.codebook
        return F.embedding(codes, book)

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        """The codes (...) nearest to (..., K)."""
        book = F.normalize(self.codebook, dim=-1) if self.cosine else self.codebook
        return nearest(z.flatten(0, -2), book).view(z.shape[:-1])

    def _diversity(self, z: Tensor) -> Tensor:
        """How unevenly the codes are chosen, softly, so that it has a gradient."""
        if len(z) > SAMPLED:  # at random: every n-th of a grid would be of the same columns
            z = z[torch.randint(len(z), (SAMPLED,), device=z.device)]
        book = (F.normalize(self.codebook, dim=-1) if self.cosine else self.codebook).detach()
        apart = z.square().sum(-1, keepdim=True) - 2 * z @ book.T + book.square().sum(-1)  # (n, V)
        second = apart.detach().topk(2, largest=False).values[:, 1].mean()
        unit = SOFTNESS * torch.maximum(second, LEAST_APART * apart.detach().mean()).clamp_min(1e-6)
        chosen = (-apart / unit).softmax(dim=-1).mean(0)  # (V,)
        return 1 - entropy(chosen) / math.log(self.size)

    # --- between the steps ---

    def _remember(self, z: Tensor, codes: Tensor) -> None:
        counted = torch.bincount(codes, minlength=self.size).float()
        self._counted = counted if self._counted is None else self._counted + counted
        if self.learned_by == "average":
            summed = torch.zeros_like(self.sums).index_add_(0, codes, z)
            self._summed = summed if self._summed is None else self._summed + summed
        if self.restart_after:
            self._others = z[torch.randint(len(z), (self.size,), device=z.device)]

    @torch.no_grad()
    def update(self) -> None:
        """Move the codes by what was seen since the last time, on all ranks alike where they learn together."""
        if self._counted is None:
            return
        counted = self._over_ranks(self._counted)
        total = counted.sum()
        self.shares.lerp_(counted / total, RECENT)
        self.idle.add_(1).masked_fill_(counted > 0, 0)
        if self.learned_by == "average":
            assert self._summed is not None
            self.mass.lerp_(counted / total, 1 - self.decay)
            self.sums.lerp_(self._over_ranks(self._summed) / total, 1 - self.decay)
            known = (self.mass > 1e-8)[:, None]  # of what was never taken the average has faded
            self._write(torch.where(known, self.sums / self.mass.clamp_min(1e-8)[:, None], self.codebook))
        if self.restart_after and self._others is not None:
            self._restart(self._others)
        self._counted = self._summed = self._others = None

    def _restart(self, others: Tensor) -> None:
        """Move idle codes onto vectors of the last batch; the first rank's, for all."""
        if self.together and dist.is_initialized():
            dist.broadcast(others, src=0)
        idle = (self.idle >= self.restart_after)[:, None]
        self._write(torch.where(idle, others, self.codebook))
        if self.learned_by == "average":
            self.mass.masked_fill_(idle[:, 0], 1 / self.size)
            self.sums.copy_(torch.where(idle, others / self.size, self.sums))
        self.idle.masked_fill_(idle[:, 0], 0)

    def _write(self, codes: Tensor) -> None:
        self.codebook.copy_(F.normalize(codes, dim=-1) if self.cosine else codes)

    @torch.no_grad()
    def start_from(self, z: Tensor) -> None:
        """Begin with the k-means of vectors (n, K)."""
        self._write(k_means(z, self.size, self.cosine))
        if self.learned_by == "average":
            self.mass.fill_(1 / self.size)
            self.sums.copy_(self.codebook / self.size)

    def _over_ranks(self, total: Tensor) -> Tensor:
        if self.together and dist.is_initialized():
            dist.all_reduce(total)
        return total

    # --- how the codes are used ---

    @property
    def usage(self) -> Tensor:
        """The share of codes that were in use of late; 0 before the first update."""
        return (self.shares > RARE / self.size).float().mean()

    @property
    def perplexity(self) -> Tensor:
        """The exponential of the entropy of the codes' use of late: V where all are taken alike."""
        return entropy(self.shares / self.shares.sum().clamp_min(1e-12)).exp()


def entropy(shares: Tensor) -> Tensor:
    """In nats, of shares (V,) that add up to 1."""
    return -torch.xlogy(shares, shares.clamp_min(1e-12)).sum()


def use_of(codes: Tensor, size: int) -> dict[str, float]:
    """Of codes (...) int64: the share of `size` that is taken at all, and the perplexity."""
    shares = torch.bincount(codes.flatten().cpu(), minlength=size).float() / codes.numel()
    return {"usage": (shares > 0).float().mean().item(), "perplexity": entropy(shares).exp().item()}


def nearest(z: Tensor, codebook: Tensor) -> Tensor:
    """The numbers (n,) of the rows of (V, K) that are nearest to (n, K); of equals the first."""
    half = codebook.square().sum(-1) / 2
    return torch.cat([(part @ codebook.T - half).argmax(dim=-1) for part in torch.split(z, AT_ONCE)])


def k_means(z: Tensor, size: int, cosine: bool, rounds: int = 10, spread: bool = False) -> Tensor:
    """`size` centres (size, K) of vectors (n, K); a centre that nothing is nearest to moves onto a random vector.

    Args:
        spread: begin with vectors that lie apart, for what is rare to have centres too: those that begin where most vectors lie
            stay there.
    """
    centres = _apart(z, size) if spread else z[_some(len(z), size, z.device)]
    for _ in range(rounds):
        taken = nearest(z, centres)
        counts = torch.bincount(taken, minlength=size)[:, None]
        sums = torch.zeros_like(centres).index_add_(0, taken, z)
        centres = torch.where(counts > 0, sums / counts.clamp_min(1), z[torch.randint(len(z), (size,), device=z.device)])
        centres = F.normalize(centres, dim=-1) if cosine else centres
    return centres


def _apart(z: Tensor, wanted: int) -> Tensor:
    """Vectors of (n, K), each drawn by how far it is from those before, squared (Arthur and Vassilvitskii 2007, k-means++)."""
    chosen = z[torch.randint(len(z), (1,), device=z.device)]
    distance = (z - chosen).square().sum(-1)
    for _ in range(wanted - 1):
        far = distance if distance.any() else torch.ones_like(distance)
        chosen = torch.cat([chosen, z[torch.multinomial(far, 1)]])
        distance = torch.minimum(distance, (z - chosen[-1]).square().sum(-1))
    return chosen


def _some(count: int, wanted: int, device: torch.device) -> Tensor:
    """Random numbers below `count`, none twice unless more are wanted than there are."""
    return torch.randperm(count, device=device).repeat(-(-wanted // count))[:wanted]


def _rotated(z: Tensor, codes: Tensor) -> Tensor:
    """The codes, as vectors turned and stretched by what the gradient takes for a constant: it is turned likewise."""
    length = z.detach().norm(dim=-1, keepdim=True).clamp_min(1e-6)
    stretch = codes.norm(dim=-1, keepdim=True) / length
    start, end = z.detach() / length, F.normalize(codes, dim=-1)
    middle = F.normalize(start + end, dim=-1)
    turned: Tensor = stretch * (z - 2 * _along(z, middle) * middle + 2 * _along(z, start) * end)
    return turned


def _along(z: Tensor, axis: Tensor) -> Tensor:
    return (z * axis).sum(-1, keepdim=True)
