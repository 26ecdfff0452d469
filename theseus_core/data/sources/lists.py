"""Lists of videos with their captions: .json (`video_path` or `video_file`, `text` or `description`), .jsonl, .csv, .tsv."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from theseus_core.data.filters import PrepSettings
from theseus_core.data.sources.folders import Found
from theseus_core.data.sources.shelf import Shelf, join
from theseus_core.data.sources.splits import named, split_rows
from theseus_core.data.sources.tables import read_table
from theseus_core.errors import TheseusError


def find(table: Path, settings: PrepSettings) -> tuple[list[Found], list[str]]:
    """The clips that a list names, by their path from the list's folder or from `settings.files`, or by their bare names.

    Raises:
        TheseusError: the list cannot be used, or none of its files is there.
    """
    rows = [replace(row, split=named(row.split, str(table))) for row in read_table(table)]
    rows, notes = split_rows(rows, table, settings.splits)
    folder = Path(settings.files) if settings.files else table.parent
    if not folder.is_dir():
        raise TheseusError(f"no such folder: {folder}", hint="--files names the folder of the files in the list")
    return join(rows, Shelf(folder, by_path=True), table), notes
