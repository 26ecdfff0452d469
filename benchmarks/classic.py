"""The prompts of the classic demonstration of moving circles.

    python -m benchmarks.classic [MODEL] [--seeds N] [--each N] [-o FOLDER] [--json]

Makes "circle moving up-right", which the preset `classic` holds out, with many seeds, and every other motion of a circle, a square
and a triangle with a few (`--each`), by `theseus generate`, and reads the files: is shape and motion right by the world's judge, is
no frame blank, how straight is the path of the shape's middle (R^2 of a line against time), and are the clips of different seeds
different. A circle that spins is not asked for: nobody sees it spin, and the world does not draw it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from theseus_core import world
from theseus_core.data.clip import Clip
from theseus_core.evaluate.scores import difference
from theseus_core.pipeline import to_video
from theseus_core.recipe import read_index
from theseus_core.render.sheets import contact_sheet
from theseus_core.render.video import read
from theseus_core.world.judge_shapes import agreement, judge
from theseus_core.world.tracking import background, follow

HELD_OUT = "circle moving up-right"
SHAPES = ("circle", "square", "triangle")
MOTIONS = (
    *(f"moving {way}" for way in ("left", "right", "up", "down", "up-left", "up-right", "down-left", "down-right")),
    *("growing", "shrinking", "bouncing vertically", "bouncing horizontally", "zigzagging vertically", "zigzagging horizontally"),
    *(f"{what} {way}" for what in ("moving in a circle", "spinning") for way in ("clockwise", "counter-clockwise")),
)
SEEN = [f"{shape} {motion}" for shape in SHAPES for motion in MOTIONS if (shape, motion.split()[0]) != ("circle", "spinning")]
SEEN.remove(HELD_OUT)
FRAMES = 17
STANDS_OUT = 0.05  # of 1: how far from the background the brightest pixel of a frame that is not blank must be
APART = 1.0  # of 255, by the mean over all pixels: seeds whose clips are nearer to each other give the same clip


def generate(model: str, prompts: list[str], folder: Path, *flags: str) -> list[tuple[Clip, str]]:
    """What `theseus generate` wrote for the prompts, read back, each with its prompt; a second start makes only what is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prompts.txt").write_text("".join(f"{prompt}\n" for prompt in prompts))
    words = ["generate", "--prompts", folder / "prompts.txt", "--model", model, "-o", folder / "clips", *flags]
    subprocess.run([sys.executable, "-m", "theseus_cli.main", *map(str, words)], check=True, stdout=subprocess.DEVNULL)
    return [(read(path, FRAMES), prompt) for path, prompt in read_index(folder / "clips")]


def look(clip: Clip, prompt: str) -> dict[str, Any]:
    """What one clip shows, against what was asked for."""
    video = to_video(clip.frames)
    right = agreement(judge(video), world.wanted(prompt))
    away = ((video + 1) / 2 - background((video + 1) / 2).unsqueeze(1)).norm(dim=0).flatten(1).amax(dim=1)  # (T,)
    return {
        "prompt": prompt,
        **{key: right[key] for key in ("presence", "shape", "motion")},
        "blank frames": int((away < STANDS_OUT).sum()),
        "straightness": straightness(video),
    }


def straightness(video: Tensor) -> float:
    """R^2 of the middle's place, x and y together, as a line in time; 0 where there is not one thing to follow, or it stands still.

    Args:
        video: (3, T, H, W) in [-1, 1].
    """
    unit = (video.float() + 1) / 2
    tracks = follow(unit, background(unit))
    if len(tracks) != 1:
        return 0.0
    places = torch.stack([tracks[0].x, tracks[0].y], dim=1).double()  # (T, 2)
    time = torch.linspace(-1, 1, len(places), dtype=torch.float64)
    line = torch.stack([torch.ones_like(time), time], dim=1)
    left = (places - line @ torch.linalg.lstsq(line, places).solution).square().sum()
    whole = (places - places.mean(dim=0)).square().sum()
    return float(1 - left / whole) if whole > 1e-4 * len(places) else 0.0


def measure(model: str, seeds: int, each: int, folder: Path) -> dict[str, Any]:
    unseen = generate(model, [HELD_OUT], folder / "held-out", "--num-videos", str(seeds))
    seen = generate(model, SEEN, folder / "seen", "--num-videos", str(each))
    for name, clips in (("held-out", unseen), ("seen", seen)):
        contact_sheet([clip for clip, _ in clips], folder / f"{name}.png", labels=[prompt for _, prompt in clips])
    looked, others = [look(*one) for one in unseen], [look(*one) for one in seen]
    nearest = min((difference(a.frames, b.frames) for (a, _), (b, _) in combinations(unseen, 2)), default=0.0)
    return {
        "held out": shares(looked)
        | {"straightness": sorted(one["straightness"] for one in looked), "nearest two seeds, of 255": nearest, "seeds": seeds},
        "seen": shares(others) | {"wrong": [one["prompt"] for one in others if not (one["shape"] and one["motion"])]},
    }


def shares(looked: list[dict[str, Any]]) -> dict[str, Any]:
    """How many clips are right, of how many."""
    right = {key: sum(one[key] for one in looked) for key in ("presence", "shape", "motion")}
    both = sum(one["shape"] and one["motion"] for one in looked)
    return {"of": len(looked), **right, "shape and motion": both, "blank frames": sum(one["blank frames"] for one in looked)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="runs/gan")
    parser.add_argument("--seeds", type=int, default=20, help="of what is held out")
    parser.add_argument("--each", type=int, default=4, help="seeds of every other prompt")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/classic"))
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found = measure(asked.model, asked.seeds, asked.each, asked.output)
    if asked.json:
        print(json.dumps(found, indent=2))
        return
    for name, scores in found.items():
        print(f"{name}: shape and motion right in {scores['shape and motion']} of {scores['of']}", end=" ")
        print(f"(presence {scores['presence']}, shape {scores['shape']}, motion {scores['motion']})", end=", ")
        print(f"{scores['blank frames']} blank frames")
    wrong = Counter(found["seen"]["wrong"]).most_common()
    print("seen, and wrong:", ", ".join(f"{prompt} {count}" for prompt, count in wrong) or "nothing")
    held = found["held out"]
    lines = held["straightness"]
    print(f"straightness of {HELD_OUT!r}: least {lines[0]:.3f}, median {lines[len(lines) // 2]:.3f}", end="; ")
    near = held["nearest two seeds, of 255"]
    print(f"the two seeds nearest to each other differ by {near:.1f} of 255{'' if near >= APART else ': the same clip'}")


if __name__ == "__main__":
    main()
