"""A prepared dataset as files again: one FFV1 video per clip, which is lossless, and its captions in a .txt beside it.

`prep` reads the folder back to the same frames and captions.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path, PurePosixPath

import av

from theseus_core.data.clip import Clip
from theseus_core.data.shards import Dataset, Record
from theseus_core.errors import TheseusError
from theseus_core.files import replacing


def export(dataset: Dataset, folder: Path, progress: Callable[[int, int], None] | None = None) -> Path:
    """Write every clip of the dataset into a new folder, which appears when it is whole.

    Raises:
        TheseusError: the folder is there already and holds something, a clip is damaged, or the disk is full.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise TheseusError(f"there is something already: {folder}", hint="name a new folder with --export")
    with replacing(folder) as part:
        part.mkdir()
        for number, record in enumerate(dataset.records):
            name = part / f"{number:06d}-{_stem(record)}.mkv"
            _write(dataset.read(number), name)
            name.with_suffix(".txt").write_text("".join(caption + "\n" for caption in record.captions), encoding="utf-8")
            if progress is not None:
                progress(number + 1, len(dataset))
    return folder


def _stem(record: Record) -> str:
    return PurePosixPath(record.source).stem.replace(".", "_")[:100]


def _write(clip: Clip, path: Path) -> None:
    rate = Fraction(clip.fps).limit_denominator(1001)
    with av.open(f"file:{path.absolute()}", "w", format="matroska", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("ffv1", rate=rate, options={"threads": "1"})
        stream.height, stream.width = clip.frames.shape[1:3]
        stream.pix_fmt = "bgr0"  # FFV1's own RGB: no colour is converted
        for frame in clip.frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="bgr0", threads=1)))
        container.mux(stream.encode())
