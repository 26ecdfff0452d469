"""Files and folders that are there whole or not at all: written under a temporary name, then renamed. And how text is read back."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from theseus_core.errors import TheseusError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well, and is removed when it does not.

    What is made there may be a file or a folder; an older file is replaced, and by a folder an older folder.

    Raises:
        TheseusError: the place cannot be written to, the disk is full, or a file would take the place of a folder.
    """
    if not path.name:
        raise TheseusError(f"not a name that can be written: {path}", hint="name a file, or a folder that is not this one")
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove(part)
        try:
            yield part
            _replace(part, path)
        finally:
            remove(part)
    except OSError as error:
        raise TheseusError(f"cannot write: {path}", hint=error.strerror or str(error)) from error


def _replace(new: Path, path: Path) -> None:
    if not path.is_dir():
        os.replace(new, path)
        return
    if not new.is_dir():
        raise TheseusError(f"there is a folder by that name: {path}", hint="choose another name")
    old = path.with_name(f".{path.name}.old")  # a folder that is not empty cannot be replaced in one step
    remove(old)
    os.replace(path, old)
    os.replace(new, path)
    remove(old)


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read_lines(path: Path, encoding: str = "utf-8", errors: str = "strict") -> list[str]:
    """The lines of a text file; see `split_lines`."""
    return split_lines(path.read_text(encoding=encoding, errors=errors))


def split_lines(text: str) -> list[str]:
    """The lines of a text, each ended by a line feed alone, the last perhaps by nothing.

    `str.splitlines` also breaks at U+2028, U+0085 and others, which file names and captions may hold and JSON does not escape.
    """
    return text.removesuffix("\n").split("\n") if text else []


def printable(name: str | os.PathLike[str]) -> str:
    """A file's name, or words from the command line, as text that can be written: a byte that is not UTF-8 becomes `\\udce9`."""
    return os.fspath(name).encode("utf-8", errors="backslashreplace").decode()


def write_json(path: Path, value: Any) -> Path:
    """Write a JSON file, indented for people."""
    with replacing(path) as part:
        part.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        TheseusError: it is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise TheseusError(f"no such file: {path}") from error
    except OSError as error:
        raise TheseusError(f"cannot read: {path}", hint=error.strerror) from error
    except ValueError as error:  # not UTF-8, or not JSON
        raise TheseusError(f"not a JSON file: {path}", hint=str(error)) from error
