"""Kinetics-400, -600 and -700: annotations as CSV, and files named `ID_000010_000020.mp4`, flat or in a folder per label."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from theseus_core.data.filters import PrepSettings
from theseus_core.data.sources import folders, phrases
from theseus_core.data.sources.folders import Found
from theseus_core.data.sources.shelf import Shelf, join
from theseus_core.data.sources.splits import WORDS, named
from theseus_core.data.sources.tables import Row, read_text
from theseus_core.errors import TheseusError

COLUMNS = ("youtube_id", "time_start", "time_end")
FILE = re.compile(r"[\w-]{11}_\d{6}_\d{6}\.\w+")
DEPTHS = ("*/*", "*/*/*")  # in labels, in splits and labels


def is_annotation(path: Path) -> bool:
    """Whether a file is a CSV with the columns of Kinetics."""
    if path.suffix.lower() != ".csv" or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            header = file.readline(4096).decode("utf-8-sig", errors="replace")
    except OSError:  # whoever reads it will say so
        return False
    return set(COLUMNS) <= {cell.strip().lower() for cell in header.split(",")}


def recognise(place: Path) -> bool:
    """Whether this is an annotation of Kinetics, or a folder with one or with files that are named like its clips."""
    if not place.is_dir():
        return is_annotation(place)
    return bool(_annotations(place)) or any(FILE.fullmatch(path.name) for depth in DEPTHS for path in place.glob(depth))


def _annotations(folder: Path) -> list[Path]:
    return [path for where in (folder, folder / "annotations") for path in sorted(where.glob("*.csv")) if is_annotation(path)]


def find(place: Path, settings: PrepSettings, leave_out: Path) -> tuple[list[Found], list[str]]:
    """The clips of annotations, or of a folder without any, with captions made of their labels.

    Raises:
        TheseusError: the annotations cannot be used, none of their files is there, or nothing says what the labels are.
    """
    template = settings.template or phrases.TEMPLATE
    tables = _annotations(place) if place.is_dir() else [place]
    if tables == [place] and not is_annotation(place):
        raise TheseusError(
            f"not an annotation of Kinetics: {place}", hint=f"a .csv with the columns label, {', '.join(COLUMNS)}, split"
        )
    if not tables:
        return _by_folders(place, template, leave_out), []
    folder = Path(settings.files) if settings.files else place if place.is_dir() else place.absolute().parent
    if not folder.is_dir():
        raise TheseusError(f"no such folder: {folder}", hint="--files names the folder of the videos")
    rows = [row for table in tables for row in _read(table, template)]
    shelf = Shelf(folder, key=lambda name: name.rsplit(".", 1)[0])
    files = join(rows, shelf, tables[0] if len(tables) == 1 else place, caption_from="class")
    there = {path for paths in shelf.names.values() for path in paths}
    spare = len(there - {file.path for file in files})
    return files, [f"{spare:,} files are in no annotation"] if spare else []


def _read(table: Path, template: str) -> Iterator[Row]:
    """A row per segment: the name of its file without the ending, its caption ("" without a label), its split."""
    reader = csv.DictReader(read_text(table, "annotation").split("\n"))
    try:
        reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
        lines = [(reader.line_num, cells) for cells in reader]
    except csv.Error as error:
        message = f"malformed ({error}), line {reader.reader.line_num} of: {table}"
        raise TheseusError(message, hint='a quote inside "quotes" is doubled') from error
    for number, cells in lines:
        try:
            start, end = (int(float(cells[name])) for name in COLUMNS[1:])
        except (TypeError, ValueError) as error:
            message = f"no seconds in time_start and time_end, line {number} of: {table}"
            raise TheseusError(message, hint="a line looks like: juggling soccer ball,-0WZfAv1wvM,10,20,train") from error
        label = (cells.get("label") or "").strip()
        caption = phrases.kinetics_caption(label, template) if label else ""
        split = named((cells.get("split") or "").strip() or None, str(table))
        yield Row(f"{(cells['youtube_id'] or '').strip()}_{start:06d}_{end:06d}", caption, split)


def _by_folders(folder: Path, template: str, leave_out: Path) -> list[Found]:
    """Clips whose folder is their label; a folder around it may name a split."""
    files = []
    for file in folders.find([folder], leave_out):
        parents = PurePosixPath(file.name).parts[:-1]
        if not parents or parents[-1].lower() in WORDS:
            hint = "put annotations/*.csv beside them, or the files into a folder per label"
            raise TheseusError(f"nothing says what the label of this file is: {folder / file.name}", hint=hint)
        split = next((WORDS[part.lower()] for part in parents[-2::-1] if part.lower() in WORDS), None)
        caption = phrases.kinetics_caption(parents[-1], template)
        files.append(replace(file, captions=(caption,), caption_from="class", split=split))
    return files
