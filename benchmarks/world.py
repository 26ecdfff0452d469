"""Clips a second that the procedural world draws at 17x128x128, and how long the judge takes to look at one.

With `--training`, beside what the two trainings consume at the `small` preset, which takes a few minutes more.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import fastest, wait_for
from theseus_core import world
from theseus_core.device import pick_device
from theseus_core.world.judge_shapes import judge

FRAMES, SIZE = 17, 128


def drawn_per_second(kinds: tuple[str, ...], clips: int, device: torch.device) -> float:
    """Sampling, wording and drawing."""

    def draw() -> None:
        described = [world.sample(number, kinds) for number in range(clips)]
        for number, clip in enumerate(described):
            world.caption(clip, number)
        world.render(described, FRAMES, SIZE, SIZE, device)

    return clips / fastest(draw, device, 2.0)


def measure(scenes: list[str], clips: int) -> dict[str, Any]:
    kinds = world.kinds_of(scenes)
    threads = torch.get_num_threads()
    figures: dict[str, Any] = {"video": f"{FRAMES}x{SIZE}x{SIZE}", "scenes": ", ".join(scenes)}
    torch.set_num_threads(1)
    figures["clips/s, cpu, one thread"] = round(drawn_per_second(kinds, clips, torch.device("cpu")), 1)
    torch.set_num_threads(threads)
    figures[f"clips/s, cpu, {threads} threads"] = round(drawn_per_second(kinds, clips, torch.device("cpu")), 1)
    device = pick_device()
    if device.type != "cpu":
        figures[f"clips/s, {device.type}"] = round(drawn_per_second(kinds, clips, device), 1)
    if kinds == ("shapes",):
        figures["judge, ms a clip"] = round(judge_milliseconds(), 1)
    return figures


def judge_milliseconds(clips: int = 32) -> float:
    videos = world.render([world.sample(number) for number in range(clips)], FRAMES, SIZE, SIZE)
    judge(videos[0])
    wait_for(videos.device)
    start = time.perf_counter()
    for video in videos:
        judge(video)
    return (time.perf_counter() - start) / clips * 1e3


def consumed() -> dict[str, float]:
    """Clips a second of both trainings."""
    from benchmarks.training import measure_transformer, measure_vae

    return {"clips/s, train vae": measure_vae()["clips/s"], "clips/s, train transformer": measure_transformer()["clips/s"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", default="shapes", help="kinds of clips, with commas between them")
    parser.add_argument("--clips", type=int, default=128)
    parser.add_argument("--training", action="store_true", help="measure what the trainings consume, too")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    figures = measure(arguments.scenes.split(","), arguments.clips)
    if arguments.training:
        figures |= consumed()
    for name, value in figures.items():
        print(f"{name:30} {value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
