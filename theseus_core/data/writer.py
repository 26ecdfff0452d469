"""Writing a prepared dataset: clips appended to chunks, and the moment at which all of it becomes a dataset."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from types import TracebackType
from typing import BinaryIO

from theseus_core.config import Tree
from theseus_core.data.clip import Clip
from theseus_core.data.shards import CHUNK_SIZE, FORMAT, Dataset, Record, chunk_path, content_key, encode_frames, fingerprint
from theseus_core.errors import TheseusError
from theseus_core.files import remove, replacing, write_json

JOURNAL = "journal.jsonl"  # in there, of a dataset that `prep` makes
PARTIAL = ".partial"  # the folder inside the output that holds all that is not finished


@dataclass(frozen=True, slots=True)
class Place:
    """Where a clip lies: chunk, number within it, first byte."""

    chunk: int = 0
    index: int = 0
    offset: int = 0

    def settled(self, chunk_size: int) -> Place:
        """Here, or at the start of the next chunk where this one is full."""
        return Place(self.chunk + 1) if self.index == chunk_size else self

    def after(self, size: int) -> Place:
        """Behind a clip of `size` bytes that lies here."""
        return Place(self.chunk, self.index + 1, self.offset + size)


class ChunkWriter(AbstractContextManager["ChunkWriter"]):
    """Appends encoded clips to `folder/chunks/`, a new file every `chunk_size` clips.

    Args:
        start: go on at this place; whatever lies behind it was never recorded and is cut off.
    """

    def __init__(self, folder: Path, chunk_size: int = CHUNK_SIZE, start: Place | None = None) -> None:
        self.folder, self.chunk_size = folder, chunk_size
        self.place = start or Place()
        self._file: BinaryIO | None = None
        (folder / "chunks").mkdir(parents=True, exist_ok=True)
        for path in (folder / "chunks").glob("*.zst"):
            if int(path.stem) > self.place.chunk or (self.place.offset == 0 and int(path.stem) == self.place.chunk):
                path.unlink()

    def append(self, data: bytes) -> Place:
        """Write one encoded clip and say where it lies."""
        place = self.place.settled(self.chunk_size)
        if place.chunk != self.place.chunk:
            self._close()
        self.place = place
        if self._file is None:
            self._file = self._open()
        self._file.write(data)
        self.place = place.after(len(data))
        return place

    def sync(self) -> None:
        """Have all that was appended on the disk."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def _open(self) -> BinaryIO:
        file = open(chunk_path(self.folder, self.place.chunk), "ab")  # noqa: SIM115 - closed by _close
        if file.tell() < self.place.offset:
            raise TheseusError(
                f"an unfinished dataset lost bytes: {file.name}", hint=f"start anew: rm -r {quote(str(self.folder))}"
            )
        file.truncate(self.place.offset)
        return file

    def _close(self) -> None:
        if self._file is not None:
            self.sync()
            self._file.close()
            self._file = None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()


@contextmanager
def writing(output: Path) -> Iterator[None]:
    """What the disk refuses inside the block is an error that the user can mend."""
    try:
        yield
    except OSError as error:
        raise cannot_write(output, error.strerror or str(error)) from error


def cannot_write(output: Path, why: str) -> TheseusError:
    return TheseusError(f"cannot write to: {output}", hint=f"{why}; mend that and start the same command again, or give another -o")


def check_output(output: Path) -> None:
    """Refuse a folder that holds something else than a dataset, or a part of one.

    Raises:
        TheseusError: naming it.
    """
    if not output.exists():
        return
    if not output.is_dir():
        raise TheseusError(f"not a folder: {output}", hint="name another with -o")
    begun = (output / PARTIAL).exists() or (output / "dataset.json").exists()
    if not begun and {path.name for path in output.iterdir()} - {"rejected.jsonl"}:
        raise TheseusError(f"the output folder holds something else than a dataset: {output}", hint="name another with -o")


def publish(output: Path, records: Sequence[Record], rejected: Sequence[Tree], described: Tree) -> None:
    """Turn `output/.partial/` into a finished dataset; may be interrupted anywhere and called again.

    dataset.json comes last: without it there is no dataset, with it there is a whole one.

    Args:
        described: settings and counts; format, totals and fingerprint are added.
    """
    partial = output / PARTIAL
    _write_lines(output / "clips.jsonl", [record.to_json() for record in records])
    write_rejected(output, rejected)
    for name in ("chunks", "contact_sheet.png"):
        if (partial / name).exists():
            remove(output / name)
            os.replace(partial / name, output / name)
    totals = {"clips": len(records), "frames": sum(r.frames for r in records), "bytes": sum(r.bytes for r in records)}
    whole = {"format": FORMAT, **described, **totals, "fingerprint": fingerprint(records)}
    write_json(output / "dataset.json", whole)
    shutil.rmtree(partial, ignore_errors=True)  # the last worker of a killed run may still be writing there


def take_back(output: Path) -> None:
    """Undo a `publish` that was interrupted before it wrote dataset.json, so that work can go on in `output/.partial/`."""
    chunks = output / PARTIAL / "chunks"
    if (output / "chunks").exists() and not chunks.exists():
        chunks.parent.mkdir(exist_ok=True)
        os.replace(output / "chunks", chunks)


def write_rejected(output: Path, rejected: Sequence[Tree]) -> None:
    _write_lines(output / "rejected.jsonl", [json.dumps(entry, ensure_ascii=False) for entry in rejected])


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    with replacing(path) as part:
        part.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def check_new(output: Path) -> None:
    """Refuse a folder that holds a dataset, one that `prep` has begun, or something else.

    Raises:
        TheseusError: naming it.
    """
    check_output(output)
    if (output / "dataset.json").exists():
        raise TheseusError(f"there is a dataset already: {output}", hint="name another folder with -o")
    if (output / PARTIAL / JOURNAL).exists():
        raise TheseusError(f"there is a dataset that `theseus prep` has begun: {output}", hint="name another folder with -o")


def write_dataset(output: str | Path, clips: Iterable[Clip], settings: Tree, chunk_size: int = CHUNK_SIZE) -> Dataset:
    """Write clips that were made, not found, as a prepared dataset; a clip seen before is left out.

    Args:
        clips: each with its caption; they are taken one at a time.
        settings: what they were made with, for dataset.json.

    Raises:
        TheseusError: see `check_new`; there are no clips, or the disk cannot be written.
    """
    output = Path(output)
    with writing(output):
        check_new(output)
        remove(output / PARTIAL)
        records = _write_clips(output, clips, chunk_size)
        if not records:
            raise TheseusError(f"no clips to write to: {output}")
        publish(output, records, [], {"settings": settings})
    return Dataset.open(output)


def _write_clips(output: Path, clips: Iterable[Clip], chunk_size: int) -> list[Record]:
    records: dict[str, Record] = {}
    with ChunkWriter(output / PARTIAL, chunk_size) as writer:
        for number, clip in enumerate(clips):
            key = content_key(clip.frames)
            if key not in records:
                data = encode_frames(clip.frames)
                place = writer.append(data)
                frames, height, width, _ = clip.frames.shape
                named = (key, f"{number:06d}", (clip.caption,), "table", frames, clip.fps, width, height)
                records[key] = Record(*named, place.chunk, place.index, place.offset, len(data))
    return list(records.values())
