"""Official splits: which clips a benchmark trains on, measures on, and keeps for the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from theseus_core.data.sources.tables import Row, bare_names, last_part, plain_path, read_text
from theseus_core.errors import TheseusError

STRICTNESS = ("train", "val", "test")  # what is named twice belongs to the later
FOLDER = "splits"  # beside a table, where no other is named
WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validate": "val", "validation": "val"} | {
    "test": "test",
    "testing": "test",
}


def stricter(one: str | None, other: str | None) -> str | None:
    """Of two splits that the same clip is said to be in, the one that keeps it further from training."""
    return max((one, other), key=lambda split: STRICTNESS.index(split) if split else -1)


def named(word: str | None, where: str) -> str | None:
    """The split that a table's word means: "validate" is "val".

    Raises:
        TheseusError: no such split.
    """
    if word is None:
        return None
    if word.lower() not in WORDS:
        raise TheseusError(f"no such split in {where}: {word}", hint=f"known: {', '.join(WORDS)}")
    return WORDS[word.lower()]


def read_splits(folder: Path, key: Callable[[str], str]) -> tuple[dict[str, str], int]:
    """What `train.txt`, `val.txt` and `test.txt` list, a name a line, and how many of them are in more than one.

    Args:
        key: what makes of a line the name that is looked for.

    Raises:
        TheseusError: none of the three is there, or one cannot be read.
    """
    lists = {split: path for split in STRICTNESS if (path := folder / f"{split}.txt").is_file()}
    if not lists:
        raise TheseusError(f"no train.txt, val.txt or test.txt in: {folder}", hint="name the folder of the lists with --splits")
    splits: dict[str, str] = {}
    twice = set()
    for split, path in lists.items():
        for line in read_text(path, "list of a split").split("\n"):
            name = key(line.strip())
            if name and splits.setdefault(name, split) != split:
                twice.add(name)
                splits[name] = split  # the lists are read in the order of their strictness
    return splits, len(twice)


def split_rows(
    rows: Sequence[Row], table: Path, folder: str | None, key: Callable[[str], str] = plain_path
) -> tuple[list[Row], list[str]]:
    """The rows of a table in the splits that lists put them into, and what is worth saying about it.

    Args:
        folder: of the lists; None for `splits/` beside the table, if it is there.
        key: what makes of a row's path, and of a list's line, the name that is looked for; where that is the whole path, a bare
            name will do that only one row and one line have.

    Raises:
        TheseusError: the lists cannot be used, or name no file of the table.
    """
    lists = Path(folder) if folder else table.parent / FOLDER
    if folder is None and not any((lists / f"{split}.txt").is_file() for split in STRICTNESS):
        return list(rows), []
    splits, twice = read_splits(lists, key)
    meant = _meant(dict.fromkeys(key(row.path) for row in rows), splits)
    names = set(meant.values())
    known = len(names & splits.keys())
    if not known:
        raise TheseusError(f"the lists in {lists} name no file of: {table}", hint=f"they begin with: {next(iter(splits), '')}")
    notes = {
        "names in the lists of splits are not in the table": len(splits) - known,
        "files of the table are in no list of a split": len(names) - known,
        "files are in two lists of splits, and stay in test before val before train": twice,
    }
    rows = [replace(row, split=splits.get(meant[key(row.path)], row.split)) for row in rows]
    return rows, [f"{count:,} {what}" for what, count in notes.items() if count]


def _meant(names: Iterable[str], listed: Iterable[str]) -> dict[str, str]:
    """The listed name that each name means: itself, else the only one that ends alike, where no other name ends so."""
    names, listed = list(names), list(listed)
    once, ends = bare_names(names), bare_names(listed)
    whole = {last_part(name): name for name in listed if ends[last_part(name)] == 1}
    there = set(listed)
    return {
        name: whole[last_part(name)] if name not in there and once[last_part(name)] == 1 and last_part(name) in whole else name
        for name in names
    }
