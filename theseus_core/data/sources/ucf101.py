"""UCF-101: a folder per class, files named `v_Class_g01_c01.avi`, and three pairs of official lists (`trainlist01.txt` ...)."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from theseus_core.data.filters import PrepSettings
from theseus_core.data.sources import folders, phrases
from theseus_core.data.sources.folders import Found
from theseus_core.data.sources.shelf import Shelf
from theseus_core.data.sources.tables import last_part, read_text
from theseus_core.errors import TheseusError
from theseus_core.files import printable

FILE = re.compile(r"v_\w+_g\d+_c\d+\.\w+", re.IGNORECASE)
LISTS = "ucfTrainTestlist"  # the folder that the official archive unpacks to


def recognise(folder: Path) -> bool:
    """Whether a folder holds folders of files that are named like those of UCF-101."""
    return any(FILE.fullmatch(path.name) for path in folder.glob("*/v_*"))


def find(folder: Path, settings: PrepSettings, leave_out: Path) -> tuple[list[Found], list[str]]:
    """The clips of a folder with a caption made of their class, in the split that the official lists put them into.

    Raises:
        TheseusError: there are no clips, or the lists cannot be used.
    """
    template = settings.template or phrases.TEMPLATE
    files = []
    for file in folders.find([folder], leave_out):
        name = file.name.rpartition("/")[0].rpartition("/")[2]
        caption = phrases.ucf101_caption(name or folder.name, template)
        files.append(replace(file, captions=(caption,), caption_from="class"))
    lists = _lists(folder, settings)
    if lists is None:
        return files, [f"no official lists ({LISTS}/trainlist0N.txt): a share of the clips is held out instead; see --splits"]
    return _split(files, lists, settings.fold or 1, Shelf(folder))


def _lists(folder: Path, settings: PrepSettings) -> Path | None:
    if settings.splits is not None:
        if not any(Path(settings.splits).glob("trainlist0?.txt")):
            raise TheseusError(f"no trainlist01.txt in: {settings.splits}", hint=f"the official archive calls its folder {LISTS}")
        return Path(settings.splits)
    places = (folder / LISTS, folder, folder.absolute().parent / LISTS)
    return next((place for place in places if any(place.glob("trainlist0?.txt"))), None)


def _split(files: list[Found], lists: Path, fold: int, shelf: Shelf) -> tuple[list[Found], list[str]]:
    """The files in the splits of one pair of lists, and after them, as missing, what the lists name in vain."""
    train, test = (_read(lists / f"{name}list0{fold}.txt") for name in ("train", "test"))
    splits = dict.fromkeys(train, "train") | dict.fromkeys(test, "test")  # what is in both is not trained on
    found = [replace(file, split=splits.get(last_part(file.name))) for file in files]
    there = {last_part(file.name) for file in files}
    missing = [_missing(path, shelf) for name, path in (train | test).items() if name not in there]
    if len(missing) == len(splits):
        hint = f"the first: {missing[0].name}" if missing else "they are empty"
        raise TheseusError(f"none of the {len(splits)} files in the lists of {lists} is in: {shelf.folder}", hint=hint)
    notes = [f"official lists number {fold} in {printable(lists)}"]
    if unlisted := sum(file.split is None for file in found):
        notes.append(f"{unlisted:,} files are in neither list")
    return found + missing, notes + _unknown_classes(lists, shelf.folder)


def _missing(name: str, shelf: Shelf) -> Found:
    return Found(shelf.folder / name, printable(name), problem=("missing", shelf.why_not(name)))


def _read(path: Path) -> dict[str, str]:
    """What a list names, with its folder, by the bare name."""
    listed = [line.split()[0] for line in read_text(path, "official list").split("\n") if line.strip()]
    return {last_part(name): name for name in listed}


def _unknown_classes(lists: Path, folder: Path) -> list[str]:
    """Classes of classInd.txt without a folder."""
    index = lists / "classInd.txt"
    if not index.is_file():
        return []
    classes = [line.split()[-1] for line in read_text(index, "official list").split("\n") if line.strip()]
    absent = [name for name in classes if not (folder / name).is_dir()]
    return [f"{len(absent)} of {len(classes)} classes have no folder, such as: {', '.join(absent[:3])}"] if absent else []
