"""Linear layers whose bf16 weights lie in memory as a CPU multiplies them, and need not be rearranged at every call."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from theseus_core.device import forget_mapped


class Packed(nn.Module):
    """A linear layer for inference with its weight in oneDNN's own order, which is none that can be saved or moved."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self.weight: Tensor = _mkldnn()._reorder_linear_weight(linear.weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        return self._apply_then(x, "none", "")

    def gelu(self, x: Tensor) -> Tensor:
        """The layer and a GELU behind it in one pass."""
        return self._apply_then(x, "gelu", "tanh")

    def _apply_then(self, x: Tensor, activation: str, kind: str) -> Tensor:
        out: Tensor = _mkldnn()._linear_pointwise(x, self.weight, self.bias, activation, [], kind)
        return out


def linear_gelu(layer: nn.Module, x: Tensor) -> Tensor:
    """`gelu(layer(x))`, by the approximation with tanh."""
    return layer.gelu(x) if isinstance(layer, Packed) else F.gelu(layer(x), approximate="tanh")


def can_pack(device: torch.device) -> bool:
    """Whether bf16 is multiplied on this device by oneDNN, which wants AVX-512 or better of a CPU."""
    built = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return device.type == "cpu" and bool(built) and bool(_mkldnn()._is_mkldnn_bf16_supported())


@torch.no_grad()
def pack(module: nn.Module) -> int:
    """Replace the module's plain linear layers in bf16 by packed ones, in place, each giving its memory back before the next.

    Returns:
        how many there were.
    """
    # No subclasses, for others may read their weights; and names, for a list of the layers would keep all of them in memory.
    modules = module.named_modules()
    names = [name for name, layer in modules if type(layer) is nn.Linear and layer.weight.dtype == torch.bfloat16]
    for name in names:
        layer = cast(nn.Linear, module.get_submodule(name))
        module.set_submodule(name, Packed(layer))
        if getattr(layer.weight, "mapped", False):  # from a file, whose other weights would keep this one in memory
            forget_mapped(layer.weight)
    return len(names)


def _mkldnn() -> Any:
    return torch.ops.mkldnn
