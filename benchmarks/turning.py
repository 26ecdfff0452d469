"""Whether a model minds which way round it is told that things go: its loss with the true words against that with their opposite.

    python -m benchmarks.turning [MODEL] [--clips 48] [--json]

Of clips that circle or spin, in words that name the way. A model that does not know what the words mean does better with the true
ones in half of the clips; guidance cannot lead it anywhere then.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from theseus_core import world
from theseus_core.data.sources.world import World, WorldSettings
from theseus_core.pipeline import TextToVideo
from theseus_core.presets import TURNING
from theseus_core.world.description import Description

SEED = 77  # not that of any training
SIDE = 64
TIMES = (0.95, 0.85, 0.7, 0.5)  # from clean 0 to noise 1
NOISES = 6  # that each clip is seen in
OPPOSITE = {"clockwise": "counter-clockwise", "counter-clockwise": "clockwise"}


def clips(motion: str) -> Iterator[tuple[Description, str, str]]:
    """Clips of a motion without end, each with a caption that names its way, and the same one with the opposite in its place."""
    drawn = World(WorldSettings(only=tuple(TURNING), seed=SEED))
    number = 0
    while True:
        shown = drawn.describe(number)
        number += 1
        if shown.attributes["motion"] == motion:
            turned = replace(shown, attributes={**shown.attributes, "way": OPPOSITE[shown.attributes["way"]]})
            true, false = world.caption(shown, number), world.caption(turned, number)
            if true != false:
                yield shown, true, false


@torch.no_grad()
def measure(pipe: TextToVideo, motion: str, count: int) -> dict[float, tuple[float, float, float]]:
    """By the time: mean losses with the true words and the false ones, and the share of clips that the true ones suit better."""
    shown, true, false = zip(*(each for _, each in zip(range(count), clips(motion), strict=False)), strict=True)
    latents = torch.cat([pipe.tokenizer.encode(world.render([each], 17, SIDE, SIDE)) for each in shown])
    words = [pipe.text_encoder(pipe.text_encoder.tokenize(list(captions))) for captions in (true, false)]
    found = {}
    for time in TIMES:
        torch.manual_seed(SEED)
        losses = [torch.zeros(count), torch.zeros(count)]
        for _ in range(NOISES):
            noise = torch.randn_like(latents)
            noisy, t = (1 - time) * latents + time * noise, torch.full((count,), time)
            for loss, text in zip(losses, words, strict=True):
                velocity: Tensor = pipe.generator.velocity(noisy, t, text)  # type: ignore[operator]
                loss += (velocity.float() - (noise - latents)).square().mean((1, 2, 3, 4)) / NOISES
        found[time] = (float(losses[0].mean()), float(losses[1].mean()), float((losses[0] < losses[1]).float().mean()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="shapes", help="of the family dit, on the straight path")
    parser.add_argument("--clips", type=int, default=48, help="of each motion")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    pipe = TextToVideo.load(arguments.model)
    found = {motion: measure(pipe, motion, arguments.clips) for motion in ("circling", "spinning")}
    if arguments.json:
        print(json.dumps(found))
        return
    print("motion     time   true words   opposite   true ones better, %")
    for motion, times in found.items():
        for time, (true, false, share) in times.items():
            print(f"{motion:10} {time:4.2f}   {true:10.4f}   {false:8.4f}   {100 * share:20.0f}")


if __name__ == "__main__":
    main()
