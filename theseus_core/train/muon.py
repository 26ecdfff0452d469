"""Muon, for the 2-D matrices of the repeated blocks.

After Jordan et al. 2024 ("Muon: an optimizer for hidden layers"), scaled to AdamW's size of update as in Liu et al. 2025 ("Muon is
scalable for LLM training"), so that one learning rate and one weight decay serve both.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from theseus_core.train.distributed import gather, place_like


class Muon(Optimizer):
    """Momentum whose update is made orthogonal; for 2-D matrices.

    `torch.optim.Muon` gives the same updates, a matrix at a time and always in bf16. This one stacks matrices of one shape into one
    product, computes in fp32 in a training that does, and takes sharded matrices.

    Args:
        groups: parameter groups with `lr` and `weight_decay`.
        dtype: the type of the Newton-Schulz iteration.
    """

    momentum = 0.95

    def __init__(self, groups: Iterable[dict[str, Any]], dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__(groups, {"lr": 3e-4, "weight_decay": 0.0})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            for stack in _same_shape([p for p in group["params"] if p.grad is not None]):
                self._update(stack, group["lr"], group["weight_decay"])

    def _update(self, stack: list[nn.Parameter], lr: float, weight_decay: float) -> None:
        updates = [gather(self._nesterov(p)) for p in stack]
        orthogonal = orthogonalize(torch.stack(updates).to(self.dtype))  # (M, rows, columns)
        scale = 0.2 * math.sqrt(max(orthogonal.shape[-2:]))  # the root mean square of an AdamW update is about 0.2
        for parameter, update in zip(stack, orthogonal, strict=True):
            parameter.mul_(1 - lr * weight_decay)
            parameter.add_(place_like(update.to(parameter.dtype), parameter), alpha=-lr * scale)

    def _nesterov(self, parameter: nn.Parameter) -> Tensor:
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(parameter.grad, 1 - self.momentum)
        return parameter.grad.lerp(state["momentum"], self.momentum)


def _same_shape(parameters: list[nn.Parameter]) -> Iterable[list[nn.Parameter]]:
    stacks: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
    for parameter in parameters:
        stacks[parameter.shape].append(parameter)
    return stacks.values()


def orthogonalize(matrices: Tensor, iterations: int = 5) -> Tensor:
    """(M, rows, columns) to matrices of the same singular vectors and singular values of about 1 (0.7 to 1.2).

    A quintic Newton-Schulz iteration; its coefficients trade convergence for the steepest start.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT.contiguous() if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
