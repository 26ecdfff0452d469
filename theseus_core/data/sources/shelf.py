"""Files that a table names, found in a folder with all their captions; and what is missing, with the names next to it."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

from theseus_core.data.sources.folders import Found, look, walk
from theseus_core.data.sources.splits import stricter
from theseus_core.data.sources.tables import Row, bare_names, last_part, plain_path
from theseus_core.errors import TheseusError
from theseus_core.files import printable

HELPED = 100  # missing names for which similar ones are looked up; where more are missing, it is not for a slip of the pen


@dataclass
class Shelf:
    """The clips below a folder, by name.

    Attributes:
        key: what of a file's name a table gives: all of it, or the name without its ending.
        by_path: look at the path that a row names, too, before its bare name.
        helped: how many missing names got similar ones so far.
    """

    folder: Path
    key: Callable[[str], str] = last_part
    by_path: bool = False
    helped: int = 0

    @cached_property
    def names(self) -> dict[str, list[Path]]:
        """Every clip below the folder, by its key."""
        found: dict[str, list[Path]] = {}
        for path in walk(self.folder, set()):
            found.setdefault(self.key(path.name), []).append(path)
        return found

    @cached_property
    def _order(self) -> tuple[list[str], list[str]]:
        return sorted(self.names), sorted(name[::-1] for name in self.names)

    def take(self, name: str, alone: bool = True) -> Path | None:
        """The file that a row means: at its path, else the only one of its name, where it is `alone` in asking for that."""
        if self.by_path and os.path.lexists(path := self.folder / name.replace("\\", "/")):
            return path
        if not alone:
            return None
        paths = self.names.get(self.key(last_part(name)), [])
        return paths[0] if len(paths) == 1 else None

    def called(self, name: str) -> str:
        """What a row asks for, in the one way to say it."""
        return plain_path(name) if self.by_path else self.key(last_part(name))

    def why_not(self, name: str) -> str:
        """What is wrong with a row that `take` finds no file for, and, for the first hundred, which names come near."""
        name = self.key(last_part(name))
        if len(paths := self.names.get(name, [])) > 1:
            return f"{len(paths)} files have this name, such as: {self._within(paths[0])}, {self._within(paths[1])}"
        self.helped += 1
        near = [self._within(self.names[close][0]) for close in self.nearest(name)] if self.helped <= HELPED else []
        return f"not in {printable(self.folder.name or self.folder)}" + (f"; nearest: {', '.join(near)}" if near else "")

    def nearest(self, name: str) -> list[str]:
        """At most two similar names, out of those that begin or end alike: quick with a hundred thousand names, too."""
        forward, backward = self._order
        near = [*_around(forward, name), *(found[::-1] for found in _around(backward, name[::-1]))]
        return get_close_matches(name, list(dict.fromkeys(near)), n=2, cutoff=0.7)

    def _within(self, path: Path) -> str:
        return printable(path.relative_to(self.folder).as_posix())


def _around(names: Sequence[str], name: str) -> Sequence[str]:
    place = bisect_left(names, name)
    return names[max(0, place - 3) : place + 3]


@dataclass
class _Item:
    path: Path | None
    name: str
    captions: dict[str, None] = field(default_factory=dict)
    split: str | None = None


def join(rows: Iterable[Row], shelf: Shelf, table: Path, caption_from: str = "table") -> list[Found]:
    """A clip for every file that rows name, in their order, with the captions of all its rows, and in one split only.

    Args:
        rows: with splits as `splits.STRICTNESS` names them; a caption may be "".

    Raises:
        TheseusError: no file is there at all.
    """
    rows = list(rows)
    alone = {name for name, count in bare_names(row.path for row in rows).items() if count == 1}
    items: dict[Path | str, _Item] = {}
    for row in rows:
        path = shelf.take(row.path, not shelf.by_path or last_part(row.path) in alone)
        item = items.setdefault(path or shelf.called(row.path), _Item(path, row.path))
        if row.caption:
            item.captions[row.caption] = None
        item.split = stricter(item.split, row.split)
    if not any(item.path for item in items.values()):
        first = next(iter(items.values()))
        hint = f"the first: {printable(first.name)}, {shelf.why_not(first.name)}; name their folder with --files"
        raise TheseusError(
            f"none of the {len(items)} files that {printable(table)} names is in: {printable(shelf.folder)}", hint=hint
        )
    return [_found(item, shelf, caption_from) for item in items.values()]


def _found(item: _Item, shelf: Shelf, caption_from: str) -> Found:
    name = printable(shelf.called(item.name) if item.path is None else os.path.relpath(item.path, shelf.folder))
    if item.path is None:
        file = Found(shelf.folder / last_part(item.name), name, problem=("missing", shelf.why_not(item.name)))
    else:
        file = look(item.path, Path(name).as_posix())
        if file.problem is None and not item.captions:
            file = replace(file, problem=("no_caption", "the table gives it no label"))
    return replace(file, captions=tuple(item.captions), caption_from=caption_from, split=item.split)
