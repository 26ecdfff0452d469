"""The tensors of a training by name: gathered from the ranks for a checkpoint, and put back where they came from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from theseus_core.config import Tree
from theseus_core.errors import TheseusError
from theseus_core.train.checkpoint import Tensors
from theseus_core.train.distributed import gather, place_like
from theseus_core.train.ema import Ema
from theseus_core.train.optim import Phase

Named = list[tuple[str, Tensor]]


def model_tensors(model: nn.Module) -> Named:
    """Parameters and buffers, the very tensors that the model computes with."""
    return list(model.state_dict(keep_vars=True).items())


def averaged_tensors(model: nn.Module, ema: Ema) -> Named:
    """The same, with the averages in place of the trainable parameters."""
    return [(name, ema.of(tensor)) for name, tensor in model_tensors(model)]


def gathered(named: Iterable[tuple[str, Tensor]], keep: bool) -> Tensors:
    """Whole tensors on the CPU, on the ranks that keep them. Every rank must call it."""
    whole: Tensors = {}
    for name, tensor in named:
        full = gather(tensor.detach())
        if keep:
            whole[name] = full.cpu().contiguous()
    return whole


@torch.no_grad()
def restore(named: Named, saved: Tensors) -> None:
    """Copy saved tensors into those of the same names, sharded or not.

    Raises:
        TheseusError: a name is missing on either side, or a shape differs.
    """
    for name, tensor in named:
        found = tuple(saved[name].shape) if name in saved else None
        if found != tuple(tensor.shape):
            raise TheseusError(f"the checkpoint does not fit the model at {name}: {found} for {tuple(tensor.shape)}")
        tensor.copy_(place_like(saved[name], tensor))
    unknown = sorted(saved.keys() - {name for name, _ in named})
    if unknown:
        raise TheseusError(f"the checkpoint holds what the model has not: {unknown[0]}")


def _slots(phase: Phase, label: str, optimizer: Optimizer) -> Iterable[tuple[str, int, nn.Parameter]]:
    """Each parameter of an optimizer with a name for its state and its number in the optimizer's own `state_dict`."""
    names = {id(parameter): name for name, parameter in phase.parameters.items()}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, parameter in enumerate(parameters):
        yield f"{label}:{names[id(parameter)]}", number, parameter


def optimizer_tensors(phases: list[Phase]) -> tuple[Named, Tree]:
    """The state of every optimizer: its tensors as `generator.muon:blocks.0.weight:momentum`, and its plain numbers likewise."""
    tensors: Named = []
    scalars: Tree = {}
    for phase in phases:
        for label, optimizer in phase.optimizers.items():
            for slot, _, parameter in _slots(phase, label, optimizer):
                for key, value in optimizer.state.get(parameter, {}).items():
                    if isinstance(value, Tensor):
                        tensors.append((f"{slot}:{key}", value))
                    else:
                        scalars[f"{slot}:{key}"] = value
    return tensors, scalars


def restore_optimizers(phases: list[Phase], saved: Tensors, scalars: Tree) -> None:
    """Put back what `optimizer_tensors` gave.

    Raises:
        TheseusError: the checkpoint is of other optimizers.
    """
    by_slot: dict[str, dict[str, Any]] = {}
    for name, value in [*saved.items(), *scalars.items()]:
        slot, key = name.rsplit(":", 1)
        by_slot.setdefault(slot, {})[key] = value
    for phase in phases:
        for label, optimizer in phase.optimizers.items():
            state = {}
            for slot, number, parameter in _slots(phase, label, optimizer):
                if slot in by_slot:
                    state[number] = {key: _placed(value, parameter) for key, value in by_slot.pop(slot).items()}
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    if by_slot:
        raise TheseusError(f"the checkpoint holds the state of another optimizer: {min(by_slot)}")


def _placed(value: Any, parameter: nn.Parameter) -> Any:
    """State of a parameter's shape lies in memory, and over the ranks, as the parameter does."""
    if not isinstance(value, Tensor):
        return value
    if value.shape != parameter.shape:
        return value.to(parameter.device, copy=True)
    like = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False)
    return like.copy_(place_like(value, parameter))
