"""What a run is: what made it, where it computes, and whether a checkpoint belongs to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from theseus_core.config import Tree, dump
from theseus_core.errors import TheseusError
from theseus_core.train.config import FREE, TrainConfig
from theseus_core.train.distributed import World
from theseus_core.train.optim import Phase


def whereabouts(model: nn.Module, phases: list[Phase], world: World, device: torch.device, dtype: torch.dtype) -> Tree:
    """Where and how a training computes, and how many weights each optimizer has: the journal's first line."""
    optimizers = {label: optimizer for phase in phases for label, optimizer in phase.optimizers.items()}
    return {
        "device": str(device),
        "dtype": str(dtype).removeprefix("torch."),
        "ranks": world.size,
        "distributed": world.kind,
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "optimizers": {label: _weights_of(optimizer) for label, optimizer in optimizers.items()},
    }


def _weights_of(optimizer: torch.optim.Optimizer) -> int:
    return sum(p.numel() for group in optimizer.param_groups for p in group["params"])


def refuse_foreign_folder(folder: Path) -> None:
    """Train only where nothing is yet, or where a training has written before.

    Raises:
        TheseusError: the folder holds a dataset, or files and none that says that they are a run's.
    """
    try:
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    except OSError as error:
        raise TheseusError(f"cannot read the run folder: {folder}", hint=error.strerror) from error
    if "dataset.json" in names:
        raise TheseusError(f"not a run folder: {folder}", hint="it holds a dataset: give another -o")
    names -= {"cache"}  # latents of drawn clips, which are there before the run's first line
    if names and not names & {".lock", "metrics.jsonl"} and not _describes_a_run(folder / "config.json"):
        raise TheseusError(f"not a run folder: {folder}", hint=f"it holds other files, {min(names)} among them: give another -o")


def _describes_a_run(path: Path) -> bool:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and {"describe", "train", "fingerprint"} <= found.keys()


def refuse_other_run(folder: Path, saved: Tree, now: Tree, free: frozenset[str] = frozenset()) -> None:
    """Compare what a checkpoint says made it with what is asked for now.

    Args:
        saved, now: "describe", "train" (a dumped `TrainConfig`) and "fingerprint"; `saved` also has the "step".
        free: keys of "describe" that may differ, each with all below it; those of "train" are `FREE`.

    Raises:
        TheseusError: they are two runs; names the first key that differs.
    """
    elsewhere = "to train with other settings, give another -o; to start this one anew, --no-resume"
    younger = dump(TrainConfig())  # of a setting that the run did not know yet, it had the default
    before = {"describe": saved["describe"], "train": {**younger, **saved["train"]}}
    for part, may_differ in (("describe", free), ("train", FREE)):
        for key, old, new in differences(before[part], now[part]):
            if not any(key == one or key.startswith(f"{one}.") for one in may_differ):
                raise TheseusError(f"{folder} was trained with another {key}: {old}, now {new}", hint=elsewhere)
    if saved["fingerprint"] != now["fingerprint"]:
        changed = f"{saved['fingerprint']}, now {now['fingerprint']}"
        raise TheseusError(f"the dataset is not the one that {folder} was trained on: {changed}", hint=elsewhere)
    if saved["step"] > now["train"]["steps"]:
        steps = now["train"]["steps"]
        raise TheseusError(f"{folder} is already beyond that many steps, at step {saved['step']}: {steps}", hint=elsewhere)


def differences(old: Tree, new: Tree, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, old value, new value) wherever two trees differ, in the order of the new one."""
    for key in [*new, *(key for key in old if key not in new)]:
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from differences(before, after, f"{prefix}{key}.")
        elif before != after:
            yield f"{prefix}{key}", before, after
