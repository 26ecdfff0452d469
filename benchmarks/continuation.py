"""Does a clip go on as it began? `python -m benchmarks.continuation MODEL [--clips 100] [-o FOLDER] [--json]`.

Of drawn clips with one shape that moves in a direction, none of which a training has drawn, the model gets the first half and
writes the rest, as `generate --first-frames` does: with the clip's caption, and again without a word. What is judged is the rest
alone, from the last frame that was given on, by the eyes of the world's judge: the way of the one thing that is there; and how far
it is from the clip's own rest. The same is asked of the clips themselves, which says how good these eyes are, and of what the
tokenizer gives back of them, which no continuation can surpass.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from theseus_core.beginnings import can_be_given
from theseus_core.data.clip import Clip
from theseus_core.data.sources.world import World, WorldSettings
from theseus_core.device import autocast
from theseus_core.losses import psnr
from theseus_core.pipeline import TextToVideo, to_frames
from theseus_core.render.sheets import comparison
from theseus_core.world.motion import DIRECTIONS
from theseus_core.world.tracking import background, follow

SEED = 77  # of the drawn clips; trainings draw those of seed 0
AT_ONCE = 10  # clips that are continued together
SHOWN = 12  # of the picture
LEAST = 0.1  # of the frame's half, to be called a way


@dataclass(frozen=True)
class Unseen:
    """Clips to continue: (B, 3, T, H, W), what is said of them, and which way their shapes go."""

    videos: Tensor
    captions: list[str]
    ways: list[str]


def unseen(clips: int, frames: int, height: int, width: int) -> Unseen:
    world = World(WorldSettings(objects=1, seed=SEED, frames=frames, height=height, width=width))
    moving = (number for number in count() if world.describe(number).attributes.get("motion") in DIRECTIONS)
    numbers = list(islice(moving, clips))
    ways = [world.describe(number).attributes["motion"] for number in numbers]
    return Unseen(world.render(numbers), [world.caption(number) for number in numbers], ways)


def way_of(video: Tensor) -> str:
    """The direction of the one thing in (3, T, H, W) in [-1, 1]; "" where there is not one, or it goes nowhere."""
    video = (video.float() + 1) / 2
    tracks = follow(video, background(video))
    if len(tracks) != 1:
        return ""
    x, y = (float(places[-1] - places[0]) for places in (tracks[0].x, tracks[0].y))
    if x * x + y * y < LEAST**2:
        return ""
    return max(DIRECTIONS, key=lambda name: x * DIRECTIONS[name][0] + y * DIRECTIONS[name][1])


def continued(pipe: TextToVideo, clips: Unseen, given: int, words: bool, sampler: str | None) -> Tensor:
    """(B, 3, T, H, W) whose first `given` frames are those of the clips."""
    parts = []
    for start in range(0, len(clips.ways), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        prompts = clips.captions[some] if words else [""] * len(clips.ways[some])
        first = clips.videos[some, :, :given]
        guidance = None if words else 1.0
        parts.append(pipe.sample(prompts, first_frames=first, seed=start, sampler=sampler, guidance_scale=guidance))
    return torch.cat(parts)


def measure(pipe: TextToVideo, count: int, sampler: str | None, folder: Path | None) -> dict[str, Any]:
    d = pipe.defaults
    clips = unseen(count, d.frames, d.height, d.width)
    given = can_be_given(pipe.tokenizer, (d.frames + 1) // 2, d.frames)
    videos = {"the clips themselves": clips.videos}
    videos["through the tokenizer"] = reconstructed(pipe, clips.videos)
    for words, name in ((True, "with the caption"), (False, "without a word")):
        videos[name] = continued(pipe, clips, given, words, sampler)
        if folder is not None:
            draw(clips, videos[name], folder / f"{name.replace(' ', '-')}.png")
    found = {name: [way_of(video[:, given - 1 :]) for video in some] for name, some in videos.items()}
    right = {name: sum(map(str.__eq__, ways, clips.ways)) for name, ways in found.items()}
    rest = clips.videos[:, :, given:]
    near = {name: float(psnr(video[:, :, given:], rest).mean()) for name, video in videos.items() if video is not clips.videos}
    return {"frames": d.frames, "given": given, "sampler": sampler or d.sampler, "clips": count, "right": right, "psnr": near}


def reconstructed(pipe: TextToVideo, videos: Tensor) -> Tensor:
    size = (videos.shape[3], videos.shape[4])
    with torch.no_grad(), autocast(pipe.device, pipe.dtype):
        parts = [pipe.tokenizer.decode(pipe.tokenizer.encode(part), size=size) for part in videos.to(pipe.device).split(AT_ONCE)]
    return torch.cat(parts).float().cpu().clamp(-1, 1)


def draw(clips: Unseen, made: Tensor, path: Path) -> None:
    pairs = list(zip(clips.videos, made, clips.captions, clips.ways, strict=True))[:SHOWN]
    originals = [Clip(to_frames(video), 8) for video, *_ in pairs]
    labels = [f"{way}: {caption}" for _, _, caption, way in pairs]
    generated = [Clip(to_frames(video), 8) for _, video, *_ in pairs]
    comparison(originals, generated, path, frames_per_clip=9, labels=labels, height=64, titles=("clip", "continued"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a run, a model folder or a name, trained on the world's shapes as codes")
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--decoder", help="masked or causal; the model's own unless given")
    parser.add_argument("-o", "--output", type=Path, help="a folder for pictures of both")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    figures = measure(TextToVideo.load(asked.model), asked.clips, asked.decoder, asked.output)
    if asked.json:
        print(json.dumps(figures, indent=2))
        return
    print(f"{figures['given']} of {figures['frames']} frames given, the rest written by the {figures['sampler']} decoder")
    for name, right in figures["right"].items():
        near = f", {figures['psnr'][name]:.1f} dB from the clip's own rest" if name in figures["psnr"] else ""
        print(f"{name:22} the direction is right in {right} of {figures['clips']}{near}")


if __name__ == "__main__":
    main()
