"""A prepared dataset on disk: what `theseus prep` and `theseus synth` write, and the one way to read it.

    dataset.json     format version, settings, counts, total frames, fingerprint; written last, so it marks a finished dataset
    clips.jsonl      a `Record` a line
    rejected.jsonl   a line per rejected file: source, reason, detail
    chunks/          00000.zst ...: one zstd frame per clip, end to end

A clip is stored as its first frame and the wrapped difference of every later frame to the one before it, at zstd level 1: exact,
about half the size of the raw frames, and still a valid `.zst` file. A clip is read by its place, never by its chunk.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from shlex import quote
from typing import Any, Protocol, Self

import numpy as np
import zstandard
from numpy.typing import NDArray

from theseus_core.config import Tree
from theseus_core.data.clip import Clip
from theseus_core.errors import TheseusError
from theseus_core.files import read_lines

FORMAT = 1
CHUNK_SIZE = 10_000  # clips in a chunk, at most

Frames = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Record:
    """A line of clips.jsonl: a clip and where it lies.

    Attributes:
        key: hash of the frames' shape and bytes; two clips of one dataset never share it.
        source: the file it came from, relative to the folder given to `prep`.
        captions: at least one.
        caption_from: "sidecar", "table", "class" or "name".
        frames, width, height: T, W, H.
        chunk, index: the number of the chunk, and the clip's number within it.
        offset, bytes: where its zstd frame begins in the chunk, and how long it is.
        split: "train", "val" or "test" where the source's official lists say so; all windows of one file share it.
    """

    key: str
    source: str
    captions: tuple[str, ...]
    caption_from: str
    frames: int
    fps: float
    width: int
    height: int
    chunk: int
    index: int
    offset: int
    bytes: int
    split: str | None = None

    def to_json(self) -> str:
        tree = {name: value for name, value in asdict(self).items() if name != "split" or value is not None}
        return json.dumps(tree, ensure_ascii=False)

    @classmethod
    def from_tree(cls, tree: Tree) -> Self:
        """The record of a parsed line; KeyError where a field is missing."""
        values = {field.name: tree[field.name] for field in fields(cls) if field.name != "split"}
        return cls(**values | {"captions": tuple(tree["captions"]), "split": tree.get("split")})


def content_key(frames: Frames) -> str:
    """The hash that names a clip: of its shape and its bytes, (T, H, W, 3) uint8."""
    digest = hashlib.sha256(str(frames.shape).encode())
    digest.update(np.ascontiguousarray(frames).data)
    return digest.hexdigest()


def encode_frames(frames: Frames) -> bytes:
    """(T, H, W, 3) uint8 to one zstd frame with a checksum."""
    delta = np.array(frames, dtype=np.uint8, order="C")
    delta[1:] -= frames[:-1]  # wraps around, and so does the way back
    return zstandard.ZstdCompressor(level=1, write_checksum=True).compress(delta.data)


def decode_frames(data: bytes, frames: int, height: int, width: int) -> Frames:
    """What `encode_frames` was given: (T, H, W, 3) uint8.

    Raises:
        ValueError: the bytes are damaged, or hold a clip of another size.
    """
    size = frames * height * width * 3
    try:
        if zstandard.get_frame_parameters(data).content_size != size:  # before a damaged header asks for gigabytes
            raise ValueError("the clip has another size")
        delta = np.frombuffer(zstandard.ZstdDecompressor().decompress(data), np.uint8)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error
    return np.add.accumulate(delta.reshape(frames, height, width, 3), axis=0, dtype=np.uint8)


def fingerprint(records: Iterable[Record]) -> str:
    """One hash for a dataset: of what its clips show and what they are called, in order."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps([record.key, record.captions]).encode())
    return digest.hexdigest()


def chunk_path(folder: Path, chunk: int) -> Path:
    return folder / "chunks" / f"{chunk:05d}.zst"


class Clips(Protocol):
    """What a training reads: a `Dataset` on disk, or clips that are drawn as they are asked for.

    Attributes:
        path: a folder for what is computed of the clips.
        fingerprint: of what the clips show and what they are called.
        records: one per clip, at least one.
    """

    path: Path
    fingerprint: str
    records: list[Record]

    def __len__(self) -> int: ...

    def read(self, index: int) -> Clip:
        """The clip of `records[index]`, with the first of its captions. Threads may call it at the same time."""
        ...


class Dataset:
    """A prepared dataset, opened for reading; it holds no file open, so threads and processes may share it.

    Attributes:
        path: its folder.
        settings: what it was prepared with.
        fingerprint: see `fingerprint`.
        records: one per clip, in the order of the sources.
    """

    def __init__(self, path: Path, described: Tree, records: Sequence[Record]) -> None:
        self.path = path
        self.described = described
        self.settings: Tree = described["settings"]
        self.fingerprint: str = described["fingerprint"]
        self.records = list(records)

    @classmethod
    def open(cls, path: str | Path) -> Dataset:
        """Read the descriptions of a prepared dataset; the clips stay where they are.

        Raises:
            TheseusError: there is none, it was not finished, it is damaged, or it is of another format.
        """
        path = Path(path)
        described = read_description(path)
        try:
            records = [Record.from_tree(json.loads(line)) for line in read_lines(path / "clips.jsonl")]
            dataset = cls(path, described, records)
        except OSError as error:
            raise TheseusError(f"damaged dataset, cannot read: {path / 'clips.jsonl'}", hint=_again(path)) from error
        except (ValueError, KeyError, TypeError) as error:
            raise TheseusError(f"damaged dataset: {path}", hint=_again(path)) from error
        if fingerprint(records) != dataset.fingerprint:
            raise TheseusError(f"clips.jsonl does not fit dataset.json: {path}", hint=_again(path))
        return dataset

    def __len__(self) -> int:
        return len(self.records)

    def read(self, index: int) -> Clip:
        """The clip of `records[index]`, with the first of its captions.

        Raises:
            TheseusError: its bytes are missing or damaged.
        """
        record = self.records[index]
        path = chunk_path(self.path, record.chunk)
        try:
            with path.open("rb") as file:
                file.seek(record.offset)
                data = file.read(record.bytes)
            frames = decode_frames(data, record.frames, record.height, record.width)
        except (OSError, ValueError) as error:
            raise TheseusError(f"damaged clip {index} ({record.source}) in: {path}", hint=_again(self.path)) from error
        return Clip(frames, record.fps, record.captions[0])


def read_description(path: Path) -> Tree:
    """dataset.json of a finished dataset.

    Raises:
        TheseusError: as for `Dataset.open`.
    """
    file = path / "dataset.json"
    try:
        described: Any = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise TheseusError(f"no prepared dataset at: {path}", hint=f"theseus prep FOLDER -o {quote(str(path))}") from error
    except ValueError as error:
        raise TheseusError(f"damaged dataset: {file}", hint=_again(path)) from error
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        found = described.get("format") if isinstance(described, dict) else None
        raise TheseusError(f"the dataset at {path} has another format than {FORMAT}: {found}", hint=_again(path))
    return described


def _again(path: Path) -> str:
    return f"remove it and prepare it again: rm -r {quote(str(path))} && theseus prep FOLDER -o {quote(str(path))}"
