"""Checkpoints: whole or not there at all, checked when read, and never a pickle.

checkpoints/step-000123/
    model.safetensors  ema.safetensors  optimizer.safetensors
    state.json         the step, what made the run, scalars of the optimizers, and the checksums of the files above
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from theseus_core.config import Tree
from theseus_core.errors import TheseusError
from theseus_core.files import remove, replacing

Tensors = dict[str, Tensor]
Note = Callable[[str], None]
PARTS = ("model", "ema", "optimizer")
LEFT = ("model", "samples", "curves.png", "checkpoints")  # what a training leaves in its folder beside its journal


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk whose files are all there and undamaged."""

    path: Path
    state: Tree

    @property
    def step(self) -> int:
        return int(self.state["step"])

    def tensors(self, part: str) -> Tensors:
        """The tensors of "model", "ema" or "optimizer" by name, on the CPU."""
        return load_file(self.path / f"{part}.safetensors")


def write_checkpoint(folder: Path, step: int, parts: dict[str, Tensors], state: Tree) -> Path:
    """Write a checkpoint under a temporary name, make sure that it is on the disk, and rename it.

    Args:
        folder: `checkpoints`.
        parts: the tensors of each of `PARTS`, on the CPU and contiguous.
        state: JSON.

    Raises:
        TheseusError: it cannot be written; what is there already stays as it is.
    """
    final = folder / f"step-{step:06d}"
    try:
        with replacing(final) as part:
            part.mkdir()
            _write_files(part, parts, {**state, "step": step})
    except TheseusError as error:
        raise TheseusError(error.message, hint=f"{error.hint}; {_lost_nothing(folder)}") from error
    _to_disk(folder)
    return final


def _write_files(folder: Path, parts: dict[str, Tensors], state: Tree) -> None:
    try:
        for part, tensors in parts.items():
            save_file(_unshared(tensors), folder / f"{part}.safetensors", metadata={"format": "pt"})
    except SafetensorError as error:  # what safetensors makes of an OSError
        raise OSError(str(error)) from error
    checksums = {part: _checksum(folder / f"{part}.safetensors") for part in parts}
    (folder / "state.json").write_text(json.dumps({**state, "checksums": checksums}, indent=1) + "\n")
    for path in [*folder.iterdir(), folder]:
        _to_disk(path)


def _unshared(tensors: Tensors) -> Tensors:
    """Tied weights are written once per name: safetensors refuses tensors that share memory."""
    seen: set[int] = set()
    unshared = {}
    for name, tensor in tensors.items():
        shared = tensor.untyped_storage().data_ptr() in seen
        seen.add(tensor.untyped_storage().data_ptr())
        unshared[name] = tensor.clone() if shared else tensor
    return unshared


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lost_nothing(folder: Path) -> str:
    kept = _newest_first(folder)
    there = f"the last good checkpoint is {kept[0].name}" if kept else "there was no checkpoint before"
    return f"{there}: make room and run the same command again to continue"


def _newest_first(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdecimal()), key=_step, reverse=True)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def saved_steps(folder: Path) -> set[int]:
    """The steps that have a checkpoint, damaged or not."""
    return {_step(path) for path in _newest_first(folder)}


def newest_checkpoint(folder: Path, note: Note = lambda message: None) -> Checkpoint | None:
    """The newest undamaged checkpoint, or None where there is none yet; damaged ones are passed over with a note.

    Raises:
        TheseusError: there are checkpoints, and all of them are damaged.
    """
    paths = _newest_first(folder)
    for path in paths:
        try:
            return open_checkpoint(path)
        except TheseusError as error:
            note(f"passing over a {error.message} ({error.hint})")
    if paths:
        raise TheseusError(
            f"every checkpoint is damaged: {folder}", hint="start anew with --no-resume, or elsewhere with another -o"
        )
    return None


def open_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint by its path, its files compared with their checksums.

    Raises:
        TheseusError: it is damaged, or no checkpoint.
    """
    try:
        state = json.loads((path / "state.json").read_text())
        for part in PARTS:
            if _checksum(path / f"{part}.safetensors") != state["checksums"][part]:
                raise TheseusError(f"damaged checkpoint: {path}", hint=f"{part}.safetensors is not what was written")
        return Checkpoint(path, {**state, "step": int(state["step"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TheseusError(f"damaged checkpoint: {path}", hint=str(error)) from error


def drop_old_checkpoints(folder: Path, step: int, keep: int, best: int | None = None) -> None:
    """Leave the newest `keep` checkpoints up to `step`, the newest good one, and that of step `best`."""
    paths = _newest_first(folder)
    good = [path for path in paths if _step(path) <= step]  # a later one was damaged when this run resumed
    stay = {*good[:keep], *(path for path in good if _step(path) == best)}
    for path in paths:
        if path not in stay:
            os.replace(path, path.with_name(f".{path.name}.old"))  # so that a half-deleted one is never taken for a checkpoint
    for leftover in folder.glob(".step-*"):  # of this call, and of processes that were killed
        remove(leftover)


def forget_run(folder: Path) -> None:
    """Remove `LEFT` from a run folder, because the user starts the run anew; the checkpoints, which would be resumed, last."""
    for name in LEFT:
        doomed = folder / f".{name}.old"
        remove(doomed)
        if (folder / name).exists():
            os.replace(folder / name, doomed)
            remove(doomed)


@contextmanager
def sole_owner(folder: Path) -> Iterator[None]:
    """Hold a run folder: two trainings in one would overwrite each other. The hold ends with the process, however it ends.

    Raises:
        TheseusError: another process holds it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise TheseusError(f"cannot write the run folder: {folder}", hint=error.strerror) from error
    with file:
        _lock(file.fileno(), folder)
        yield


def _lock(descriptor: int, folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows has none; there, the user must see to it
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise TheseusError(
            f"another process is training in this folder: {folder}", hint="wait for it, or use another -o"
        ) from error
