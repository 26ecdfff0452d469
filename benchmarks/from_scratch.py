"""From nothing to moving shapes that do as they are told: the score against the minutes of training, on this machine.

    python -m benchmarks.from_scratch [--preset sprites | shapes | gan] [-o FOLDER] [--minutes 60] [--json]

Runs the commands as a user would, with a preset: no download and no files, for the clips are drawn. `sprites` and `shapes` are
presets of a vae and a transformer, `gan` is the preset `shapes` of the GAN. The generator is trained leg by leg; after every leg
`theseus evaluate` scores what `theseus generate` would write. Its minutes do not count.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from theseus_core.files import replacing, write_json

ROOT = Path(__file__).parents[1]


class Road(NamedTuple):
    """What is trained: first a vae where there is one, then a generator in legs of so many steps, both with the preset."""

    generator: str
    preset: str
    leg: int
    vae: bool = True


ROADS = {
    "sprites": Road("transformer", "sprites", 500),
    "shapes": Road("transformer", "shapes", 250),
    "gan": Road("gan", "shapes", 500, vae=False),
}
PROMPTS = 200
ASKED = 0.8  # of the prompts with shape, colour and motion right
KEYS = ("shape", "colour", "motion", "all three")
Point = dict[str, Any]


def theseus(output: Path, *words: str) -> tuple[float, str]:
    """Run a command in the folder `output`: the minutes that it took, and its stdout."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "theseus_cli.main", *words]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what is stopped here stops what it started
    start = time.perf_counter()
    with subprocess.Popen(command, cwd=output, env=environment, stdout=subprocess.PIPE, text=True) as child:
        try:
            said = child.communicate()[0]
        except BaseException:
            child.terminate()
            raise
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command)
    return (time.perf_counter() - start) / 60, said


def score(output: Path, road: Road, steps: int) -> dict[str, float]:
    asked = ["--suite", "shapes", "--objects", "1", "--clips", str(PROMPTS)]
    words = ["evaluate", "--model", f"runs/{road.generator}", *asked, "-o", f"evaluation/{steps:06d}", "--json"]
    seen = json.loads(theseus(output, *words)[1])["scores"]["seen"]
    return {key: seen[key]["share"] for key in KEYS}


def run(output: Path, road: Road, minutes: float) -> list[Point]:
    """A point of the curve for every leg that begins within the minutes."""
    output.mkdir(parents=True)
    common = ["--data", "world", "--preset", road.preset]
    spent = theseus(output, "train", "vae", *common)[0] if road.vae else 0.0
    print(f"before it can begin: {spent:.1f} minutes")
    curve: list[Point] = []
    while spent < minutes:
        steps = road.leg * (len(curve) + 1)
        leg, _ = theseus(output, "train", road.generator, *common, "--steps", str(steps), "--set", "train.schedule=constant")
        spent += leg
        curve.append({"steps": steps, "minutes": round(spent, 2), **score(output, road, steps)})
        write_json(output / "curve.json", curve)
        show(curve[-1])
    return curve


def show(point: Point) -> None:
    print(f"{point['minutes']:6.1f} minutes, {point['steps']:5} steps:", *(f"{key} {point[key]:.1%}" for key in KEYS), flush=True)


def draw(curve: list[Point], path: Path) -> None:
    """Score against minutes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=110, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    minutes = [point["minutes"] for point in curve]
    for key in KEYS:
        axes.plot(minutes, [100 * point[key] for point in curve], marker="o", label=key, linewidth=3 if key == KEYS[-1] else 1.5)
    axes.axhline(100 * ASKED, color="#999999", linestyle="--", linewidth=1)
    axes.set(xlabel="minutes of training, from nothing", ylabel="% of prompts right", ylim=(0, 102), xlim=(0, None))
    axes.legend(loc="lower right")
    with replacing(path) as part:
        figure.savefig(part, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(ROADS), default="sprites")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/from-scratch"))
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    output = arguments.output.absolute()
    curve = (
        json.loads((output / "curve.json").read_text())
        if output.exists()
        else run(output, ROADS[arguments.preset], arguments.minutes)
    )
    draw(curve, output / "curve.png")
    if arguments.json:
        print(json.dumps(curve, indent=2))
        return
    for point in curve:
        show(point)
    reached = [point["minutes"] for point in curve if point["all three"] >= ASKED]
    print(
        f"{ASKED:.0%} right in shape, colour and motion at once:", f"after {reached[0]:.1f} minutes" if reached else "not reached"
    )


if __name__ == "__main__":
    main()
