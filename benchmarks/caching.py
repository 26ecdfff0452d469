"""What caching saves and costs on a trained model: `python -m benchmarks.caching MODEL [--steps 50] [--cache 0.01 0.02]`.

Each clip is made with every tolerance, and against it with none; below stand plain runs of fewer steps, which save time as well.
Seconds on a CPU are those that its threads worked; they are of whole videos, the decoder's part included.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.cogvideox import clock
from benchmarks.machine import wait_for
from theseus_core.losses import psnr
from theseus_core.pipeline import TextToVideo

PROMPTS = ["a waterfall in a forest", "waves on the ocean", "a fire burns at night", "a pink hot-air balloon"]


@dataclass
class Made:
    """The videos of one setting, the seconds they took, and how many evaluations of the network each needed."""

    videos: Tensor
    seconds: float
    evaluated: float


def measure(pipe: TextToVideo, prompts: list[str], sampler: str, steps: int, tolerances: list[float]) -> list[dict[str, Any]]:
    """A row of each tolerance, and of plain runs with as few evaluations."""

    def made(steps: int, cache: float) -> Made:
        return run_all(pipe, prompts, lambda i, prompt: pipe.sample([prompt], seed=i, sampler=sampler, steps=steps, cache=cache))

    plain = made(steps, 0.0)
    rows = []
    for tolerance in tolerances:
        rows.append({"cache": tolerance, **compared(made(steps, tolerance), plain)})
    for fewer in sorted({max(1, round(steps * row["share evaluated"])) for row in rows}):
        rows.append({"steps": fewer, **compared(made(fewer, 0.0), plain)})
    return rows


def run_all(pipe: TextToVideo, prompts: list[str], make: Callable[[int, str], Tensor]) -> Made:
    evaluations = 0

    def count(*_: object) -> None:
        nonlocal evaluations
        evaluations += 1

    hook = pipe.generator.shard_units()[0].register_forward_hook(count)
    start = clock(pipe.device)
    videos = torch.cat([make(i, prompt) for i, prompt in enumerate(prompts)])
    wait_for(pipe.device)
    hook.remove()
    return Made(videos, clock(pipe.device) - start, evaluations / len(prompts))


def compared(made: Made, plain: Made) -> dict[str, float]:
    found = psnr(made.videos, plain.videos)
    return {
        "share evaluated": round(made.evaluated / plain.evaluated, 2),
        "seconds / plain": round(made.seconds / plain.seconds, 2),
        "PSNR, mean dB": round(float(found.mean()), 1),
        "PSNR, worst dB": round(float(found.min()), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a run, a model folder, a bundled or a hub name")
    parser.add_argument("--prompts", nargs="+", default=PROMPTS)
    parser.add_argument("--sampler", nargs="+", default=["dpmpp_2m"])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--cache", type=float, nargs="+", default=[0.005, 0.01, 0.02, 0.05])
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    pipe = TextToVideo.load(arguments.model, arguments.device, arguments.dtype)
    pipe.sample(arguments.prompts[:1], steps=2)  # warms up
    for sampler in arguments.sampler:
        print(f"{sampler}, {arguments.steps} steps, {len(arguments.prompts)} prompts", flush=True)
        for row in measure(pipe, arguments.prompts, sampler, arguments.steps, arguments.cache):
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
