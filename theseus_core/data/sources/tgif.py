"""The Tumblr GIF dataset, as it was released: a table of URLs and sentences, lists of URLs, and GIFs that everyone fetches anew.

A line of the table is a URL, a tab and a sentence; a GIF may have several lines, and all its sentences stay with it. The GIFs are
found by the file name in their URL, and so are the lists `train.txt`, `val.txt` and `test.txt` (a URL a line).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from theseus_core.data.filters import PrepSettings
from theseus_core.data.sources.folders import Found
from theseus_core.data.sources.shelf import Shelf, join
from theseus_core.data.sources.splits import split_rows
from theseus_core.data.sources.tables import Row, last_part, read_table
from theseus_core.errors import TheseusError

GIFS = "gifs"  # the folder beside the table, where no other is named


def gif_name(url: str) -> str:
    """The file name in a URL, or in a path, by which a GIF is known here."""
    return last_part(unquote(urlsplit(url).path) if "://" in url else url)


def read(table: Path) -> list[Row]:
    """The rows of a released table; their paths are URLs.

    Raises:
        TheseusError: it is no such table.
    """
    rows = read_table(table)
    for row in rows:
        if gif_name(row.path) in ("", ".", ".."):
            raise TheseusError(f"no file name in this URL of {table}: {row.path}", hint="a line is a URL, a tab, and a sentence")
    return rows


def links(table: Path) -> dict[str, str]:
    """The URL of every GIF, by its file name."""
    urls: dict[str, str] = {}
    for row in read(table):
        urls.setdefault(gif_name(row.path), row.path)
    return urls


def gif_folder(table: Path, settings: PrepSettings) -> Path:
    """Where the GIFs lie: as asked, else in `gifs/` beside the table."""
    return Path(settings.files) if settings.files else table.parent / GIFS


def find(table: Path, settings: PrepSettings) -> tuple[list[Found], list[str]]:
    """The GIFs of a table with their captions and splits, and what is worth saying about them.

    Raises:
        TheseusError: the table or the lists cannot be used, or no GIF is there.
    """
    rows = [replace(row, path=gif_name(row.path)) for row in read(table)]
    rows, notes = split_rows(rows, table, settings.splits, gif_name)
    folder = gif_folder(table, settings)
    if not folder.is_dir():
        raise TheseusError(f"no folder of GIFs: {folder}", hint="name it with --gifs, or fetch them with --download")
    return join(rows, Shelf(folder), table), notes
