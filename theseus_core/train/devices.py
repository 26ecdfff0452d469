"""Which device and which arithmetic: `auto` resolved by looking at the machine, a wish that it cannot grant refused."""

from __future__ import annotations

import torch

from theseus_core.errors import TheseusError


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """`auto`, or a device by name, as a `torch.device`; under torchrun each rank of a machine gets its own GPU.

    Raises:
        TheseusError: no such device, or it is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise TheseusError(f"no such device: {name}", hint="allowed: auto, cpu, cuda, cuda:1, mps") from error
    if device.type == "cuda":
        return _cuda(device, local_rank)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise TheseusError(f"this machine has no such device: {name}", hint="use --device auto")
    return device


def _cuda(device: torch.device, local_rank: int) -> torch.device:
    index = local_rank if device.index is None else device.index
    if not torch.cuda.is_available():
        raise TheseusError(f"this machine has no CUDA device: {device}", hint="use --device auto, or --device cpu")
    if index >= torch.cuda.device_count():
        raise TheseusError(f"this machine has {torch.cuda.device_count()} CUDA devices, counted from 0: cuda:{index}")
    return torch.device("cuda", index)


def fast_bf16(device: torch.device) -> bool:
    """Whether matrix products in bf16 are in the hardware; emulated ones are far slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        found = torch.cpu.get_capabilities()
        return bool(found.get("avx512_bf16") or found.get("amx_bf16") or found.get("bf16"))
    return False


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto`, `bf16` or `fp32` as the type that the network computes in."""
    if name == "auto":
        return torch.bfloat16 if fast_bf16(device) else torch.float32
    return {"bf16": torch.bfloat16, "fp32": torch.float32}[name]
