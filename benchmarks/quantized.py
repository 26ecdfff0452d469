"""Linear layers in fewer bits against bf16: `python -m benchmarks.quantized [--layers 4] [--frames 9] [--size 128]`.

One evaluation of a transformer of CogVideoX-2b's shape with random weights. All modes run in one process, beside a plain run each;
seconds on a CPU are those that its threads worked.
"""

from __future__ import annotations

import argparse
import json
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from benchmarks.cogvideox import alternated, with_peak_memory
from theseus_core.contracts import Generator, Text
from theseus_core.device import dtype_name, pick_device, trim_freed_memory
from theseus_core.quantize import MODES, quantize, what_it_gains
from theseus_core.registry import build

DTYPE, TOKENS, TEXT_WIDTH = torch.bfloat16, 226, 4096
LATENT = 8, 4  # pixels to a latent's side, frames to a latent


def network(layers: int, device: torch.device) -> Generator:
    """Random weights of a size that keeps activations near 1."""
    torch.manual_seed(0)
    model = build("generators", "dit", "cogvideox-2b", {"layers": layers})
    for parameter in model.parameters():
        if not parameter.detach().any() and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.5 * parameter.shape[1] ** -0.5)
    return model.to(device, DTYPE).eval().requires_grad_(False)


def inputs(frames: int, size: int, device: torch.device) -> tuple[Tensor, Tensor, Text]:
    torch.manual_seed(1)
    latents = torch.randn(1, 16, (frames - 1) // LATENT[1] + 1, size // LATENT[0], size // LATENT[0])
    words = Text(mask=torch.ones(1, TOKENS, dtype=torch.bool), embeddings=torch.randn(1, TOKENS, TEXT_WIDTH, dtype=DTYPE))
    return latents.to(device, DTYPE), torch.full((1,), 0.5, device=device), words.to(device)


@torch.inference_mode()
def measure(modes: list[str], layers: int, frames: int, size: int, device: torch.device, repeats: int) -> dict[str, Any]:
    given = inputs(frames, size, device)
    plain: Any = network(layers, device)
    expected = plain.velocity(*given).float()
    table: dict[str, Any] = {"network": f"2b's shape, {layers} of 30 layers, {frames}x{size}x{size}, {dtype_name(DTYPE)}, {device}"}
    for mode in modes:
        small = deepcopy(plain)
        report = quantize(small, mode, device, DTYPE)
        out, peak = with_peak_memory(lambda small=small: small.velocity(*given), device)  # type: ignore[misc]
        again = small.velocity(*given)
        runs = {"bf16": lambda: plain.velocity(*given), mode: lambda small=small: small.velocity(*given)}
        seconds = alternated(runs, device, repeats)
        table[mode] = {
            "layers quantized": report.layers,
            "relative error": float(f"{(out.float() - expected).norm() / expected.norm():.2e}"),
            "weights / bf16": round(report.bytes_after / report.bytes_before, 3),
            "weights MiB": round(report.bytes_after / 2**20),
            "peak beyond the weights MiB": round(peak / 2**20),
            "seconds": round(seconds[mode], 3),
            "seconds / bf16": round(seconds[mode] / seconds["bf16"], 2),
            "same twice": bool(torch.equal(out, again)),
            "said": what_it_gains(mode, device),
        }
        del small, runs
        trim_freed_memory()
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modes", nargs="+", default=MODES[1:], choices=MODES[1:])
    parser.add_argument("--layers", type=int, default=4, help="30 is the whole")
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    device = pick_device(asked.device)
    print(json.dumps(measure(asked.modes, asked.layers, asked.frames, asked.size, device, asked.repeats), indent=2))


if __name__ == "__main__":
    main()
