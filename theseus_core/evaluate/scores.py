"""What is measured of a clip: whether it shows what was asked for, and whether it is alive, steady and one of many."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from theseus_core.config import Tree
from theseus_core.data.clip import Clip
from theseus_core.evaluate.suites import Prompt
from theseus_core.pipeline import to_video
from theseus_core.recipe import is_uniform
from theseus_core.world import judge_scenes, judge_shapes

MIN_FRAMES = 17  # between fewer, the judges cannot follow what turns or comes back
TOGETHER = ("shape", "colour", "motion")
ALL_THREE, ALL_SCENES = "all three", "all scenes"
ORDER = (ALL_SCENES, "presence", *TOGETHER, ALL_THREE, "speed", "background", "relation", "other_shape", "other_colour")
# Measured at 64 and 128 pixels: of every clip of the world at least three squares change by 37 or more (stars that twinkle, the
# least); of one picture held still, under the noise of a decoder and a video file, at most two change by more than 16.
SQUARES = 32  # along the shorter side
CHANGE = 24  # of 255
MOVING_SQUARES = 3
# Two clips of the world that the same words describe, and all the same attributes, differ by at least 5; a video file alone
# changes a clip of shapes by 2 at most.
DIFFERENT = 2.0  # of 255
# What moves is looked for in frames of 64 pixels along the shorter side: larger clips compare with smaller ones, and cost no more.
SHORTER, BLOCK, REACH = 64, 8, 6

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Verdict:
    """What one clip was found to show.

    Attributes:
        name: of the prompt and its video file.
        right: whether each thing that was asked for is there: attributes of shapes, or the scene by its name.
        noticed: what the judge saw, or missed.
        blank: every frame is nearly one colour.
        frozen: nothing moves.
        flicker: see `flicker`.
        warping_error: see `warping_error`.
    """

    name: str
    text: str
    held_out: bool
    asked: Mapping[str, str]
    right: Mapping[str, bool]
    noticed: Tree
    blank: bool
    frozen: bool
    flicker: float
    warping_error: float


@dataclass(frozen=True)
class Score:
    """How many were right, of how many that were asked for."""

    right: int
    of: int

    @property
    def share(self) -> float:
        return self.right / self.of


def examine(prompt: Prompt, clip: Clip) -> Verdict:
    """Measure one clip, of at least `MIN_FRAMES` frames."""
    judge = _shapes if prompt.asked.kind == "shapes" else _scene
    right, noticed = judge(to_video(clip.frames), prompt)
    return Verdict(
        name=prompt.name,
        text=prompt.text,
        held_out=prompt.held_out,
        asked={"kind": prompt.asked.kind, **prompt.asked.attributes},
        right=right,
        noticed=noticed,
        blank=is_uniform(clip.frames),
        frozen=is_frozen(clip.frames),
        flicker=flicker(clip.frames),
        warping_error=warping_error(clip.frames),
    )


def _shapes(video: Tensor, prompt: Prompt) -> tuple[dict[str, bool], Tree]:
    seen = judge_shapes.judge(video)
    right = judge_shapes.agreement(seen, prompt.asked)
    right[ALL_THREE] = all(right[key] for key in TOGETHER)
    return right, {"count": seen.count, **seen.attributes, "relations": sorted(seen.relations)}


def _scene(video: Tensor, prompt: Prompt) -> tuple[dict[str, bool], Tree]:
    lacks = judge_scenes.missing(video, prompt.asked.kind)
    return {ALL_SCENES: not lacks, prompt.asked.kind: not lacks}, {"missing": lacks}


def tally(verdicts: Iterable[Verdict]) -> dict[str, Score]:
    """How often each thing was right, over the prompts that ask for it."""
    found: dict[str, list[bool]] = {}
    for verdict in verdicts:
        for key, right in verdict.right.items():
            found.setdefault(key, []).append(right)
    keys = [*(key for key in ORDER if key in found), *(key for key in found if key not in ORDER)]
    return {key: Score(sum(found[key]), len(found[key])) for key in keys}


def is_frozen(frames: Frames) -> bool:
    """Whether nothing moves in (T, H, W, 3): fewer than a few small squares ever change."""
    video = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    squares = F.avg_pool2d(video, max(1, min(frames.shape[1:3]) // SQUARES))
    changes = (squares.amax(0) - squares.amin(0)).amax(0)
    return int((changes > CHANGE).sum()) < MOVING_SQUARES


def flicker(frames: Frames) -> float:
    """The mean absolute second difference in time of the frames' mean brightness, of 255: 0 where it changes evenly."""
    brightness = frames.reshape(len(frames), -1).mean(axis=1)
    return float(np.abs(np.diff(brightness, n=2)).mean())


def warping_error(frames: Frames) -> float:
    """The mean absolute difference of each frame to the one before, of 255, after every block of that has moved to where it fits.

    It is 0 of a picture that is held or moved, and large where frames do not follow from one another; what turns, grows or appears
    is a part of it. Blocks are matched one by one within `REACH` pixels, of a frame whose shorter side is `SHORTER`.
    """
    video = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    video = F.avg_pool2d(video, max(1, min(frames.shape[1:3]) // SHORTER))  # (T, 3, h, w)
    (h, w), after = video.shape[2:], video[1:]
    before = F.pad(video[:-1], [REACH] * 4, mode="replicate")
    least = torch.full((), torch.inf)
    for dy in range(2 * REACH + 1):
        for dx in range(2 * REACH + 1):
            apart = (after - before[:, :, dy : dy + h, dx : dx + w]).abs().mean(1, keepdim=True)
            least = torch.minimum(least, F.avg_pool2d(apart, BLOCK, ceil_mode=True))
    return float(least.mean())


def difference(one: Frames, other: Frames) -> float:
    """The mean absolute difference of two clips of the same size, of 255."""
    return float(np.abs(one.astype(np.int16) - other).mean())
