"""Seconds of one video at the `small` preset with random weights, which take as long as trained ones."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import fastest, matmul_rate
from theseus_core.device import pick_device, pick_dtype
from theseus_core.model_folder import Parts, Settings
from theseus_core.pipeline import TextToVideo
from theseus_core.registry import build
from theseus_core.train.runs import Sampling

FRAMES, SIZE = 17, 128
PROMPT = "a waterfall in a forest"


def measure() -> dict[str, Any]:
    device = pick_device()
    dtype = pick_dtype("auto", device)
    sampling = Sampling()
    parts = Parts(
        build("tokenizers", "causal_vae"),
        build("text", "builtin", "small", {"vocabulary": PROMPT.split()}),
        build("generators", "dit"),
        Settings(frames=FRAMES, height=SIZE, width=SIZE, fps=8, **sampling.model_dump()),
    )
    pipe = TextToVideo(parts, device, dtype)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        pipe.generate(PROMPT)
    seconds = fastest(lambda: pipe.generate(PROMPT), device, 10)
    floor = counter.get_total_flops() / matmul_rate(dtype, device) / 1e9
    return {
        "seconds a video": round(seconds, 2),
        "seconds at the matmul rate (floor)": round(floor, 2),
        "share of the ceiling": round(floor / seconds, 3),
        "video": f"{FRAMES}x{SIZE}x{SIZE}",
        "steps": sampling.steps,
        "guidance": sampling.guidance_scale,
    }
