"""Files and folders that are there whole or not at all: written under a temporary name, then renamed."""

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

    What is made there may be a file or a folder; an older file or folder of that name is replaced.

    Raises:
        TheseusError: the place cannot be written to, or the disk is full.
    """
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
