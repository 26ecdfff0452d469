"""Batches of a prepared dataset, every one a pure function of (seed, step, micro-step, rank): the data position is the step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from theseus_core.contracts import Batch
from theseus_core.data.shards import Clips
from theseus_core.errors import TheseusError


@dataclass(frozen=True)
class Draw:
    """How clips are drawn into batches: shuffled anew every epoch, every clip once an epoch.

    Attributes:
        clips: places in the dataset's records.
        batch_size: clips a step, over all ranks and micro-steps.
        accumulate: micro-steps a step.
        seed: of the order.
    """

    clips: tuple[int, ...]
    batch_size: int
    accumulate: int
    seed: int

    @property
    def decided_by(self) -> tuple[object, ...]:
        """What decides it, beside the settings of the training."""
        return self.seed, self.clips

    def places(self, step: int, micro: int, rank: int, world: int) -> list[tuple[int, np.random.Generator]]:
        """The clips of one micro-step of one rank, each with the random numbers that belong to its place in the training."""
        size = self.batch_size // (self.accumulate * world)
        begin = step * self.batch_size + (micro * world + rank) * size
        return [(self._clip(place), np.random.default_rng([self.seed, 1, place])) for place in range(begin, begin + size)]

    def _clip(self, place: int) -> int:
        epoch, within = divmod(place, len(self.clips))
        return self.clips[int(_order(self.seed, epoch, len(self.clips))[within])]


@dataclass(frozen=True)
class ReplicaDraw(Draw):
    """Each rank draws from chunks of its own, one after the other; after a step all draw from all clips.

    Attributes:
        own: the chunks of each rank, each with its clips as places in the dataset's records; in an epoch of a rank each of its
            clips comes once.
        until: the step; what is drawn from it on begins a new epoch.
    """

    own: tuple[tuple[tuple[int, ...], ...], ...]
    until: int

    @property
    def decided_by(self) -> tuple[object, ...]:
        return *super().decided_by, self.own

    def places(self, step: int, micro: int, rank: int, world: int) -> list[tuple[int, np.random.Generator]]:
        if step >= self.until:
            return super().places(step - self.until, micro, rank, world)
        size = self.batch_size // (self.accumulate * world)
        begin = (step * self.accumulate + micro) * size
        return [
            (self._own_clip(rank, place), np.random.default_rng([self.seed, 2, rank, place]))
            for place in range(begin, begin + size)
        ]

    def _own_clip(self, rank: int, place: int) -> int:
        epoch, within = divmod(place, sum(map(len, self.own[rank])))
        for number, chunk in enumerate(self.own[rank]):
            if within < len(chunk):
                return chunk[int(_order(self.seed, epoch, len(chunk), rank, number)[within])]
            within -= len(chunk)
        raise AssertionError("a place of an epoch lies in one of its chunks")


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int, *chunk: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, 0, epoch, *chunk]).permutation(count)


class VideoSource:
    """Batches of pixels: a random window of every clip, in time.

    Args:
        frames: T, the length of a window.
        max_stride: windows take every frame, or every second, up to this many, where the clip is long enough.
    """

    def __init__(self, dataset: Clips, draw: Draw, frames: int, max_stride: int = 1) -> None:
        self.dataset, self.draw, self.frames, self.max_stride = dataset, draw, frames, max_stride
        self.fingerprint = digest(dataset.fingerprint, *draw.decided_by, frames, max_stride)

    def batch(self, step: int, micro: int, rank: int, world: int) -> Batch:
        """Video (B, 3, T, H, W)."""
        return Batch(video=torch.stack([self._window(*place) for place in self.draw.places(step, micro, rank, world)]))

    def _window(self, clip: int, random: np.random.Generator) -> Tensor:
        length = self.dataset.records[clip].frames
        longest = max(1, min(self.max_stride, (length - 1) // max(1, self.frames - 1)))
        stride = int(random.integers(1, longest + 1))
        start = int(random.integers(0, max(1, length - (self.frames - 1) * stride)))
        return window(self.dataset.read(clip).frames, self.frames, start, stride)


def window(frames: NDArray[np.uint8], length: int, start: int = 0, stride: int = 1) -> Tensor:
    """(T, H, W, 3) uint8 to (3, length, H, W) in [-1, 1]; a clip that is too short holds its last frame."""
    places = np.minimum(start + stride * np.arange(length), len(frames) - 1)
    return torch.from_numpy(frames[places]).permute(3, 0, 1, 2).float().div_(127.5).sub_(1)


def window_starts(frames: int, length: int, count: int) -> list[int]:
    """Up to `count` starts of windows, evenly spread over a clip; one where the clip is not longer than the window."""
    room = max(0, frames - length)
    return sorted({round(room * i / max(1, count - 1)) for i in range(count)})


def split(dataset: Clips, hold_out: float) -> tuple[list[int], list[int]]:
    """Places of the clips to train on and of those held out.

    Official splits are obeyed: "val" is held out, and "test" is in neither. Without a "val", it is a share of the sources, by a
    hash of their names: windows of one long source stay together, and a source keeps its side when the dataset grows.
    """
    free = [i for i, record in enumerate(dataset.records) if record.split in (None, "train")]
    held = [i for i, record in enumerate(dataset.records) if record.split == "val"]
    if not held:
        held = [i for i in free if _position(dataset.records[i].source) < hold_out]
    if not set(free) - set(held):  # of one clip or two: there must be something to train on
        held = []
    trained = sorted(set(free) - set(held))
    if not trained:
        raise TheseusError(f"all clips are in the official test or val split: {dataset.path}", hint="prepare some to train on, too")
    return trained, held


def _position(source: str) -> float:
    return int.from_bytes(hashlib.sha256(source.encode(errors="surrogateescape")).digest()[:6], "big") / 2**48


def common_size(dataset: Clips) -> tuple[int, int]:
    """(H, W) that all clips share, as a batch needs.

    Raises:
        TheseusError: they differ.
    """
    sizes = {(record.height, record.width) for record in dataset.records}
    if len(sizes) != 1:
        raise TheseusError(f"the clips have {len(sizes)} different sizes: {dataset.path}", hint="prepare them at one --size")
    return sizes.pop()


def digest(*parts: object) -> str:
    """A short hash of plain values."""
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]


def stack_windows(dataset: Clips, clips: Sequence[int], frames: int) -> Tensor:
    """(B, 3, T, H, W): the first window of each clip."""
    return torch.stack([window(dataset.read(clip).frames, frames) for clip in clips])
