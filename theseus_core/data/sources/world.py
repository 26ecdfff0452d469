"""Clips of the procedural world: drawn while a training asks for them, or made once as a dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random

import torch
from pydantic import Field
from torch import Tensor

from theseus_core import world
from theseus_core.config import Config, dump
from theseus_core.contracts import Batch, Text
from theseus_core.data.clip import Clip
from theseus_core.data.loader import digest
from theseus_core.world import Description

AT_ONCE = 4  # clips drawn together where they are made one after the other
PROBE = 100  # captions that stand for the world in a fingerprint: another grammar, or other chances, make other ones


class WorldSettings(Config):
    """Which clips of the world, and how large."""

    scenes: tuple[str, ...] = Field(("shapes",), min_length=1, description="groups or kinds, each kind as often as any other")
    hold_out: tuple[str, ...] = Field((), description='what is never shown, in words: "circle moving up-right"')
    seed: int = Field(0, ge=0, lt=2**63, description="another seed gives other clips")
    frames: int = Field(17, ge=17, description="T; with fewer, what spins turns too far between two frames")
    height: int = Field(128, ge=16, description="of the frames in pixels")
    width: int = Field(128, ge=16, description="of the frames in pixels")


class World:
    """The clips that settings speak of, numbered from 0 without end.

    Raises:
        TheseusError: no such scenes, or nothing in the world is what is held out.
    """

    def __init__(self, settings: WorldSettings) -> None:
        self.settings = settings
        self.kinds = world.kinds_of(settings.scenes)
        self.hold_out = tuple(world.wanted(text) for text in settings.hold_out)

    def describe(self, number: int) -> Description:
        return world.sample(self._seed(number), self.kinds, self.hold_out)

    def caption(self, number: int) -> str:
        return world.caption(self.describe(number), self._seed(number))

    def render(self, numbers: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """(B, 3, T, H, W) in [-1, 1]."""
        s = self.settings
        return world.render([self.describe(number) for number in numbers], s.frames, s.height, s.width, device)

    def clips(self, count: int, fps: float) -> Iterator[Clip]:
        """The first `count` clips, for a dataset."""
        for start in range(0, count, AT_ONCE):
            numbers = range(start, min(start + AT_ONCE, count))
            frames = self.render(numbers).add(1).mul(127.5).round().byte().permute(0, 2, 3, 4, 1).contiguous()
            yield from (Clip(frames[i].numpy(), fps, self.caption(number)) for i, number in enumerate(numbers))

    def _seed(self, number: int) -> int:
        return (self.settings.seed << 40) + number


class WorldSource:
    """Batches that no training sees twice: every clip is drawn for its place in the training.

    Args:
        batch_size: clips a step, over all ranks and micro-steps.
        accumulate: micro-steps a step.
        words: captions to text, as a text encoder's `tokenize` does; None for a tokenizer, which needs none.
        words_fingerprint: of what `words` gives.
        caption_dropout: the share of captions replaced by "", which classifier-free guidance needs.
        device: where the clips are drawn, and stay.
    """

    def __init__(
        self,
        settings: WorldSettings,
        batch_size: int,
        accumulate: int = 1,
        words: Callable[[Sequence[str]], Text] | None = None,
        words_fingerprint: str = "",
        caption_dropout: float = 0.0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.world, self.batch_size, self.accumulate = World(settings), batch_size, accumulate
        self.words, self.caption_dropout, self.device = words, caption_dropout, device
        probe = [self.world.caption(number) for number in range(PROBE)]
        self.fingerprint = digest(dump(settings), probe, words_fingerprint, caption_dropout)

    def batch(self, step: int, micro: int, rank: int, world: int) -> Batch:
        """Video (B, 3, T, H, W), its captions, and their text where there are `words`."""
        size = self.batch_size // (self.accumulate * world)
        first = step * self.batch_size + (micro * world + rank) * size
        numbers = range(first, first + size)
        captions = [self._caption(number) for number in numbers]
        text = self.words(captions) if self.words else None
        return Batch(video=self.world.render(numbers, self.device), text=text, captions=captions)

    def _caption(self, number: int) -> str:
        dropped = Random(f"dropped {self.world.settings.seed} {number}").random() < self.caption_dropout
        return "" if dropped else self.world.caption(number)
