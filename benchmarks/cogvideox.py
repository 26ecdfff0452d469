"""The released CogVideoX's parts against diffusers': `python -m benchmarks.cogvideox vae|transformer [--size 128] [--dtype bf16]`.

Both sides have the same random weights of the released shape and run in one process, in an order that alternates. Seconds on a
CPU are those that its threads worked, so that other programs do not count; the fastest run is reported.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import wait_for
from theseus_core.device import dtype_name, pick_device, pick_dtype
from theseus_core.tokenizers.cogvideox_vae import Config, Model

SIDE = 2048  # of the matrices whose product is the ceiling
Runs = dict[str, Callable[[], Tensor]]


@torch.no_grad()
def measure_vae(size: int, frames: int, dtype: torch.dtype, device: torch.device, repeats: int) -> dict[str, Any]:
    """Seconds, achieved rate and peak memory of encoding and decoding, and how far the outputs differ."""
    ours, theirs = released_vaes(dtype, device)
    video = (torch.rand(1, 3, frames, size, size) * 2 - 1).to(device, dtype)
    latents = torch.randn(1, *ours.latent_shape(frames, size, size)).to(device, dtype)
    scale = ours.config.scaling_factor
    square = torch.randn(SIDE, SIDE, device=device).to(dtype)
    parts: dict[str, Runs] = {
        "encode": {"ours": lambda: ours.encode(video), "diffusers": lambda: theirs.encode(video).latent_dist.mean * scale},
        "decode": {"ours": lambda: ours.decode(latents), "diffusers": lambda: theirs.decode(latents / scale).sample},
    }
    table: dict[str, Any] = {"video": f"{frames}x{size}x{size}, {dtype_name(dtype)}, {device}, {torch.get_num_threads()} threads"}
    for part, runs in parts.items():
        outputs, memory = {}, {}
        for name, run in runs.items():  # warms up as well
            outputs[name], memory[name] = with_peak_memory(run, device)
        seconds = alternated({**runs, "matmul": lambda: square @ square}, device, repeats)
        flops = vae_flops(part, tuple(video.shape))
        ceiling = 2 * SIDE**3 / seconds["matmul"]
        table[part] = {
            **{f"seconds, {name}": round(seconds[name], 3) for name in runs},
            "ours / diffusers": round(seconds["ours"] / seconds["diffusers"], 3),
            "GFLOP/s": round(flops / seconds["ours"] / 1e9),
            "of matmul GFLOP/s": round(ceiling / 1e9),
            **{f"peak MiB, {name}": round(memory[name] / 2**20) for name in runs},
            "largest difference": float(f"{(outputs['ours'] - outputs['diffusers']).abs().max():.1e}"),
            "deviation of the output": float(f"{outputs['diffusers'].float().std():.1e}"),
        }
    return table


def released_vaes(dtype: torch.dtype, device: torch.device) -> tuple[Model, Any]:
    """Ours and diffusers', sharing random weights that keep activations near 1."""
    from diffusers import AutoencoderKLCogVideoX

    with torch.device("meta"):
        ours, theirs = Model(Config()), AutoencoderKLCogVideoX()
    torch.manual_seed(0)
    weights = {}
    for name, tensor in ours.state_dict().items():
        inputs = tensor[0].numel() if tensor.ndim > 1 else 0
        value = torch.randn(tensor.shape) * inputs**-0.5 if inputs else torch.full(tensor.shape, float("norm" in name))
        weights[name] = value.to(device, dtype)
    for model in (ours, theirs):
        model.load_state_dict(weights, strict=True, assign=True)
        model.eval()
    return ours, theirs


def alternated(runs: Runs, device: torch.device, repeats: int) -> dict[str, float]:
    """Seconds of each run's fastest of `repeats`, each round in the order opposite to the last one's."""
    fastest = dict.fromkeys(runs, float("inf"))
    names = list(runs)
    for _ in range(repeats):
        for name in names:
            wait_for(device)
            start = clock(device)
            runs[name]()
            wait_for(device)
            fastest[name] = min(fastest[name], clock(device) - start)
        names.reverse()
    return fastest


def clock(device: torch.device) -> float:
    return time.process_time() / torch.get_num_threads() if device.type == "cpu" else time.perf_counter()


def with_peak_memory(run: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, float]:
    """What a run gives, and the bytes it needed at its peak beyond those held before; not a number where none can tell."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        return run(), float(torch.cuda.max_memory_allocated(device) - before)
    peak, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not peak.exists():
        return run(), float("nan")
    peak.write_text("5")  # forget the peak so far
    before = kibibytes(status, "VmRSS")
    out = run()
    return out, 1024.0 * (kibibytes(status, "VmHWM") - before)


def kibibytes(status: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(f"{name}:"))


def vae_flops(part: str, video: tuple[int, ...]) -> int:
    """Operations of our encoder or decoder, counted without computing anything."""
    with torch.device("meta"):
        model: nn.Module = Model(Config())
        assert isinstance(model, Model)
        with FlopCounterMode(display=False) as counter:
            model.encode(torch.empty(video)) if part == "encode" else model.decode(
                torch.empty(video[0], *model.latent_shape(*video[2:]))
            )
    return int(counter.get_total_flops())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", choices=["vae", "transformer"])
    parser.add_argument("--size", type=int, default=128, help="of a frame, in pixels")
    parser.add_argument("--frames", type=int, help="9 for the vae, 33 for the transformer")
    parser.add_argument("--layers", type=int, default=30, help="of the transformer")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    dtype = pick_dtype(arguments.dtype, device)
    table: dict[str, Any]
    if arguments.section == "vae":
        table = measure_vae(arguments.size, arguments.frames or 9, dtype, device, arguments.repeats)
    else:
        from benchmarks.cogvideox_transformer import measure_transformer

        latent = ((arguments.frames or 33) // 4 + 1, arguments.size // 8, arguments.size // 8)
        table = measure_transformer(latent, arguments.layers, dtype, device, arguments.repeats)
    print(json.dumps(table, indent=2))


if __name__ == "__main__":
    main()
