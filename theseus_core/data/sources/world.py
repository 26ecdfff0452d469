"""Clips of the procedural world: drawn when a training asks for them, or made once as a dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from theseus_core import world
from theseus_core.config import Config, dump
from theseus_core.data.clip import Clip
from theseus_core.data.loader import digest
from theseus_core.data.shards import Record
from theseus_core.world import Description
from theseus_core.world.shapes import RELATIONS

AT_ONCE = 4  # clips drawn together where they are made one after the other
NAME = "world"  # what a training calls this instead of the folder of a dataset


class WorldSettings(Config):
    """Which clips of the world, and how large."""

    scenes: tuple[str, ...] = Field(
        ("shapes",),
        min_length=1,
        description="groups or kinds, each as often as any other, and twice as often where named twice",
    )
    objects: int = Field(2, ge=1, le=2, description="shapes in a clip, at most")
    hold_out: tuple[str, ...] = Field((), description='what is never shown, in words: "circle moving up-right"')
    only: tuple[str, ...] = Field(
        (), description='what alone is shown, in words: "red star"; nothing named, and it is all there is'
    )
    often: tuple[str, ...] = Field((), description="what every other clip shows, in words, beside what chance shows anyway")
    seed: int = Field(0, ge=0, lt=2**63, description="another seed gives other clips")
    frames: int = Field(17, ge=17, description="T; with fewer, what spins turns too far between two frames")
    height: int = Field(128, ge=16, description="of the frames in pixels")
    width: int = Field(128, ge=16, description="of the frames in pixels")


class World:
    """The clips that settings speak of, numbered from 0 without end.

    Raises:
        TheseusError: no such scenes, or nothing in the world is what is held out, or alone shown.
    """

    def __init__(self, settings: WorldSettings) -> None:
        self.settings = settings
        self.kinds = [world.kinds_of([name]) for name in settings.scenes]
        self.hold_out = tuple(world.wanted(text) for text in settings.hold_out)
        pairs = tuple(Description("shapes", {"relation": relation}) for relation in RELATIONS)
        self.never = self.hold_out + (pairs if settings.objects == 1 else ())
        self.only = tuple(world.wanted(text) for text in settings.only)
        self.often = tuple(world.wanted(text) for text in settings.often)

    def describe(self, number: int) -> Description:
        seed = self._seed(number)
        asked = self.often if self.often and number % 2 else self.only
        named = {one.kind for one in asked}
        groups = [kinds for kinds in self.kinds if not asked or named.intersection(kinds)] or self.kinds
        return world.sample(seed, Random(f"kinds {seed}").choice(groups), self.never, asked)

    def caption(self, number: int) -> str:
        return world.caption(self.describe(number), self._seed(number))

    def render(self, numbers: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """(B, 3, T, H, W) in [-1, 1]."""
        s = self.settings
        return world.render([self.describe(number) for number in numbers], s.frames, s.height, s.width, device)

    def frames(self, numbers: Sequence[int]) -> list[NDArray[np.uint8]]:
        """(T, H, W, 3) of each, as a dataset would hold them."""
        pixels = self.render(numbers).add(1).mul(127.5).round().byte().permute(0, 2, 3, 4, 1).contiguous()
        return [clip.numpy() for clip in pixels]

    def clips(self, count: int, fps: float) -> Iterator[Clip]:
        """The first `count` clips, for a dataset."""
        for start in range(0, count, AT_ONCE):
            numbers = range(start, min(start + AT_ONCE, count))
            yield from (Clip(frames, fps, self.caption(n)) for n, frames in zip(numbers, self.frames(numbers), strict=True))

    def _seed(self, number: int) -> int:
        return (self.settings.seed << 40) + number


class Drawn(WorldSettings):
    """A world to train on: how much of it, and in how many words."""

    clips: int = Field(20_000, ge=2, description="how many different ones, whose latents are kept in the run's cache/")
    wordings: int = Field(4, ge=1, description="captions of each clip, of which every use takes one")
    fps: float = Field(8.0, gt=0, description="frames a second that they stand for")


class WorldClips:
    """The first clips of a world, in the place of a dataset on disk: a clip is drawn whenever it is read.

    Args:
        path: a folder of the training's own, for what is computed of the clips.

    Raises:
        TheseusError: no such scenes, or nothing is left of what is held out, or alone shown.
    """

    def __init__(self, settings: Drawn, path: Path) -> None:
        self.path, self.settings, self.world = path, settings, World(settings)
        self.records = [self._record(number) for number in range(settings.clips)]
        self.fingerprint = digest("world", dump(settings), [record.captions for record in self.records], self._probe())

    def __len__(self) -> int:
        return self.settings.clips

    def read(self, index: int) -> Clip:
        return Clip(self.world.frames([index])[0], self.settings.fps, self.records[index].captions[0])

    def _probe(self) -> list[float]:
        """How light a small clip of each kind is: what is computed of the clips is stale once they are drawn otherwise."""
        kinds = dict.fromkeys(kind for kinds in self.world.kinds for kind in kinds)
        small = world.render([world.sample(0, [kind]) for kind in kinds], self.settings.frames, 16, 16)
        return [round(light, 2) for light in small.mean((1, 2, 3, 4)).tolist()]

    def _record(self, number: int) -> Record:
        s, described = self.settings, self.world.describe(number)
        wordings = (world.caption(described, s.wordings * number + which) for which in range(s.wordings))
        return Record(
            key=f"{NAME} {number}",
            source=f"{NAME} {number}",
            captions=tuple(dict.fromkeys(wordings)),
            caption_from="grammar",
            frames=s.frames,
            fps=s.fps,
            width=s.width,
            height=s.height,
            chunk=0,
            index=number,
            offset=0,
            bytes=0,
        )
