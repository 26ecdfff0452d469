"""Captions from a table: .tsv (path, tab, caption), .csv with a header, or .jsonl."""

from __future__ import annotations

import csv
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from theseus_core.data.sources.folders import Found
from theseus_core.errors import TheseusError
from theseus_core.files import printable

PATH_COLUMNS = ("file", "path", "video_path")
CAPTION_COLUMNS = ("caption", "text")
NAMES = ("captions.tsv", "captions.csv", "captions.jsonl")  # what is looked for in a source folder


@dataclass(frozen=True, slots=True)
class Row:
    """A caption, and the file it is for as the table names it."""

    path: str
    caption: str


def read_table(table: Path) -> list[Row]:
    """The rows of a captions file, in order; a file may have several.

    Raises:
        TheseusError: it cannot be read, has no such columns, or a line is malformed (the message names the line).
    """
    readers: dict[str, Callable[[Path, list[str]], Iterator[Row]]] = {".tsv": _tsv, ".csv": _csv, ".jsonl": _jsonl}
    if table.suffix.lower() not in readers:
        raise TheseusError(f"not a captions file: {table}", hint="it ends in .tsv, .csv or .jsonl")
    try:
        text = table.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise TheseusError(f"cannot read the captions file: {table}", hint=error.strerror) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise TheseusError(f"not UTF-8, line {line} of: {table}", hint="save the captions file as UTF-8") from error
    rows = list(readers[table.suffix.lower()](table, text.split("\n")))
    if not rows:
        raise TheseusError(f"no captions in: {table}")
    return rows


def _wrong(table: Path, line: int, what: str, hint: str) -> TheseusError:
    return TheseusError(f"{what}, line {line} of: {table}", hint=hint)


def _row(table: Path, line: int, path: Any, caption: Any) -> Row:
    if not isinstance(path, str) or not path.strip():
        raise _wrong(table, line, "no file named", "every caption belongs to a file")
    if not isinstance(caption, str) or not caption.strip():
        raise _wrong(table, line, "no caption", "leave out lines without a caption")
    if printable(caption) != caption:
        raise _wrong(table, line, "half a character", "UTF-8 cannot hold one half of a surrogate pair alone")
    return Row(path.strip(), " ".join(caption.split()))


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
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                what = f"{len(cells)} columns instead of {len(header)}"
                raise _wrong(table, reader.line_num, what, 'a caption with a comma in it stands in "quotes"')
            yield _row(table, reader.line_num, cells[path], cells[caption])
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
        keys = entry if isinstance(entry, dict) else {}
        path, captions = (next((keys[n] for n in names if n in keys), None) for names in (PATH_COLUMNS, CAPTION_COLUMNS))
        if path is None or captions is None:
            raise _wrong(table, number, "no file and caption", 'a line looks like {"file": "a.gif", "caption": "a cat"}')
        for caption in captions if isinstance(captions, list) else [captions]:
            yield _row(table, number, path, caption)


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
    meant: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        meant[_last(row.path)].add(row.path)
    captions: dict[str, dict[str, None]] = defaultdict(dict)
    missing = 0
    for row in rows:
        name = at.get(os.path.normpath(os.path.join(real(table.parent), row.path)))
        if name is None and len(called[_last(row.path)]) == len(meant[_last(row.path)]) == 1:
            name = called[_last(row.path)][0]
        if name is None:
            missing += 1
        else:
            captions[name][row.caption] = None
    return {name: tuple(texts) for name, texts in captions.items()}, missing


def _last(path: str) -> str:
    return path.replace("\\", "/").rsplit("/", 1)[-1]
