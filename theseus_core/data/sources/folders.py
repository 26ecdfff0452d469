"""Files and folders of clips: what there is to prepare, in one order on every machine, and what lies beside each file."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from theseus_core.data.pictures import pictures
from theseus_core.errors import TheseusError
from theseus_core.files import printable, read_lines

ENDINGS = (".gif", ".mp4", ".webm", ".mov", ".avi", ".mkv")
SIDECAR_BYTES = 1 << 20  # a longer .txt is no caption


@dataclass(frozen=True, slots=True)
class Found:
    """A file to prepare, or a folder of frames.

    Attributes:
        path: where it is.
        name: relative to the source it was found in, with "/" on every machine; with several sources their name comes first;
            what is not UTF-8 in it is escaped.
        problem: reason and detail, where it is clear already that there is nothing to open.
        captions: from its sidecar, or whatever else `caption_from` names.
        split: "train", "val" or "test", where an official list says so.
    """

    path: Path
    name: str
    size: int = 0
    problem: tuple[str, str] | None = None
    captions: tuple[str, ...] = ()
    caption_from: str = "sidecar"
    split: str | None = None


def find(sources: Sequence[Path], leave_out: Path, frames: bool = False) -> list[Found]:
    """Every clip of the sources, sorted within each; a file that is reached twice counts once.

    Args:
        leave_out: a folder that is not entered: the output.
        frames: a clip is not a file, but a folder of pictures.

    Raises:
        TheseusError: a source does not exist, or there is no clip in any.
    """
    seen = {_identity(leave_out)} if leave_out.exists() else set()
    found = []
    for source, prefix in zip(sources, prefixes(sources), strict=True):
        if not os.path.lexists(source):
            raise TheseusError(f"no such file or folder: {printable(source)}")
        root = source if source.is_dir() else source.parent
        paths = walk(source, seen, frames) if source.is_dir() else [source]
        for path in paths:
            name = path.relative_to(root).as_posix() if path != root else Path(os.path.abspath(path)).name
            file = look(path, printable(prefix + name))
            if file.problem is None and not frames:  # folders are known to be new already
                if (identity := _identity(path)) in seen:
                    continue
                seen.add(identity)
            found.append(file)
    if not found:
        places = ", ".join(map(printable, sources))
        wanted = "folders of .png or .jpg files" if frames else f"files that end in {' '.join(ENDINGS)}"
        raise TheseusError(f"no clips found in: {places}", hint=f"clips are {wanted}")
    return found


def prefixes(sources: Sequence[Path]) -> list[str]:
    """What tells the sources apart in the names: nothing for one, their own names for several, with a number if need be."""
    if len(sources) == 1:
        return [""]
    files = Counter(source.name for source in sources if not source.is_dir())
    names = []  # those of folders, and of the folders of files that are called alike
    for source in sources:
        place = Path(os.path.abspath(source))
        names.append(place.name if source.is_dir() else place.parent.name if files[source.name] > 1 else "")
    many, used = Counter(names), Counter[str]()
    prefixes = []
    for name in names:
        used[name] += 1
        number = f"-{used[name]}" if many[name] > 1 and name else ""
        prefixes.append(f"{name}{number}/" if name else "")
    return prefixes


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def walk(folder: Path, seen: set[tuple[int, int]], frames: bool = False) -> Iterator[Path]:
    """The clips below a folder, sorted; links to folders are followed, but no folder is entered twice.

    Args:
        seen: folders by device and number that are not entered; those that are entered are added.
        frames: give folders of pictures instead of files.
    """
    if (identity := _identity(folder)) in seen:
        return
    seen.add(identity)
    try:
        names = sorted(entry for entry in os.listdir(folder) if not entry.startswith("."))
    except OSError:
        yield folder  # to be reported as what cannot be opened
        return
    if frames and pictures(folder):
        yield folder
    for name in names:
        path = folder / name
        if path.is_dir():
            yield from walk(path, seen, frames)
        elif name.lower().endswith(ENDINGS) and not frames:
            yield path


def look(path: Path, name: str) -> Found:
    """What can be said of a clip without opening it."""
    try:
        status = path.stat()
    except OSError as error:
        link = path.is_symlink()
        return Found(path, name, problem=("not_a_file", "a broken link") if link else ("unreadable", error.strerror or "no access"))
    if stat.S_ISDIR(status.st_mode):
        return _look_inside(path, name)
    if not stat.S_ISREG(status.st_mode):
        return Found(path, name, problem=("not_a_file", "a pipe, a socket or a device"))
    return Found(path, name, status.st_size, captions=_sidecar(path))


def _look_inside(folder: Path, name: str) -> Found:
    if not os.access(folder, os.R_OK | os.X_OK):
        return Found(folder, name, problem=("unreadable", "a folder without access"))
    inside = pictures(folder)
    if not inside:
        return Found(folder, name, problem=("no_video", "a folder without pictures"))
    return Found(folder, name, sum(path.stat().st_size for path in inside), captions=_sidecar(folder))


def _sidecar(path: Path) -> tuple[str, ...]:
    """The lines of the .txt beside a clip."""
    text = path.with_name(f"{path.name}.txt") if path.is_dir() else path.with_suffix(".txt")
    try:
        status = text.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > SIDECAR_BYTES:
            return ()
        lines = read_lines(text, encoding="utf-8-sig", errors="replace")
    except OSError:
        return ()
    return tuple(dict.fromkeys(" ".join(line.split()) for line in lines if line.strip()))


def caption_from_name(name: str) -> str:
    """A file's name as words, for want of anything better: "gifs/red_circle-2.gif" says "red circle 2"."""
    stem = name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    return " ".join(stem.replace("_", " ").replace("-", " ").split()) or stem
