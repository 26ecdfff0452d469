"""Linear layers in 8 or 4 bits, through bitsandbytes: memory for a little accuracy, and hardly any speed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from theseus_core.errors import TheseusError, nearest

MODES = ["none", "int8", "nf4", "fp4"]


@dataclass(frozen=True)
class Quantized:
    """What `quantize` did: the number of layers, and the bytes of all weights of the module before and after."""

    layers: int
    bytes_before: int
    bytes_after: int


def check_mode(mode: str, device: torch.device) -> None:
    """Refuse what cannot run here, by running it once on a tiny layer.

    Raises:
        TheseusError: no such mode, a device without it, or a bitsandbytes that does not work here.
    """
    if mode not in MODES:
        raise TheseusError(f"no such quantization: {mode}", hint=nearest(mode, MODES))
    if mode == "none":
        return
    if device.type not in ("cuda", "cpu"):
        raise TheseusError(
            f"quantized layers run on cuda and cpu, not on: {device.type}", hint="--device cpu, or leave --quantize out"
        )
    try:
        with torch.inference_mode():
            _quantized(nn.Linear(64, 64), mode, torch.float32).to(device)(torch.zeros(1, 64, device=device))
    except (ImportError, OSError, RuntimeError, NotImplementedError, AttributeError) as error:
        hint = f"bitsandbytes says: {' '.join(str(error).split())[:200]}"
        raise TheseusError(f"this quantization does not work on this machine: {mode}", hint=hint) from error


def quantize(module: nn.Module, mode: str, device: torch.device, compute_dtype: torch.dtype = torch.float32) -> Quantized:
    """Replace the module's linear layers by quantized ones, in place, and move them to the device.

    Layers that their owner reads by hand (those that transformers lists as to be kept in fp32) stay as they are.

    Args:
        mode: int8, nf4 or fp4.
        compute_dtype: what 4-bit weights are unpacked to for the product.
    """
    before = weight_bytes(module)
    kept = {name for child in module.modules() for name in getattr(child, "_keep_in_fp32_modules", None) or ()}
    count = 0
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and name not in kept:  # a subclass may have its weights read elsewhere
                setattr(parent, name, _quantized(child, mode, compute_dtype).to(device))
                count += 1
    return Quantized(count, before, weight_bytes(module))


def weight_bytes(module: nn.Module) -> int:
    """Bytes of all parameters and buffers, the scales of quantized layers included; shared ones count once."""
    tensors = {id(tensor): tensor for tensor in [*module.parameters(), *module.buffers()]}
    return sum(tensor.nbytes + _scale_bytes(tensor) for tensor in tensors.values())


def _scale_bytes(tensor: torch.Tensor) -> int:
    state = getattr(tensor, "quant_state", None)
    scales = [getattr(tensor, "SCB", None), getattr(state, "absmax", None), getattr(state, "code", None)]
    return sum(scale.nbytes for scale in scales if scale is not None)


def _quantized(linear: nn.Linear, mode: str, compute_dtype: torch.dtype) -> nn.Module:
    """The same layer with weights that bitsandbytes packs when they are moved to a device."""
    import bitsandbytes  # seconds to import, and only for those who ask for it

    layers: Any = bitsandbytes.nn
    size, bias = (linear.in_features, linear.out_features), linear.bias is not None
    weight = linear.weight.detach().clone()
    packed: Any
    if mode == "int8":
        packed = layers.Linear8bitLt(*size, bias=bias, has_fp16_weights=False)
        packed.weight = layers.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    else:
        packed = layers.Linear4bit(*size, bias=bias, quant_type=mode, compute_dtype=compute_dtype)
        packed.weight = layers.Params4bit(weight, requires_grad=False, quant_type=mode)
        packed.support_avx512bf16_for_cpu = False  # its packed kernel is slower, and fails where widths are no multiples of 64
    if bias:
        packed.bias = nn.Parameter(linear.bias.detach().clone(), requires_grad=False)
    result: nn.Module = packed.eval()
    return result
