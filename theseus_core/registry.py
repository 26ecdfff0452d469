"""Families by name. A family is a file: its name is the file's name, and nothing is registered anywhere else.

Every family module defines
    Config   its configuration, a `theseus_core.config.Config`
    Model    its network, built as `Model(config)`
    PRESETS  named differences from the configuration's defaults; "small" is what a user gets who asks for nothing
    RUN      where it wants other settings of a training than the defaults of `train.runs`: differences from these
and, where its weights are more than a state dictionary (a text encoder from a hub comes with its tokenizer's files),
    save(model, folder), load(folder, config)
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from pathlib import Path
from typing import Any, Literal, get_args, overload

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.overrides import TorchFunctionMode

from theseus_core.config import Config, Tree, dump, merge, validate
from theseus_core.contracts import Generator, TextEncoder, VideoTokenizer
from theseus_core.errors import TheseusError, nearest

Group = Literal["tokenizers", "generators", "text"]
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def names(group: Group) -> list[str]:
    """The families of a group, read off the file names: nothing is imported."""
    folder = Path(__file__).parent / group
    if group not in get_args(Group):
        raise TheseusError(f"no such group of families: {group}", hint=nearest(group, list(get_args(Group))))
    return sorted(module.name for module in pkgutil.iter_modules([str(folder)]) if not module.name.startswith("_"))


def family(group: Group, name: str) -> Any:
    """The module of a family.

    Raises:
        TheseusError: there is no such family.
    """
    if name not in names(group):
        raise TheseusError(f"no such family in {group}: {name}", hint=nearest(name, names(group)))
    return importlib.import_module(f"theseus_core.{group}.{name}")


def configure(group: Group, name: str, preset: str = "small", changes: Tree | None = None, prefix: str = "") -> Config:
    """The configuration of a family's preset, with changes laid over it.

    Raises:
        TheseusError: no such family, preset or key.
    """
    module = family(group, name)
    if preset not in module.PRESETS:
        raise TheseusError(f"{name} has no preset: {preset}", hint=nearest(preset, sorted(module.PRESETS)))
    config: Config = validate(module.Config, merge(module.PRESETS[preset], changes or {}), prefix)
    return config


@overload
def build(group: Literal["tokenizers"], name: str, preset: str = ..., changes: Tree | None = ...) -> VideoTokenizer: ...
@overload
def build(group: Literal["generators"], name: str, preset: str = ..., changes: Tree | None = ...) -> Generator: ...
@overload
def build(group: Literal["text"], name: str, preset: str = ..., changes: Tree | None = ...) -> TextEncoder: ...
def build(group: Group, name: str, preset: str = "small", changes: Tree | None = None) -> nn.Module:
    """A family's network with fresh weights.

    >>> vae = build("tokenizers", "causal_vae", preset="debug")
    """
    model: nn.Module = family(group, name).Model(configure(group, name, preset, changes))
    return model


def save_part(module: nn.Module, group: Group, folder: Path) -> None:
    """Write one part of a model folder: `config.json` and `model.safetensors`.

    The caller writes whole model folders to a temporary name and renames them; see `pipeline.save_model`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = type(module).__module__.rsplit(".", 1)[-1]
    described = {"group": group, "family": name, "config": dump(module.config)}  # type: ignore[arg-type]
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n")
    if hasattr(family(group, name), "save"):
        family(group, name).save(module, folder)
        return
    weights = {key: tensor.detach().cpu().contiguous() for key, tensor in module.state_dict().items()}
    save_file(weights, folder / "model.safetensors")


def load_part(folder: Path, group: Group) -> nn.Module:
    """Read what `save_part` wrote: the network in evaluation mode, on the CPU, in fp32 also where `halve_weights` has been.

    Raises:
        TheseusError: a file is missing or damaged, is of another group, or its weights do not fit its configuration.
    """
    name, tree = _described(folder, group)
    module = family(group, name)
    config = validate(module.Config, tree)
    if hasattr(module, "load"):
        loaded: nn.Module = module.load(folder, config)
        return loaded.eval()
    weights = _weights(folder / "model.safetensors")
    with torch.device("meta"), _Undrawn():
        model: nn.Module = module.Model(config)
    try:
        model.load_state_dict(weights, strict=True, assign=True)
    except RuntimeError as error:
        raise TheseusError(
            f"the weights do not fit the configuration: {folder}", hint=str(error).splitlines()[-1].strip()
        ) from error
    return model.eval()


class _Undrawn(TorchFunctionMode):
    """Leaves out what would be drawn into weights that have no memory: for it PyTorch imports its compiler, which takes seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == nn.init.__name__:  # as a whole: what it calls is not seen here
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def blueprint(folder: Path, group: Group) -> nn.Module:
    """The network of a part, in evaluation mode, on the meta device: its shapes without its weights, which are not read.

    Raises:
        TheseusError: as `load_part`, of the configuration.
    """
    name, tree = _described(folder, group)
    module = family(group, name)
    config = validate(module.Config, tree)
    with torch.device("meta"), _Undrawn():
        model: nn.Module = module.Model(config)
    return model.eval()


def halve_weights(source: Path, target: Path, dtype: str) -> None:
    """Write a file of weights anew with two bytes for each number.

    Args:
        dtype: a key of `HALVES`.

    Raises:
        TheseusError: the file is missing or damaged, or a number in it is too large for fp16.
    """
    weights = _weights(source)
    halved = {key: tensor.to(HALVES[dtype]) if tensor.is_floating_point() else tensor for key, tensor in weights.items()}
    if any((half.isinf() & tensor.isfinite()).any() for half, tensor in zip(halved.values(), weights.values(), strict=True)):
        raise TheseusError(f"it holds weights that are too large for {dtype}: {source}", hint="bf16 takes any")
    with safe_open(source, framework="pt") as file:
        save_file({key: tensor.contiguous() for key, tensor in halved.items()}, target, file.metadata())


def _described(folder: Path, group: Group) -> tuple[str, Tree]:
    path = folder / "config.json"
    try:
        described = json.loads(path.read_text())
        found, name, tree = described["group"], described["family"], described["config"]
    except FileNotFoundError as error:
        raise TheseusError(f"not a model folder, no such file: {path}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise TheseusError(f"damaged model folder: {path}", hint=str(error)) from error
    if found != group:
        raise TheseusError(f"expected a part of {group}, found one of {found}: {folder}")
    return name, tree


def _weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file, those in half precision as fp32."""
    try:
        weights = load_file(path)
    except FileNotFoundError as error:
        raise TheseusError(f"not a model folder, no such file: {path}") from error
    except Exception as error:  # safetensors raises its own type, which is no subclass of anything narrower
        raise TheseusError(f"damaged weights: {path}", hint=str(error)) from error
    return {key: tensor.float() if tensor.dtype in HALVES.values() else tensor for key, tensor in weights.items()}
