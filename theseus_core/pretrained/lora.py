"""LoRA files in the format of diffusers (`pytorch_lora_weights.safetensors`): read into a generator, and written.

Keys are `transformer.transformer_blocks.0.attn1.to_q.lora_A.weight` and `lora_B`. Files made elsewhere may also say `lora_down` and
`lora_up`, or `lora.down` and `lora.up`, have an `alpha` beside them or in their header, or no `transformer.` before their keys.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from theseus_core.config import Tree
from theseus_core.contracts import Generator
from theseus_core.errors import TheseusError
from theseus_core.files import replacing
from theseus_core.generators import dit
from theseus_core.nn.lora import LowRank, Place, add, is_linear, sides
from theseus_core.pretrained.transformer import AROUND, BLOCK

FILE = "pytorch_lora_weights.safetensors"
PREFIX = "transformer."
PREFIXES = (PREFIX, "base_model.model.", "")
HEADER = "lora_adapter_metadata"  # where diffusers keeps peft's settings, as JSON
ENDINGS = {
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".alpha": "alpha",
}
TRAINED = ("attention.qkv", "attention.out")  # of each block: what CogVideoX is fine-tuned at, here as elsewhere
NAMED = 5  # keys that a message names; of a wrong file there are hundreds


@dataclass(frozen=True)
class Lora:
    """A file of low-rank differences, and how strongly it acts.

    Attributes:
        scale: 1 for as it was trained, 0.5 for half of it, and so on; below 0 for the opposite.
    """

    path: Path
    scale: float = 1.0

    def __str__(self) -> str:
        """What `parse_lora` reads."""
        return f"{self.path}:{self.scale!r}"


def parse_lora(text: str) -> Lora:
    """`FILE` or `FILE:0.8`, where FILE may be a folder that holds one, such as a run.

    Raises:
        TheseusError: there is no such file, or not one in the folder.
    """
    name, colon, tail = text.rpartition(":")
    try:
        scale = float(tail) if colon else 1.0
    except ValueError:  # the colon is one of the name
        return Lora(_find(Path(text)))
    if not 0 < abs(scale) < 100:
        raise TheseusError(f"not a scale of a LoRA: {tail}", hint=f"1 is as it was trained: --lora {name}:0.8")
    return Lora(_find(Path(name if colon else text)), scale)


def _find(path: Path) -> Path:
    if path.is_file():
        return path
    for folder in (path / "model", path):
        found = sorted(folder.glob("*.safetensors")) if not (folder / FILE).is_file() else [folder / FILE]
        if len(found) == 1:
            return found[0]
    hint = "a .safetensors file, or a folder with one of them; --lora FILE:0.8 for less of it"
    raise TheseusError(f"no LoRA here: {path}", hint=hint)


# --- into a generator ---


def apply(generator: Generator, lora: Lora) -> int:
    """Put the differences of a file beside the layers of a generator; `nn.lora.merge` makes them one.

    Returns:
        how many keys of the file found their place: all of them.

    Raises:
        TheseusError: the file is damaged, or keys have no place in this model, or another shape; they are named.
    """
    tensors, header = _read(lora.path)
    places = _places(generator)
    factors, unknown = _sorted(tensors, places)
    if unknown:
        count = "not one" if len(unknown) == len(tensors) else f"not {len(unknown)}"
        raise TheseusError(
            f"{count} of the {len(tensors)} keys in {lora.path} has a place in this model: {_some(unknown)}",
            hint="a LoRA fits the model that it was trained on, and those of its kind; nothing of it is used",
        )
    pairs = {name: _pair(generator, places[name], name, found, header, lora) for name, found in factors.items()}
    for name, pair in pairs.items():  # not before all of them fit
        add(generator, places[name], pair)
    return len(tensors)


def _read(path: Path) -> tuple[dict[str, Tensor], Tree]:
    """The tensors, and peft's settings if the header has them."""
    try:
        with safe_open(path, framework="pt") as file:
            keys = file.keys()
            tensors = {key: file.get_tensor(key) for key in keys}
            found = json.loads((file.metadata() or {}).get(HEADER, "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        hint = f"LoRAs are read from safetensors, pickled ones are never opened: {error}"
        raise TheseusError(f"not a LoRA, or a damaged one: {path}", hint=hint) from error
    if not tensors:
        raise TheseusError(f"a LoRA without a single key: {path}")
    header = {key.removeprefix(PREFIX): value for key, value in found.items()} if isinstance(found, dict) else {}
    if header.get("use_dora"):
        raise TheseusError(f"DoRA is more than a low-rank difference, and is not known here: {path}")
    return tensors, header


def _places(generator: Generator) -> dict[str, Place]:
    """Every linear layer that has a name of diffusers', by that name."""
    if not isinstance(generator, dit.Model):
        family = type(generator).__module__.rpartition(".")[-1]
        raise TheseusError(f"LoRAs are for transformers of the family dit, not for: {family}")
    names = {
        (f"blocks.{i}.{ours}", f"transformer_blocks.{i}."): theirs
        for i in range(generator.config.layers)
        for ours, theirs in BLOCK.items()
    }
    names |= {(ours, ""): [theirs] for ours, theirs in AROUND.items()}
    layers = dict(generator.named_modules())
    return {
        before + name: Place(ours, part, len(theirs))
        for (ours, before), theirs in names.items()
        for part, name in enumerate(theirs)
        if ours in layers and is_linear(layers[ours])
    }


def _sorted(tensors: Mapping[str, Tensor], places: Mapping[str, Place]) -> tuple[dict[str, dict[str, Tensor]], list[str]]:
    """The factors of each place by their roles in `ENDINGS`, and the keys that fit nowhere."""
    factors: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for key, tensor in tensors.items():
        ending = next((ending for ending in ENDINGS if key.endswith(ending)), None)
        bare = key.removesuffix(ending or "")
        name = next((bare.removeprefix(p) for p in PREFIXES if bare.startswith(p) and bare.removeprefix(p) in places), None)
        if ending is None or name is None:
            unknown.append(key)
        else:
            factors.setdefault(name, {})[ENDINGS[ending]] = tensor
    return factors, sorted(unknown)


def _pair(generator: Generator, place: Place, name: str, found: Mapping[str, Tensor], header: Tree, lora: Lora) -> LowRank:
    inputs, outputs = sides(generator.get_submodule(place.layer))
    outputs //= place.parts
    if not {"down", "up"} <= found.keys():
        raise TheseusError(f"half of a low-rank difference in {lora.path}: {name}", hint="the file is incomplete")
    down, up = found["down"], found["up"]
    rank = len(down)
    if tuple(down.shape) != (rank, inputs) or tuple(up.shape) != (outputs, rank):
        shapes = f"{tuple(up.shape)} x {tuple(down.shape)} for ({outputs}, {inputs})"
        raise TheseusError(
            f"{lora.path} is for a model of another size, {shapes}: {name}", hint="name the model that it was trained on"
        )
    alpha = float(found["alpha"]) if "alpha" in found else _alpha(name, rank, header)
    with torch.device("meta"):
        pair = LowRank(inputs, outputs, rank, lora.scale * alpha / (rank**0.5 if header.get("use_rslora") else rank))
    device = next(generator.parameters()).device
    state = {"down.weight": down.float().to(device), "up.weight": up.float().to(device)}
    pair.load_state_dict(state, assign=True)
    return pair.requires_grad_(False)


def _alpha(name: str, rank: int, header: Tree) -> float:
    """peft's alpha: that of the first pattern that the layer's name ends with, else the common one; the rank where none is said."""
    patterns: Mapping[str, Any] = header.get("alpha_pattern") or {}
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return float(value)
    return float(header.get("lora_alpha", rank))


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:NAMED]) + (f" and {len(keys) - NAMED} more" if len(keys) > NAMED else "")


# --- trained here ---


def attach(generator: Generator, rank: int) -> dict[str, LowRank]:
    """Put a fresh difference beside every attention layer of a generator; they are what trains, and all else is frozen.

    Returns:
        the differences by diffusers' names of the layers.

    Raises:
        TheseusError: the generator is of another family, or so narrow that the differences would be no smaller than its layers.
    """
    places = {name: place for name, place in _places(generator).items() if place.layer.endswith(TRAINED)}
    width = min(sides(generator.get_submodule(place.layer))[0] for place in places.values())
    if not 0 < rank <= width // 2:
        raise TheseusError(f"a low rank is at most half of the model's width of {width}, not: {rank}", hint="--lora 64 is common")
    generator.requires_grad_(False)
    pairs = {}
    for name, place in places.items():
        inputs, outputs = sides(generator.get_submodule(place.layer))
        pairs[name] = LowRank(inputs, outputs // place.parts, rank)
        add(generator, place, pairs[name])
    return pairs


def save_lora(pairs: Mapping[str, nn.Module], path: Path) -> Path:
    """Write differences as diffusers reads them. Their alpha is their rank, which is what a reader takes where it is not said."""
    tensors = {f"{PREFIX}{name}.{leaf}": tensor for name, pair in pairs.items() for leaf, tensor in _factors(pair)}
    with replacing(path) as part:
        save_file(tensors, part, {"format": "pt"})
    return path


def _factors(pair: nn.Module) -> Iterator[tuple[str, Tensor]]:
    assert isinstance(pair, LowRank)
    yield "lora_A.weight", pair.down.weight.detach().float().cpu().contiguous()
    yield "lora_B.weight", (pair.scale * pair.up.weight.detach()).float().cpu().contiguous()
