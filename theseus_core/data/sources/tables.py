"""Captions from a table: .tsv (path, tab, caption), .csv with a header, .jsonl, or .json with a list of objects."""

from __future__ import annotations

import csv
import json
import os
import posixpath
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from theseus_core.data.sources.folders import Found
from theseus_core.errors import TheseusError
from theseus_core.files import printable

PATH_COLUMNS = ("file", "path", "video_path", "video_file")
CAPTION_COLUMNS = ("caption", "text", "description")
SPLIT_COLUMN = "split"
NAMES = ("captions.tsv", "captions.csv", "captions.jsonl", "captions.json")  # what is looked for in a source folder


@dataclass(frozen=True, slots=True)
class Row:
    """A caption, the file it is for as the table names it, and what a column "split" says."""

    path: str
    caption: str
    split: str | None = None


def read_table(table: Path) -> list[Row]:
    """The rows of a captions file, in order; a file may have several.

    Raises:
        TheseusError: it cannot be read, has no such columns, or a line is malformed (the message names the line).
    """
    readers: dict[str, Callable[[Path, list[str]], Iterator[Row]]] = {".tsv": _tsv, ".csv": _csv, ".jsonl": _jsonl, ".json": _json}
    if table.suffix.lower() not in readers:
        raise TheseusError(f"not a captions file: {table}", hint="it ends in .tsv, .csv, .jsonl or .json")
    rows = list(readers[table.suffix.lower()](table, read_text(table, "captions file").split("\n")))
    if not rows:
        raise TheseusError(f"no captions in: {table}")
    return rows


def read_text(path: Path, what: str) -> str:
    """The text of a file, which must be UTF-8.

    Raises:
        TheseusError: it cannot be read, or is not UTF-8 (the message names the line).
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise TheseusError(f"cannot read the {what}: {path}", hint=error.strerror) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise TheseusError(f"not UTF-8, line {line} of: {path}", hint=f"save the {what} as UTF-8") from error


def _wrong(table: Path, line: int | str, what: str, hint: str) -> TheseusError:
    where = f"line {line}" if isinstance(line, int) else line
    return TheseusError(f"{what}, {where} of: {table}", hint=hint)


def _row(table: Path, line: int | str, path: Any, caption: Any, split: Any = None) -> Row:
    if not isinstance(path, str) or not path.strip():
        raise _wrong(table, line, "no file named", "every caption belongs to a file")
    if not isinstance(caption, str) or not caption.strip():
        raise _wrong(table, line, "no caption", "leave out lines without a caption")
    if printable(caption) != caption:
        raise _wrong(table, line, "half a character", "UTF-8 cannot hold one half of a surrogate pair alone")
    named = split.strip() if isinstance(split, str) else None
    return Row(path.strip(), " ".join(caption.split()), named or None)


def _tsv(table: Path, lines: list[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        cells = line.rstrip("\r").split("\t")
        if len(cells) != 2:
            raise _wrong(table, number, f"{len(cells)} columns instead of 2", "a line is a path, a tab, and a caption")
        if number == 1 and cells[0].strip().lower() in PATH_COLUMNS and cells[1].strip().lower() in CAPTION_COLUMNS:
            continue
        yield _row(table, number, *cells)


def _csv(table: Path, lines: list[str]) -> Iterator[Row]:
    reader = csv.reader((line + "\n" for line in lines), strict=True)
    try:
        header = [cell.strip().lower() for cell in next(reader, [])]
        path, caption = (_column(table, header, names) for names in (PATH_COLUMNS, CAPTION_COLUMNS))
        split = header.index(SPLIT_COLUMN) if SPLIT_COLUMN in header else None
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                what = f"{len(cells)} columns instead of {len(header)}"
                raise _wrong(table, reader.line_num, what, 'a caption with a comma in it stands in "quotes"')
            yield _row(table, reader.line_num, cells[path], cells[caption], None if split is None else cells[split])
    except csv.Error as error:
        raise _wrong(table, reader.line_num, f"malformed ({error})", 'a quote inside "quotes" is doubled') from error


def _column(table: Path, header: Sequence[str], names: Sequence[str]) -> int:
    for name in names:
        if name in header:
            return header.index(name)
    wanted = " or ".join(names)
    raise _wrong(table, 1, f"no column named {wanted}", f"the first line names the columns; it has: {', '.join(header)}")


def _jsonl(table: Path, lines: list[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise _wrong(table, number, "not JSON", str(error)) from error
        yield from _entry(table, number, entry, "a line")


def _json(table: Path, lines: list[str]) -> Iterator[Row]:
    try:
        entries = json.loads("\n".join(lines))
    except ValueError as error:
        raise TheseusError(f"not a JSON file: {table}", hint=str(error)) from error
    if not isinstance(entries, list):
        raise TheseusError(
            f"not a list of files and captions: {table}", hint='it looks like [{"file": "a.gif", "caption": "a cat"}]'
        )
    for number, entry in enumerate(entries, 1):
        yield from _entry(table, f"entry {number}", entry, "an entry")


def _entry(table: Path, line: int | str, entry: Any, what: str) -> Iterator[Row]:
    keys = entry if isinstance(entry, dict) else {}
    path, captions = (next((keys[n] for n in names if n in keys), None) for names in (PATH_COLUMNS, CAPTION_COLUMNS))
    if path is None or captions is None:
        raise _wrong(table, line, "no file and caption", what + ' looks like {"file": "a.gif", "caption": "a cat"}')
    for caption in captions if isinstance(captions, list) else [captions]:
        yield _row(table, line, path, caption, keys.get(SPLIT_COLUMN))


def match(table: Path, rows: Sequence[Row], found: Sequence[Found]) -> tuple[dict[str, tuple[str, ...]], int]:
    """Captions by the found files' names, and the number of rows that fit no file.

    A row fits the file at its path relative to the table; failing that, the one file of that name, if no other row and no other
    file has it.
    """
    real = cache(os.path.realpath)
    at = {os.path.join(real(file.path.parent), file.path.name): file.name for file in found}
    called: dict[str, list[str]] = defaultdict(list)
    for file in found:
        called[file.path.name].append(file.name)
    meant = bare_names(row.path for row in rows)
    captions: dict[str, dict[str, None]] = defaultdict(dict)
    missing = 0
    for row in rows:
        name = at.get(os.path.normpath(os.path.join(real(table.parent), row.path)))
        if name is None and len(called[last_part(row.path)]) == meant[last_part(row.path)] == 1:
            name = called[last_part(row.path)][0]
        if name is None:
            missing += 1
        else:
            captions[name][row.caption] = None
    return {name: tuple(texts) for name, texts in captions.items()}, missing


def last_part(path: str) -> str:
    """The file's name in a path of any system, or in a URL."""
    return path.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]


def plain_path(path: str) -> str:
    """A path in the one way to write it: of `./a/../b.gif`, `b.gif`."""
    return posixpath.normpath(path.replace("\\", "/")) if path else ""


def bare_names(paths: Iterable[str]) -> Counter[str]:
    """How many paths end in each file name; what is written in two ways counts once."""
    return Counter(last_part(path) for path in {plain_path(path) for path in paths})
