"""Low-rank differences to linear layers (LoRA, Hu et al. 2021): trained beside a frozen layer, or made one with it.

peft is not used: our queries, keys and values are one layer, and its adapters are for a layer as a whole. Here a difference is to a
part of a layer's outputs, so that three of them on one layer are what other programs have on three.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Place:
    """Where a difference goes: the `part`-th of `parts` equal parts of the outputs of a linear layer.

    Attributes:
        layer: its name, with dots.
    """

    layer: str
    part: int = 0
    parts: int = 1


class Factor(nn.Linear):
    """A factor of a low-rank matrix. A class of its own, because quantization takes plain linear layers and leaves others."""


class LowRank(nn.Module):
    """The matrix `scale * up @ down`, (outputs, inputs), of a rank far below both; zero at first.

    The factors are kept in fp32 and compute in the precision of what they are given.
    """

    def __init__(self, inputs: int, outputs: int, rank: int, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.down = Factor(inputs, rank, bias=False)
        self.up = Factor(rank, outputs, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        inside = F.linear(x, self.down.weight.to(x.dtype))
        return F.linear(inside, self.scale * self.up.weight.to(inside.dtype))

    def matrix(self) -> Tensor:
        """(outputs, inputs), fp32."""
        return self.scale * (self.up.weight.float() @ self.down.weight.float())


class Adapted(nn.Module):
    """A linear layer, and any number of low-rank differences to each of the equal parts of its outputs."""

    def __init__(self, base: nn.Module, parts: int) -> None:
        super().__init__()
        self.base = base
        self.in_features, self.out_features = sides(base)
        assert self.out_features % parts == 0
        self.parts = nn.ModuleList(nn.ModuleList() for _ in range(parts))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)  # (..., outputs)
        moved = [self._moved(part, x, out) for part in self.parts]
        return out + (torch.cat(moved, dim=-1) if len(moved) > 1 else moved[0])

    def _moved(self, part: nn.Module, x: Tensor, out: Tensor) -> Tensor:
        """(..., outputs / parts): the sum of a part's differences, zero where it has none."""
        zero = out.new_zeros(1).expand(*out.shape[:-1], self.out_features // len(self.parts))
        return sum((difference(x) for difference in part.children()), zero)

    def matrix(self) -> Tensor:
        """(outputs, inputs), fp32: all differences together."""
        rows = self.out_features // len(self.parts)
        zero = torch.zeros(rows, self.in_features, device=next(self.parts.parameters()).device)
        return torch.cat([sum((cast(LowRank, each).matrix() for each in part.children()), zero) for part in self.parts])


def sides(layer: nn.Module) -> tuple[int, int]:
    """(inputs, outputs) of a linear layer, quantized or not."""
    inputs, outputs = layer.in_features, layer.out_features
    assert isinstance(inputs, int) and isinstance(outputs, int)
    return inputs, outputs


def is_linear(layer: nn.Module) -> bool:
    """Whether differences can be added to it."""
    return hasattr(layer, "in_features") and hasattr(layer, "out_features")


def add(module: nn.Module, place: Place, difference: LowRank) -> None:
    """Put a difference beside the layer at a place, which from then on is an `Adapted`."""
    owner, _, name = place.layer.rpartition(".")
    parent, layer = module.get_submodule(owner), module.get_submodule(place.layer)
    if not isinstance(layer, Adapted):
        layer = Adapted(layer, place.parts)
        layer.train(module.training)
        setattr(parent, name, layer)
    part = layer.parts[place.part]
    assert isinstance(part, nn.ModuleList) and len(layer.parts) == place.parts
    part.append(difference)


@torch.no_grad()
def merge(module: nn.Module) -> int:
    """Add the differences to the weights that they stand beside, in place, and give how many layers that were.

    It costs nothing from then on, and is exact up to the rounding of the weights' own precision. Quantized layers stay as they are,
    with their differences beside them: rounded into a few bits, most of a difference would be lost.
    """
    merged = 0
    for parent, name, layer in list(_adapted(module)):
        if type(layer.base) is nn.Linear:
            weight = layer.base.weight
            layer.base.weight = nn.Parameter((weight.float() + layer.matrix()).to(weight.dtype), weight.requires_grad)
            setattr(parent, name, layer.base)
            merged += 1
    return merged


def _adapted(module: nn.Module) -> Iterator[tuple[nn.Module, str, Adapted]]:
    for parent in module.modules():
        for name, child in parent.named_children():
            if isinstance(child, Adapted):
                yield parent, name, child
