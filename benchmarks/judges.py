"""How often the judges are right about clips that the world draws itself: what they score models by has to pass first.

    python -m benchmarks.judges [--clips 40] [--json]

Every clip is judged twice: as it is drawn, and read back from an H.264 file.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from theseus_core.data.clip import Clip
from theseus_core.data.sources.world import World, WorldSettings
from theseus_core.evaluate.scores import Score, Verdict, examine, tally
from theseus_core.evaluate.suites import Prompt
from theseus_core.render.video import read, write
from theseus_core.world.scenes import SCENES

SHAPES = 15  # times as many clips as of a scene: they have more attributes
SEED = 77  # not that of any training, nor of what the looks of scenes were fitted on
FPS = 8.0


def verdicts(kinds: tuple[str, ...], count: int) -> Iterator[tuple[str, Verdict]]:
    """What is found of each clip, before and after the file."""
    drawn = World(WorldSettings(scenes=kinds, seed=SEED))
    for number in range(count):
        shown = drawn.describe(number)
        prompt = Prompt(f"{number:04d}", drawn.caption(number), asked=shown, clip=shown, seed=number)
        clip = Clip(drawn.frames([number])[0], FPS)
        yield "as drawn", examine(prompt, clip)
        with tempfile.TemporaryDirectory() as folder:
            yield "from H.264", examine(prompt, read(write(clip, Path(folder) / "clip.mp4"), len(clip.frames)))


def measure(count: int) -> dict[str, dict[str, Score]]:
    """For each state the score of each attribute of shapes and of each scene."""
    found: dict[str, list[Verdict]] = {}
    for kinds, clips in ((("shapes",), SHAPES * count), *(((kind,), count) for kind in SCENES)):
        for state, verdict in verdicts(kinds, clips):
            found.setdefault(state, []).append(verdict)
    return {state: tally(each) for state, each in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=40, help="of every scene")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(arguments.clips)
    if arguments.json:
        print(json.dumps({state: {key: [score.right, score.of] for key, score in each.items()} for state, each in found.items()}))
        return
    for key in next(iter(found.values())):
        print(f"{key:22}", *(f"{state} {each[key].right:4} of {each[key].of:4}  " for state, each in found.items()))


if __name__ == "__main__":
    main()
