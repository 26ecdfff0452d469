"""What is pointed at, recognised and read: folders of clips or frames, tables and lists, TGIF, UCF-101, Kinetics."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from theseus_core.data.filters import Kind, PrepSettings
from theseus_core.data.sources import folders, kinetics, lists, tgif, ucf101
from theseus_core.data.sources.folders import Found
from theseus_core.data.sources.phrases import check_template
from theseus_core.data.sources.tables import read_text
from theseus_core.errors import TheseusError
from theseus_core.files import printable

TABLES = (".tsv", ".csv", ".json", ".jsonl")
USES: dict[str, set[str]] = {  # the settings that mean something to a kind of source
    "clips": {"layout"},
    "frames": {"layout", "frame_rate"},
    "tgif": {"files", "splits"},
    "ucf101": {"splits", "fold", "template"},
    "kinetics": {"files", "template"},
    "list": {"files", "splits", "frame_rate"},
}


@dataclass(frozen=True)
class Gathered:
    """What the sources hold.

    Attributes:
        files: in the order of the sources.
        kinds: of the sources, one each.
        notes: what is worth saying, a line each.
    """

    files: list[Found]
    kinds: list[Kind]
    notes: list[str]


def gather(sources: Sequence[Path], settings: PrepSettings, leave_out: Path) -> Gathered:
    """Find all there is to prepare.

    Args:
        leave_out: a folder that is not entered: the output.

    Raises:
        TheseusError: a source does not exist, is not what it is taken for, or holds nothing; a setting means nothing to any.
    """
    kinds = [recognise(source) if settings.source == "auto" else settings.source for source in sources]
    for source, kind in zip(sources, kinds, strict=True):
        _check_place(source, kind)
    _refuse_idle(settings, kinds)
    if settings.template is not None:
        check_template(settings.template)
    if set(kinds) <= {"clips"} or set(kinds) <= {"frames"}:
        return Gathered(folders.find(sources, leave_out, frames=kinds[0] == "frames"), kinds, [])
    files, notes = [], []
    for source, kind, prefix in zip(sources, kinds, folders.prefixes(sources), strict=True):
        found, said = _read(source, kind, settings, leave_out)
        files += [replace(file, name=prefix + file.name) for file in found]
        notes += said
    return Gathered(files, kinds, notes)


def recognise(source: Path) -> Kind:
    """The kind of a source, by its layout.

    Raises:
        TheseusError: it does not exist.
    """
    if not os.path.lexists(source):
        raise TheseusError(f"no such file or folder: {printable(source)}")
    if kinetics.recognise(source):
        return "kinetics"
    if source.is_dir():
        if ucf101.recognise(source):
            return "ucf101"
        no_clips = next(folders.walk(source, set()), None) is None
        return "frames" if no_clips and next(folders.walk(source, set(), frames=True), None) is not None else "clips"
    if source.suffix.lower() not in TABLES:
        return "clips"
    return "tgif" if source.suffix.lower() == ".tsv" and _begins_with_url(source) else "list"


def _begins_with_url(table: Path) -> bool:
    first = next((line for line in read_text(table, "table").split("\n") if line.strip()), "")
    return "://" in first.split("\t")[0]


def _refuse_idle(settings: PrepSettings, kinds: Sequence[Kind]) -> None:
    useful = set().union(*(USES[kind] for kind in kinds))
    for name in sorted(set().union(*USES.values()) - useful):
        value = getattr(settings, name)
        if value not in (None, "auto"):
            found = ", ".join(dict.fromkeys(kinds))
            hint = f"it is for {', '.join(kind for kind in USES if name in USES[kind])}; --source names what a source is"
            raise TheseusError(f"--{name.replace('_', '-')} has no effect on sources of the kind {found}: {value}", hint=hint)


def _check_place(source: Path, kind: Kind) -> None:
    """Refuse a folder where `--source` asks for a table, and the other way round."""
    if not os.path.lexists(source):
        raise TheseusError(f"no such file or folder: {printable(source)}")
    if source.is_dir() and kind in ("tgif", "list"):
        message = f"--source {kind} takes a table, not a folder: {printable(source)}"
        raise TheseusError(message, hint="name the table, and the folder of its files with --files")
    if not source.is_dir() and kind in ("ucf101", "frames"):
        inside = "a folder per class" if kind == "ucf101" else "the pictures of a clip, or with such folders"
        raise TheseusError(f"--source {kind} takes a folder, not a file: {printable(source)}", hint=f"one with {inside}")


def _read(source: Path, kind: Kind, settings: PrepSettings, leave_out: Path) -> tuple[list[Found], list[str]]:
    if kind in ("clips", "frames"):
        return folders.find([source], leave_out, frames=kind == "frames"), []
    match kind:
        case "tgif":
            return tgif.find(source, settings)
        case "list":
            return lists.find(source, settings)
        case "ucf101":
            return ucf101.find(source, settings, leave_out)
        case _:
            return kinetics.find(source, settings, leave_out)
