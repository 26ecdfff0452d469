"""What is kept: the rules that a file must pass to become a clip, and the fixed codes of those that do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil
from typing import Literal, Protocol, TypeVar

import numpy as np
from pydantic import Field, model_validator

from theseus_core.config import Config
from theseus_core.data.shards import CHUNK_SIZE, Frames

Fit = Literal["crop", "letterbox", "stretch"]
Long = Literal["reject", "trim", "windows"]
Layout = Literal["auto", "folder", "captions"]
Kind = Literal["auto", "clips", "frames", "tgif", "ucf101", "kinetics", "list"]  # of a source

MAX_PIXELS = 8192 * 8192  # of one frame

REASONS = {
    "empty": "no bytes in it",
    "not_a_file": "a pipe, a device or a broken link",
    "unreadable": "cannot be opened",
    "not_video": "content of another kind",
    "no_video": "a container without pictures",
    "damaged": "the decoder reports an error",
    "too_short": "fewer frames than --min-frames",
    "too_long": "more frames than --max-frames",
    "too_large": "more pixels than any real clip",
    "duplicate": "same frames as another file",
    "no_caption": "no caption or label for it",
    "missing": "named in a table, but not there",
    "unsafe_caption": "a word of its captions, by --safety captions",
    "unsafe_frames": "by the classifier of --safety",
    "timeout": "took longer than --timeout",
    "memory": "needed more than --memory",
    "crashed": "the decoder died of it",
}


class Rejected(Exception):
    """One input file is not taken.

    Args:
        reason: a key of `REASONS`.
        detail: what exactly, for rejected.jsonl.
    """

    def __init__(self, reason: str, detail: str) -> None:
        assert reason in REASONS
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


class PrepSettings(Config):
    """What `prep` was asked for; all of it decides what the dataset holds."""

    width: int = Field(128, ge=8, le=4096, description="pixels, at most 4096")
    height: int = Field(128, ge=8, le=4096, description="pixels, at most 4096")
    fit: Fit = "crop"
    min_frames: int = Field(15, ge=1, description="at least 1")
    max_frames: int = Field(40, ge=1, description="not below min_frames")
    long: Long = "reject"
    fps: float | None = Field(None, gt=0, le=1000, description="frames a second, above 0")
    layout: Layout = "auto"
    captions: str | None = Field(None, description="a .tsv, .csv, .jsonl or .json file")
    source: Kind = "auto"
    files: str | None = Field(None, description="the folder of the files that a table names")
    splits: str | None = Field(None, description="the folder of the official lists")
    fold: int | None = Field(None, ge=1, le=3, description="1, 2 or 3: which official lists of ucf101")
    template: str | None = Field(None, description='what makes a caption of a class, such as "a video of {subject} {action}"')
    frame_rate: float | None = Field(None, gt=0, le=1000, description="frames a second of folders of frames, above 0")
    per_file: int | None = Field(None, ge=1, description="windows of one file, evenly spread")
    safety: tuple[str, ...] = Field((), description='"captions", and image classifiers by name or folder')
    unsafe_labels: tuple[str, ...] = Field((), description="labels of the classifiers")
    unsafe_threshold: float = Field(0.5, gt=0, le=1, description="above 0, at most 1")
    unsafe_frames: int = Field(4, ge=1, le=1000, description="frames of a clip that are looked at")
    limit: int | None = Field(None, ge=1, description="at least 1 file")
    seed: int = 0
    chunk_size: int = Field(CHUNK_SIZE, ge=1, le=CHUNK_SIZE, description=f"clips, at most {CHUNK_SIZE}")
    timeout: float = Field(60, gt=0, le=86_400, description="seconds for one file")
    memory: int = Field(2048, ge=64, description="MiB for one file, at least 64")

    @model_validator(mode="after")
    def _ordered(self) -> PrepSettings:
        if self.min_frames > self.max_frames:
            raise ValueError(f"min_frames {self.min_frames} is above max_frames {self.max_frames}")
        if self.per_file is not None and self.long != "windows":
            raise ValueError("per_file has no effect without windows")
        return self

    @property
    def classifiers(self) -> tuple[str, ...]:
        """What `safety` names besides the filter of captions."""
        return tuple(name for name in self.safety if name != "captions")


F = TypeVar("F", covariant=True)


class Film(Protocol[F]):
    """A decoded file.

    Attributes:
        length: (frames, seconds) where the whole file tells them before it is decoded, else None.
    """

    length: tuple[int, float] | None

    def __iter__(self) -> Iterator[tuple[F, float, float]]:
        """Frames in order of display, each with the seconds from the first frame at which it appears and disappears."""
        ...


def cut(film: Film[F], resize: Callable[[F, Frames], None], settings: PrepSettings) -> Iterator[tuple[Frames, float]]:
    """The clips of one file: (T, H, W, 3) uint8 and frames a second, one clip unless `long` is "windows".

    The array is used again for the next window: keep a copy, or be done with it.

    Args:
        resize: draws a frame of any size into (H, W, 3) uint8, see `resize.Resizer`.

    Raises:
        Rejected: too short, too long, or damaged - and then none of the clips that came before may be kept.
    """
    if film.length is not None:
        frames, seconds = film.length
        _check(frames if settings.fps is None else ticks(seconds, settings.fps), settings)
    clip = np.empty((settings.max_frames, settings.height, settings.width, 3), np.uint8)
    times: list[float] = []  # at which the frames of the clip appear
    count, found = 0, False
    for frame, appears, disappears in film:
        for repeat in range(1 if settings.fps is None else ticks(disappears, settings.fps) - ticks(appears, settings.fps)):
            if count == settings.max_frames:
                _check(count + 1, settings)
                yield clip, settings.fps or _rate(times)
                if settings.long == "trim":
                    return
                count, found, times = 0, True, []
            if repeat and count:
                clip[count] = clip[count - 1]
            else:
                resize(frame, clip[count])
            times.append(appears)
            count += 1
        del frame  # a decoder that still finds its last frame in use copies it before it goes on
    if not found:
        _check(count, settings)
    if count >= settings.min_frames:
        yield clip[:count], settings.fps or _rate(times)


def _check(frames: int, settings: PrepSettings) -> None:
    if frames < settings.min_frames:
        raise Rejected("too_short", f"{frames} frames, at least {settings.min_frames} are asked for")
    if frames > settings.max_frames and settings.long == "reject":
        raise Rejected("too_long", f"more than {settings.max_frames} frames")


def ticks(seconds: float, fps: float) -> int:
    """How many frames of a steady rate appear before this time; a sixteenth of one forgives timestamps in whole milliseconds."""
    return max(0, ceil(seconds * fps - 1 / 16))


def _rate(times: list[float]) -> float:
    """The mean rate up to the last frame, which many GIFs hold for seconds before they start again."""
    seconds = times[-1] - times[0]
    return round((len(times) - 1) / seconds, 4) if seconds > 0 else 10.0  # a still: the speed of a GIF without delays
