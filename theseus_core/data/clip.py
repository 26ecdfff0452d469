"""A clip: the one currency of decoding, the dataset, generation and rendering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


@dataclass(frozen=True)
class Clip:
    """Frames with their rate and caption.

    Attributes:
        frames: (T, H, W, 3) uint8.
        fps: frames a second.
        caption: what the clip shows, or the prompt it was made from.
    """

    frames: NDArray[np.uint8]
    fps: float
    caption: str = ""

    @property
    def seconds(self) -> float:
        return len(self.frames) / self.fps

    def save(self, path: str | Path) -> Path:
        """Write a `.mp4 .gif .webm .avi`, or a folder of PNGs where the name has no ending; see `render.video.write`."""
        from theseus_core.render.video import write  # a convenience at the end of the line, not a dependency of the data

        return write(self, Path(path))


def spread(clips: Sequence[T], most: int) -> list[T]:
    """At most so many of the clips, or of what stands for them, evenly spread."""
    return [clips[index * len(clips) // most] for index in range(most)] if len(clips) > most else list(clips)
