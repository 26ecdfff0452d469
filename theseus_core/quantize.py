"""Linear layers in 8 or 4 bits: less memory for a little accuracy, and on a CPU with int8 products less time too.

int8 on a CPU is our own, weights and activations both; all else goes through bitsandbytes, and saves memory alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from theseus_core.contracts import TextEncoder
from theseus_core.device import has_int8_products, trim_freed_memory
from theseus_core.errors import TheseusError, nearest

MODES = ["none", "int8", "nf4", "fp4"]
BITS = {"int8": 8.0, "nf4": 4.13, "fp4": 4.13}  # of a weight, its share of the scales included
LARGEST = 126  # of an activation in int8: 127 may round to 128 in bf16, and wrap


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
            _quantized(nn.Linear(64, 64), mode, torch.float32, device)(torch.zeros(1, 64, device=device))
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
    places = linear_places(module)
    for parent, name in places:
        setattr(parent, name, _quantized(getattr(parent, name), mode, compute_dtype, device))  # nothing else holds the old one
    trim_freed_memory()
    return Quantized(len(places), before, weight_bytes(module))


def quantize_encoder(encoder: TextEncoder, mode: str, device: torch.device, compute_dtype: torch.dtype) -> Quantized:
    """`quantize` for a text encoder: now, and each time that its weights are read again after `free`."""
    encoder.once_read = partial(quantize, mode=mode, device=device, compute_dtype=compute_dtype)
    return quantize(encoder, mode, device, compute_dtype)


def linear_places(module: nn.Module) -> list[tuple[nn.Module, str]]:
    """The layers that `quantize` replaces: the module that holds each, and its name there."""
    kept = {name for child in module.modules() for name in getattr(child, "_keep_in_fp32_modules", None) or ()}
    return [
        (parent, name)
        for parent in module.modules()
        for name, child in parent.named_children()
        if (type(child) is nn.Linear or _is_transposed(child)) and name not in kept  # of a subclass others may read the weights
    ]


def _is_transposed(layer: nn.Module) -> bool:
    """Whether this is GPT-2's linear layer, whose weight is (in, out): known by name, for transformers takes seconds to import."""
    return type(layer).__name__ == "Conv1D" and type(layer).__module__.startswith("transformers.")


def what_it_gains(mode: str, device: torch.device) -> str:
    """What a mode does on this machine beside saving memory, in words."""
    if mode == "int8" and device.type == "cpu":
        return "faster than bf16 too" if has_int8_products() else "no faster: this processor has no instructions for int8 products"
    return "it saves memory, not time"


def weight_bytes(module: nn.Module) -> int:
    """Bytes of all parameters and buffers, the scales of quantized layers included; shared ones count once."""
    tensors = {id(tensor): tensor for tensor in [*module.parameters(), *module.buffers()]}
    return sum(tensor.nbytes + _scale_bytes(tensor) for tensor in tensors.values())


def _scale_bytes(tensor: Tensor) -> int:
    state = getattr(tensor, "quant_state", None)
    nested = getattr(state, "state2", None)  # the scales of the scales
    scales = [getattr(tensor, "SCB", None)] + [getattr(held, name, None) for held in (state, nested) for name in ("absmax", "code")]
    return sum(scale.nbytes for scale in scales if scale is not None)


class Int8Linear(nn.Module):
    """A linear layer whose weights have a scale for each output, and its inputs one for each token, found as they come.

    Products of int8 are exact, so that the result depends on nothing but the input.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(dim=1).clamp_min(1e-30) / 127  # (out,)
        self.register_buffer("weight", (weight / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        tokens = x.reshape(-1, self.in_features)
        step = torch.linalg.vector_norm(tokens, torch.inf, dim=1, keepdim=True).div_(LARGEST).clamp_min_(1e-30)  # (tokens, 1)
        y = torch._int_mm((tokens / step).round_().to(torch.int8), self.weight.t())  # (tokens, out) int32
        y = y.to(x.dtype).mul_(self.scale.to(x.dtype))
        y = y.mul_(step) if self.bias is None else torch.addcmul(self.bias.to(x.dtype), y, step)
        return y.view(*x.shape[:-1], self.out_features)


def _quantized(linear: nn.Linear, mode: str, compute_dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The same layer, on the device, in fewer bits."""
    if _is_transposed(linear):
        linear = _turned(linear)
    if mode == "int8" and device.type == "cpu":
        return Int8Linear(linear).eval()
    return _packed(linear, mode, compute_dtype).to(device)


def _turned(layer: nn.Module) -> nn.Linear:
    """GPT-2's linear layer as torch's."""
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    turned = nn.Linear(weight.shape[0], weight.shape[1], device=weight.device, dtype=weight.dtype)
    turned.weight.data, turned.bias.data = weight.detach().T.contiguous(), bias.detach()
    return turned


def _packed(linear: nn.Linear, mode: str, compute_dtype: torch.dtype) -> nn.Module:
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
