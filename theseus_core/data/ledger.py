"""The account of an unfinished dataset: what became of each file so far, kept in a journal that outlives the process.

The journal is a text file of JSON lines. The first says what is being prepared, each further one what a worker answered about the
next file. A line is written after the clips it speaks of are on the disk, so what lies in the chunks beyond the last whole line
was never accounted for, and is cut off when the ledger is opened again.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from types import TracebackType
from typing import BinaryIO

from theseus_core.config import Tree
from theseus_core.data.shards import Record
from theseus_core.data.sources.splits import stricter
from theseus_core.data.writer import JOURNAL, ChunkWriter, Place, cannot_write
from theseus_core.errors import TheseusError
from theseus_core.files import printable

SYNC_SECONDS = 1.0  # the most work that a kill can cost


@dataclass(frozen=True, slots=True)
class Source:
    """A file to prepare, with the captions that belong to it.

    Attributes:
        problem: reason and detail where it is rejected unopened.
        split: see `Record`.
    """

    path: Path
    name: str
    size: int
    captions: tuple[str, ...]
    caption_from: str
    problem: tuple[str, str] | None
    split: str | None = None


class Ledger(AbstractContextManager["Ledger"]):
    """Takes what became of each file, in order; see `open`.

    Attributes:
        folder: where journal and chunks are.
        done: how many of `files` are accounted for.
        kept: how many of those gave at least one clip.
        rejected: lines of rejected.jsonl.
    """

    def __init__(self, folder: Path, files: Sequence[Source], chunk_size: int, journal: BinaryIO) -> None:
        self.folder, self.files = folder, files
        self.done = self.kept = 0
        self.rejected: list[Tree] = []
        self._records: dict[str, Record] = {}
        self._place = Place()
        self._chunk_size = chunk_size
        self._journal = journal
        self._unwritten: list[str] = []
        self._written = time.monotonic()
        self._chunks: ChunkWriter | None = None  # opened where the accounts end

    @classmethod
    def open(cls, folder: Path, described: Tree, chunk_size: int, files: Sequence[Source], journal: BinaryIO) -> Ledger:
        """Begin, or go on where the journal in `folder` ends.

        Args:
            journal: as `open_journal` gives it.

        Raises:
            TheseusError: the journal there is of other settings or files.
            OSError: there can be no such folder.
        """
        first, *lines = _whole_lines(journal) or [b""]
        if first and json.loads(first) != described:
            hint = f"name another with -o, or start anew: rm -r {quote(str(folder))}"
            raise TheseusError(f"there is an unfinished dataset with other settings or files: {folder.parent}", hint=hint)
        ledger = cls(folder, files, chunk_size, journal)
        for line in lines:
            ledger._account(json.loads(line))
        ledger._chunks = ChunkWriter(folder, chunk_size, ledger._place)
        if not first:
            ledger._unwritten.append(json.dumps(described))
            ledger._write()
        return ledger

    @property
    def records(self) -> list[Record]:
        return list(self._records.values())

    def enter(self, answer: Tree, spool: Path) -> None:
        """Account for the next file.

        Args:
            answer: see `worker.convert`.
            spool: where the worker left the encoded clips.

        Raises:
            OSError, TheseusError: the disk cannot be written, by us or by the worker.
        """
        if "disk" in answer:
            raise cannot_write(self.folder.parent, answer["disk"])
        new = self._account(answer)
        self._append(answer.get("clips", []), new, spool)
        self._unwritten.append(json.dumps(answer))
        if time.monotonic() - self._written > SYNC_SECONDS:
            self._write()

    def _append(self, clips: Sequence[Tree], new: Sequence[bool], spool: Path) -> None:
        assert self._chunks is not None
        if not any(new):
            return
        with spool.open("rb") as encoded:
            for clip, is_new in zip(clips, new, strict=True):
                data = encoded.read(clip["bytes"])
                assert len(data) == clip["bytes"], "the worker wrote what it says"
                if is_new:
                    self._chunks.append(data)

    def _account(self, answer: Tree) -> list[bool]:
        """Take an answer into the account; which of its clips are new."""
        file = self.files[self.done]
        self.done += 1
        if "reason" in answer:
            self._reject(file, answer["reason"], answer["detail"])
            return []
        first = {clip["key"]: self._records[clip["key"]].source for clip in answer["clips"] if clip["key"] in self._records}
        new = [self._take(file, clip) for clip in answer["clips"]]
        if any(new):
            self.kept += 1
        else:
            self._reject(file, "duplicate", f"the same frames as {first[answer['clips'][0]['key']]}")
        return new

    def _reject(self, file: Source, reason: str, detail: str) -> None:
        self.rejected.append({"source": file.name, "reason": reason, "detail": printable(detail)})

    def _take(self, file: Source, clip: Tree) -> bool:
        known = self._records.get(clip["key"])
        if known is not None:
            self._records[clip["key"]] = replace(_with_captions(known, file), split=stricter(known.split, file.split))
            return False
        place = self._place.settled(self._chunk_size)
        self._records[clip["key"]] = Record(
            captions=file.captions,
            source=file.name,
            caption_from=file.caption_from,
            chunk=place.chunk,
            index=place.index,
            offset=place.offset,
            split=file.split,
            **clip,
        )
        self._place = place.after(clip["bytes"])
        return True

    def _write(self) -> None:
        assert self._chunks is not None
        self._chunks.sync()
        lines, self._unwritten = self._unwritten, []  # first of all: interrupted from here on, nothing is written twice
        self._journal.write("".join(line + "\n" for line in lines).encode())
        self._journal.flush()
        os.fsync(self._journal.fileno())
        self._written = time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if not isinstance(error, Exception):  # all is well, or Ctrl-C; after a failed write nothing may be written twice
                self._write()
        finally:
            assert self._chunks is not None
            with suppress(OSError) if error is not None else nullcontext():
                self._chunks.__exit__(kind, error, trace)


def open_journal(folder: Path) -> BinaryIO:
    """The journal in a folder, which no other process then gets until it is closed.

    Raises:
        TheseusError: another process has it.
        OSError: there can be no such folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    journal = open(folder / JOURNAL, "a+b")  # noqa: SIM115 - the lock is held as long as it is open
    try:
        fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        journal.close()
        raise TheseusError(f"another process is preparing this dataset: {folder.parent}") from error
    return journal


def _whole_lines(journal: BinaryIO) -> list[bytes]:
    """The lines that were written to their end; a torn last one is cut off."""
    journal.seek(0)
    text = journal.read()
    whole = text.rfind(b"\n") + 1
    journal.truncate(whole)
    return text[:whole].splitlines()


def _with_captions(record: Record, file: Source) -> Record:
    """A clip that was found again: real captions are joined, and take the place of one made from a file's name."""
    if file.caption_from == "name" or set(file.captions) <= set(record.captions):
        return record
    if record.caption_from == "name":
        return replace(record, captions=file.captions, caption_from=file.caption_from)
    return replace(record, captions=tuple(dict.fromkeys(record.captions + file.captions)))
