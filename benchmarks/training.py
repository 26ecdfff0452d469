"""Clips a second of both trainings at the `small` preset, and the share of the machine's matmul rate that a step achieves.

The step is the trainer's own: loading, forward, backward, clipping, optimizer and averaged weights, on a dataset made here.
"""

from __future__ import annotations

import copy
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import matmul_rate
from theseus_core.contracts import Batch, Conditioned, Trainable
from theseus_core.data.clip import Clip
from theseus_core.data.encode import LatentCache, LatentSource
from theseus_core.data.loader import Draw, VideoSource
from theseus_core.data.shards import Dataset
from theseus_core.data.writer import write_dataset
from theseus_core.device import pick_device, pick_dtype
from theseus_core.registry import build
from theseus_core.text.builtin import fit
from theseus_core.train.config import TrainConfig
from theseus_core.train.runs import configure_run
from theseus_core.train.trainer import Scores, Trainer

FRAMES, SIZE, WARM_UP, STEPS = 17, 128, 3, 8
CAPTION = "a bright disc drifts over a coloured texture from left to right"


def make_dataset(folder: Path) -> Dataset:
    """Sixteen textured clips of 128x128."""
    rng = np.random.default_rng(0)
    clips = []
    for _ in range(16):
        texture = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
        clips.append(Clip(np.stack([np.roll(texture, t, axis=1) for t in range(24)]), 8.0, CAPTION))
    return write_dataset(folder, clips, {"size": [SIZE, SIZE]})


def measure_vae() -> dict[str, Any]:
    run = configure_run("vae", "small")
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(Path(folder) / "dataset")
        model = build("tokenizers", run.family, run.model_preset)
        source = VideoSource(dataset, Draw(tuple(range(16)), run.train.batch_size, 1, 0), FRAMES)
        return timed(model, source, run.train, Path(folder) / "run")


def measure_transformer() -> dict[str, Any]:
    run = configure_run("transformer", "small")
    device = pick_device()
    encoder = build("text", "builtin", "small", fit([CAPTION]))
    model = Conditioned.of(build("generators", run.family, run.model_preset), encoder)
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(Path(folder) / "dataset")
        latents = LatentCache(dataset, build("tokenizers", "causal_vae"), FRAMES, run.windows, device, pick_dtype("auto", device))
        draw = Draw(tuple(range(16)), run.train.batch_size, 1, 0)
        source = LatentSource(latents, draw, encoder.tokenize, "", run.caption_dropout)
        return timed(model, source, run.train, Path(folder) / "run")


def timed(model: Trainable, source: Any, config: TrainConfig, folder: Path) -> dict[str, Any]:
    """The median step of a few, its arithmetic, and the matmul rate measured before and after it."""
    device = pick_device()
    dtype = pick_dtype("auto", device)
    operations = flops(copy.deepcopy(model), source.batch(0, 0, 0, 1))
    peak = matmul_rate(dtype, device)
    times: list[float] = []

    def tick(done: int, total: int, scores: Scores) -> None:
        times.append(time.perf_counter())

    settings = config.model_copy(update={"steps": WARM_UP + STEPS, "evaluate_every": 0, "checkpoint_every": 10_000})
    Trainer(model, source, settings, folder, progress=tick).fit()
    steps = np.diff(times[WARM_UP:-1])  # the last step writes a checkpoint
    seconds = float(np.median(steps))
    peak = max(peak, matmul_rate(dtype, device))
    rate = operations / seconds / 1e9
    return {
        "clips/s": round(config.batch_size / seconds, 2),
        "seconds a step": round(seconds, 3),
        "fastest step": round(float(steps.min()), 3),
        "batch": config.batch_size,
        "million parameters": round(sum(p.numel() for p in model.parameters()) / 1e6, 1),
        "GFLOP/s": round(rate),
        "matmul GFLOP/s (ceiling)": round(peak),
        "share of the ceiling": round(rate / peak, 3),
    }


def flops(model: Trainable, batch: Batch) -> float:
    """Operations of the matrix products and convolutions of one forward and backward pass; the optimizer's are not counted."""
    with FlopCounterMode(display=False) as counter:
        model(batch, model.phases[0])["loss"].backward()
    return float(counter.get_total_flops())
