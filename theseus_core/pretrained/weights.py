"""Weights in the diffusers layout: opened lazily and mapped, matched with ours by a table of names, and written back.

A table is a list of `Tie`s. Nothing may be left over on either side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from theseus_core.device import forget_mapped
from theseus_core.errors import TheseusError
from theseus_core.files import read_json, write_json

STEM = "diffusion_pytorch_model"
SHARD_BYTES = 5 * 2**30
NAMED = 5  # keys that a message names; of a wrong configuration there may be hundreds


@dataclass(frozen=True)
class Tie:
    """One tensor of ours, and those of theirs that it is made of.

    Attributes:
        join: theirs, in order, to ours.
        split: ours to theirs; the inverse.
    """

    ours: str
    theirs: tuple[str, ...]
    join: Callable[[Sequence[Tensor]], Tensor] = lambda parts: parts[0]
    split: Callable[[Tensor], Sequence[Tensor]] = lambda whole: [whole]


def same(ours: str, theirs: str) -> list[Tie]:
    """A layer with weight and bias that differs by name alone."""
    return [Tie(f"{ours}.{leaf}", (f"{theirs}.{leaf}",)) for leaf in ("weight", "bias")]


def stacked(ours: str, *theirs: str) -> list[Tie]:
    """Layers of one width whose outputs stand one after the other in ours."""
    return [
        Tie(
            f"{ours}.{leaf}",
            tuple(f"{name}.{leaf}" for name in theirs),
            lambda parts: torch.cat(list(parts)),
            lambda whole: whole.chunk(len(theirs)),
        )
        for leaf in ("weight", "bias")
    ]


class Stored:
    """The tensors of a folder, by name, none of them read yet.

    Raises:
        TheseusError: there are no safetensors, or more than one set of them; a shard is missing, or a file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, Any] = {}
        for path in _weight_files(folder):
            opened = _opened(path)
            self._files |= dict.fromkeys(opened.keys(), opened)

    def names(self) -> set[str]:
        return set(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._files[name].get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        """The tensor, mapped from the file: it takes memory when it is used, and gives it back when it is short."""
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor


def load_into(module: nn.Module, ties: Sequence[Tie], stored: Stored, dtype: torch.dtype | None = None) -> None:
    """Give a module that was built on the meta device its weights, with no second copy of any.

    Args:
        dtype: of the weights in memory; None keeps each as it is stored, mapped where it needs no reordering.

    Raises:
        TheseusError: weights are missing, left over, or of a wrong shape; it names them.
    """
    places = module.state_dict()
    assert {tie.ours for tie in ties} == set(places), {tie.ours for tie in ties} ^ set(places)
    _check(ties, places, stored)
    state: dict[str, Tensor] = {}
    mapped: list[str] = []
    for tie in ties:
        parts = [stored.read(name) for name in tie.theirs]
        whole = tie.join(parts)
        state[tie.ours] = whole if dtype is None else whole.to(dtype)
        if _memory(parts[0]) == _memory(state[tie.ours]):
            mapped.append(tie.ours)
        else:
            for part in parts:
                forget_mapped(part)
    module.load_state_dict(state, strict=True, assign=True)
    for name, parameter in module.named_parameters():
        parameter.mapped = name in mapped  # type: ignore[attr-defined]  # read by `nn.packed.pack`


def save_from(module: nn.Module, ties: Sequence[Tie], folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Write a module's weights under their names into a folder that is there: one file, or shards and an index."""
    weights = module.state_dict()
    assert {tie.ours for tie in ties} == set(weights), {tie.ours for tie in ties} ^ set(weights)
    shards = _shards(ties, weights, shard_bytes)
    names = [f"{STEM}-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    if len(shards) == 1:
        names = [f"{STEM}.safetensors"]
    index: dict[str, str] = {}
    for file, shard in zip(names, shards, strict=True):
        pieces = {name: piece for tie in shard for name, piece in zip(tie.theirs, tie.split(weights[tie.ours]), strict=True)}
        save_file({name: piece.detach().cpu().contiguous() for name, piece in pieces.items()}, folder / file, {"format": "pt"})
        index |= dict.fromkeys(pieces, file)
    if len(shards) > 1:
        total = sum(tensor.nbytes for tensor in weights.values())
        write_json(folder / f"{STEM}.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": index})


def _memory(tensor: Tensor) -> int:
    """The address of the storage that a tensor is a view of."""
    return tensor.untyped_storage().data_ptr()


def _weight_files(folder: Path) -> list[Path]:
    indexes = sorted(folder.glob("*.safetensors.index.json"))
    single = sorted(folder.glob("*.safetensors"))
    if len(indexes) == 1:
        return _listed(indexes[0])
    if len(indexes) > 1 or len(single) > 1:
        found = ", ".join(path.name for path in indexes or single)
        raise TheseusError(f"more than one set of weights in {folder}: {found}", hint="leave one of them there")
    if not single:
        pickles = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
        hint = "pickled weights are never opened: save them as safetensors" if pickles else "the download may be incomplete"
        raise TheseusError(f"no weights (*.safetensors) in: {folder}", hint=hint)
    return single


def _listed(index: Path) -> list[Path]:
    tree = read_json(index)
    listed = tree.get("weight_map") if isinstance(tree, dict) else None
    if not isinstance(listed, dict) or not all(isinstance(name, str) and Path(name).name == name for name in listed.values()):
        raise TheseusError(f"damaged index of weights: {index}", hint='it should read {"weight_map": {"a key": "a file", ...}}')
    return [index.parent / name for name in sorted(set(listed.values()))]


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError as error:
        raise TheseusError(f"a file of weights is missing: {path}", hint="fetch it again; the others are kept") from error
    except (SafetensorError, OSError) as error:
        raise TheseusError(f"damaged weights: {path}", hint=f"fetch the file again: {error}") from error


def _check(ties: Iterable[Tie], places: dict[str, Tensor], stored: Stored) -> None:
    """Names and shapes, from the files' headers alone."""
    expected: dict[str, tuple[int, ...]] = {}
    for tie in ties:
        pieces = tie.split(torch.empty_like(places[tie.ours], device="meta"))
        expected |= {name: tuple(piece.shape) for name, piece in zip(tie.theirs, pieces, strict=True)}
    missing, extra = sorted(expected.keys() - stored.names()), sorted(stored.names() - expected.keys())
    hint = "config.json may be that of another model, or a download incomplete"
    if missing:
        raise TheseusError(f"missing from the weights in {stored.folder}: {_some(missing)}", hint=hint)
    if extra:
        raise TheseusError(f"no place in the model for weights in {stored.folder}: {_some(extra)}", hint=hint)
    for name, shape in expected.items():
        if stored.shape(name) != shape:
            raise TheseusError(f"of shape {stored.shape(name)}, and {shape} by {stored.folder / 'config.json'}: {name}", hint=hint)


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _shards(ties: Iterable[Tie], weights: dict[str, Tensor], limit: int) -> list[list[Tie]]:
    """The ties in order, in groups of at most `limit` bytes, or of one."""
    shards: list[list[Tie]] = [[]]
    size = 0
    for tie in ties:
        bytes_of = weights[tie.ours].nbytes
        if shards[-1] and size + bytes_of > limit:
            shards.append([])
            size = 0
        shards[-1].append(tie)
        size += bytes_of
    return shards
