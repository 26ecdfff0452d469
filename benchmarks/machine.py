"""What this machine can do at best: the ceilings that the other figures stand beside."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable

import torch

from theseus_core.device import dtype_name, pick_device, pick_dtype


def matmul_rate(dtype: torch.dtype, device: torch.device, side: int = 2048, seconds: float = 1.0) -> float:
    """GFLOP/s of the fastest of many square matrix products."""
    a = torch.randn(side, side, device=device).to(dtype)
    return 2 * side**3 / fastest(lambda: a @ a, device, seconds) / 1e9


def fastest(run: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Seconds of the fastest run; at least three are made, after one that warms up."""
    spent: list[float] = []
    run()
    until = time.perf_counter() + seconds
    while len(spent) < 3 or time.perf_counter() < until:
        wait_for(device)
        start = time.perf_counter()
        run()
        wait_for(device)
        spent.append(time.perf_counter() - start)
    return min(spent)


def wait_for(device: torch.device) -> None:
    """Let the device finish, so that a clock sees its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure() -> dict[str, object]:
    device = pick_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": f"{device.type} ({name})",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "precision": dtype_name(pick_dtype("auto", device)),
        "bf16 matmul GFLOP/s": round(matmul_rate(torch.bfloat16, device)),
        "fp32 matmul GFLOP/s": round(matmul_rate(torch.float32, device)),
    }
