"""From files and folders of clips to a prepared dataset: the whole of `theseus prep`.

    gather -> captions -> worker processes -> safety -> ledger (journal, chunks) -> publish

A journal line is written for each file once its clips are on the disk. Everything in a dataset is a function of the journal and of
the files found, so a run that was killed at any moment goes on where its journal ends, and comes to the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from theseus_core.config import Tree, dump
from theseus_core.data.clip import Clip, spread
from theseus_core.data.filters import PrepSettings
from theseus_core.data.ledger import Ledger, Source, open_journal
from theseus_core.data.pool import Job, Pool
from theseus_core.data.safety import Inspect, open_classifiers, unsafe_words
from theseus_core.data.shards import Dataset, decode_frames, read_description
from theseus_core.data.sources.folders import Found, caption_from_name
from theseus_core.data.sources.gather import Gathered, gather
from theseus_core.data.sources.tables import NAMES, match, read_table
from theseus_core.data.writer import PARTIAL, check_output, publish, take_back, write_rejected, writing
from theseus_core.errors import TheseusError
from theseus_core.files import remove

SHEET_CLIPS = 48
Progress = Callable[[int, int], None]  # (done, total), as in the contracts, which would bring torch along
DrawSheet = Callable[[Sequence[Clip], Path], Any]


@dataclass(frozen=True)
class Summary:
    """What became of the files.

    Attributes:
        path: the dataset.
        found, kept: files; found = kept + the sum of rejected, and files that a table names in vain are found, and rejected.
        rejected: files by reason, see `filters.REASONS`.
        clips, frames, bytes: what the dataset holds; a file may give several clips.
        captions: clips by where their captions come from: "sidecar", "table", "class" or "name".
        captions_without_file: rows of captions files that fit no file.
        splits: clips by official split, where there are any.
        kinds: what the sources were taken for.
        notes: what was found in them that is worth saying, a line each.
        finished_before: there was nothing to do.
    """

    path: Path
    found: int
    kept: int
    rejected: dict[str, int]
    clips: int
    frames: int
    bytes: int
    captions: dict[str, int]
    captions_without_file: int
    splits: dict[str, int]
    kinds: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    finished_before: bool = False


def prepare(
    sources: Sequence[Path],
    output: Path,
    settings: PrepSettings,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    draw_sheet: DrawSheet | None = None,
) -> Summary:
    """Prepare a dataset, or go on with one that was interrupted.

    Args:
        sources: files, folders and tables; see `sources.gather`.
        progress: called with files done and files in all.
        draw_sheet: draws evenly chosen clips as a picture, into the file named.

    Raises:
        TheseusError: no clips, or none that can be kept (`rejected.jsonl` says why); a captions file, a table or a classifier that
            cannot be used; an output that holds something else, or a dataset with other settings or of other files, or that cannot
            be written.
    """
    with writing(output):
        check_output(output)
    gathered = gather(sources, settings, leave_out=output)
    described, files, table_rows_left = _describe(sources, settings, gathered)
    if (output / "dataset.json").exists():
        summary = _finished(output, described)
    else:
        inspect = open_classifiers(settings)
        with writing(output), open_journal(output / PARTIAL) as journal:
            if (output / "dataset.json").exists():  # another process has finished it meanwhile
                summary = _finished(output, described)
            else:
                take_back(output)
                with Ledger.open(output / PARTIAL, described, settings.chunk_size, files, journal) as ledger:
                    for answer, spool in _answers(ledger, settings, workers):
                        ledger.enter(_inspected(answer, spool, inspect), spool)
                        if progress is not None:
                            progress(ledger.done, len(files))
                    assert ledger.done == len(files)
                summary = _finish(output, described, ledger, table_rows_left, draw_sheet)
    return replace(summary, kinds=tuple(gathered.kinds), notes=tuple(gathered.notes))


def _describe(sources: Sequence[Path], settings: PrepSettings, gathered: Gathered) -> tuple[Tree, list[Source], int]:
    """Settings and a hash of the input, the files with their captions, and how many rows of captions fit no file."""
    found = gathered.files
    plain = [source for source, kind in zip(sources, gathered.kinds, strict=True) if kind in ("clips", "frames")]
    captions, left = _table_captions(plain, settings, found)
    files = [_source(file, captions.get(file.name), settings) for file in found]
    chosen = limited(len(files), settings)
    files = [file for number, file in enumerate(files) if number in chosen]
    digest = hashlib.sha256()
    for file in files:
        told = [file.name, file.size, file.captions, file.caption_from] + ([file.split] if file.split else [])
        digest.update(json.dumps(told).encode())
    paths = ("captions", "files", "splits")  # may be moved between two starts
    named = dump(settings) | {key: (path := getattr(settings, key)) and Path(path).name for key in paths}
    return {"settings": named, "input": digest.hexdigest()}, files, left


def limited(count: int, settings: PrepSettings) -> set[int]:
    """Which of so many files are taken: all, unless there is a limit."""
    if settings.limit is None or settings.limit >= count:
        return set(range(count))
    return set(random.Random(settings.seed).sample(range(count), settings.limit))


def _table_captions(sources: Sequence[Path], settings: PrepSettings, found: list[Found]) -> tuple[dict[str, tuple[str, ...]], int]:
    if settings.captions is not None:
        tables = [Path(settings.captions)]
    elif settings.layout == "folder":
        tables = []
    else:
        tables = [path for source in sources if source.is_dir() for name in NAMES if (path := source / name).is_file()]
    if settings.layout == "captions" and not tables:
        raise TheseusError("no captions file in the sources", hint=f"name one with --captions, or call it {', '.join(NAMES)}")
    captions: dict[str, tuple[str, ...]] = {}
    left = 0
    for table in tables:
        rows = read_table(table)
        matched, missing = match(table, rows, found)
        if not matched and settings.captions is not None:
            hint = "a line names a file by its path relative to the captions file, or by its bare name"
            raise TheseusError(f"none of its {len(rows)} lines names a file of the sources: {table}", hint=hint)
        left += missing
        for name, texts in matched.items():
            captions[name] = tuple(dict.fromkeys(captions.get(name, ()) + texts))
    return captions, left


def _source(file: Found, from_table: tuple[str, ...] | None, settings: PrepSettings) -> Source:
    """The file with its captions: from a table that was asked for, else a sidecar, else a table that lies there, else its name."""
    asked = settings.captions is not None or settings.layout == "captions"
    if from_table and (asked or not file.captions):
        captions, origin = from_table, "table"
    elif file.captions and settings.layout != "captions":
        captions, origin = file.captions, file.caption_from
    else:
        captions, origin = (caption_from_name(file.name),), "name"
    problem = file.problem
    if problem is None and origin == "name" and settings.layout == "captions":
        problem = ("no_caption", "the captions file does not name it")
    if problem is None and "captions" in settings.safety and (said := unsafe_words(captions)):
        problem = ("unsafe_caption", said)
    return Source(file.path, file.name, file.size, captions, origin, problem, file.split)


def _answers(ledger: Ledger, settings: PrepSettings, workers: int) -> Iterator[tuple[Tree, Path]]:
    """What the workers make of every file that the ledger does not have yet, in order."""
    with tempfile.TemporaryDirectory(prefix="spool-", dir=ledger.folder) as folder:  # never one that an orphan still writes to
        spools = [Path(folder) / str(number) for number in range(ledger.done, len(ledger.files))]
        todo = list(zip(ledger.files[ledger.done :], spools, strict=True))
        jobs = (Job(file.path, spool) for file, spool in todo if file.problem is None)
        with Pool(min(workers, max(1, len(todo))), settings) as pool:
            converted = pool.run(jobs)
            for file, spool in todo:
                if file.problem is None:
                    yield next(converted), spool
                else:
                    yield {"reason": file.problem[0], "detail": file.problem[1]}, spool
                spool.unlink(missing_ok=True)


def _inspected(answer: Tree, spool: Path, inspect: Inspect | None) -> Tree:
    """The answer of a worker, or the refusal of all its clips because of one of them."""
    if inspect is None or not answer.get("clips"):
        return answer
    with spool.open("rb") as encoded:
        for clip in answer["clips"]:
            frames = decode_frames(encoded.read(clip["bytes"]), clip["frames"], clip["height"], clip["width"])
            if why := inspect(frames):
                return {"reason": "unsafe_frames", "detail": why}
    return answer


def _finished(output: Path, described: Tree) -> Summary:
    there = read_description(output)
    before = there["settings"]
    if before.keys() <= PrepSettings.model_fields.keys():  # of this command, perhaps of a version that had fewer settings
        before = dump(PrepSettings()) | before
    if before != described["settings"]:
        changed = [key for key, value in described["settings"].items() if before.get(key) != value]
        raise TheseusError(f"there is a dataset with other settings ({', '.join(changed)}): {output}", hint="name another with -o")
    if there.get("input") != described["input"]:
        raise TheseusError(f"there is a dataset of other files or captions: {output}", hint="name another with -o")
    remove(output / PARTIAL)  # the run may have ended between its last two steps
    return _summary(output, there, finished_before=True)


def _finish(output: Path, described: Tree, ledger: Ledger, table_rows_left: int, draw_sheet: DrawSheet | None) -> Summary:
    records, rejected = ledger.records, ledger.rejected
    reasons = Counter(entry["reason"] for entry in rejected)
    kept = len(ledger.files) - len(rejected)
    assert ledger.kept == kept, "found = kept + rejected"
    if not records:
        write_rejected(output, rejected)
        remove(output / PARTIAL)
        most = reasons.most_common(1)[0]
        remedy = "; --long trim or --long windows takes them" if most[0] == "too_long" else ""
        hint = f"most are {most[0]} ({most[1]}){remedy}; each with its reason: {output / 'rejected.jsonl'}"
        raise TheseusError(f"all files were rejected: {len(rejected)}", hint=hint)
    origins = Counter(record.caption_from for record in records)
    counts = {"found": len(ledger.files), "kept": kept, "rejected": dict(sorted(reasons.items()))}
    captions = {**dict(sorted(origins.items())), "without_file": table_rows_left}
    splits = Counter(record.split for record in records if record.split)
    if draw_sheet is not None:
        partial = Dataset(output / PARTIAL, {"settings": {}, "fingerprint": ""}, records)
        shown = spread(range(len(records)), SHEET_CLIPS)
        draw_sheet([partial.read(index) for index in shown], output / PARTIAL / "contact_sheet.png")
    account = {"counts": counts, "captions": captions, "splits": dict(sorted(splits.items()))}
    publish(output, records, rejected, {**described, **account})
    return _summary(output, read_description(output))


def _summary(path: Path, described: Tree, finished_before: bool = False) -> Summary:
    counts = {key: described[key] for key in ("clips", "frames", "bytes")} | described["counts"]
    captions = dict(described["captions"])
    left = captions.pop("without_file")
    splits = described.get("splits", {})
    return Summary(path, **counts, captions=captions, captions_without_file=left, splits=splits, finished_before=finished_before)
