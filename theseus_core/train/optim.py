"""Learning-rate schedules, which parameter goes to which optimizer, and one phase of a training step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from theseus_core.contracts import Trainable
from theseus_core.errors import TheseusError
from theseus_core.train.config import TrainConfig
from theseus_core.train.distributed import gather
from theseus_core.train.muon import Muon

Group = dict[str, Any]


# --- schedules: the learning rate of a step (counted from 0), as a share of its peak ---


def warmed_up(step: int, warmup: int) -> float:
    return min(1.0, (step + 1) / (warmup + 1))


def constant_linear(step: int, steps: int, decay: float) -> float:
    """1, then a straight line over the last `decay` share of the steps that would reach 0 one step after the last."""
    return min(1.0, (steps - step) / max(1.0, decay * steps))


def cosine(step: int, steps: int, warmup: int) -> float:
    """Half a cosine from 1, where the warm-up ends, to 0."""
    done = max(0, step - warmup) / max(1, steps - warmup)
    return 0.5 * (1 + math.cos(math.pi * done))


def lr_factor(config: TrainConfig, step: int) -> float:
    """The share of the peak learning rate that step `step`, counted from 0, uses."""
    warmup = min(config.warmup, config.steps // 5)
    rise = warmed_up(step, warmup)
    if config.schedule == "constant-linear":
        return rise * constant_linear(step, config.steps, config.decay)
    if config.schedule == "cosine":
        return rise * cosine(step, config.steps, warmup)
    return rise


# --- which parameter goes where ---


def decays(parameter: nn.Parameter, name: str, owner: nn.Module) -> bool:
    """Weight decay is for matrices and kernels: not for norms, biases, embeddings, or free-standing tables."""
    is_table = isinstance(owner, nn.Embedding) or name != "weight"
    is_vector = parameter.numel() == max(parameter.shape, default=1)  # also a norm's (C, 1, 1, 1)
    return not is_table and not is_vector


def _owners(model: nn.Module) -> dict[int, tuple[str, nn.Module]]:
    """For each parameter, by id: its own name and the module that it belongs to."""
    return {id(p): (name, module) for module in model.modules() for name, p in module.named_parameters(recurse=False)}


def split(model: Trainable, phase: str) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """The trainable parameters of a phase as "matrices" of the repeated blocks, other "decayed" ones, and the "plain" rest."""
    owners = _owners(model)
    blocks = {id(p) for unit in model.shard_units() for p in unit.parameters()}
    groups: dict[str, list[tuple[str, nn.Parameter]]] = {"matrices": [], "decayed": [], "plain": []}
    for name, parameter in model.phase_parameters(phase):
        if not parameter.requires_grad:
            continue
        if not decays(parameter, *owners[id(parameter)]):
            groups["plain"].append((name, parameter))
        elif parameter.ndim == 2 and id(parameter) in blocks:
            groups["matrices"].append((name, parameter))
        else:
            groups["decayed"].append((name, parameter))
    return groups


def build_optimizers(
    model: Trainable, phase: str, config: TrainConfig, device: torch.device, dtype: torch.dtype
) -> dict[str, Optimizer]:
    """The optimizers of one phase by label (`generator.muon`); each group's peak rate is its `peak_lr`.

    Raises:
        TheseusError: adamw8bit cannot run here.
    """
    parts = split(model, phase)
    optimizers: dict[str, Optimizer] = {}
    if config.optimizer == "muon":
        matrices = _groups(model, parts.pop("matrices"), config.lr * config.muon_lr_ratio, config.weight_decay)
        if matrices:
            optimizers[f"{phase}.muon"] = Muon(matrices, dtype)
    decayed = [*parts.get("matrices", []), *parts["decayed"]]
    rest = _groups(model, decayed, config.lr, config.weight_decay) + _groups(model, parts["plain"], config.lr, 0.0)
    if rest:
        kind = "adamw8bit" if config.optimizer == "adamw8bit" else "adamw"
        optimizers[f"{phase}.{kind}"] = _adamw(rest, config, device)
    return optimizers


def _groups(model: Trainable, named: list[tuple[str, nn.Parameter]], lr: float, weight_decay: float) -> list[Group]:
    """One group for each learning rate that the model asks for."""
    by_ratio: dict[float, list[nn.Parameter]] = {}
    for name, parameter in named:
        by_ratio.setdefault(model.lr_ratio(name), []).append(parameter)
    return [
        {"params": parameters, "lr": lr * ratio, "peak_lr": lr * ratio, "weight_decay": weight_decay}
        for ratio, parameters in by_ratio.items()
    ]


def _adamw(groups: list[Group], config: TrainConfig, device: torch.device) -> Optimizer:
    if config.optimizer != "adamw8bit":
        return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=device.type in ("cpu", "cuda"))
    try:
        from bitsandbytes.optim.adamw import AdamW8bit
    except (ImportError, OSError, RuntimeError) as error:
        raise TheseusError(
            "bitsandbytes does not load on this machine, which optimizer adamw8bit needs", hint=str(error)
        ) from error
    if device.type not in ("cpu", "cuda"):
        raise TheseusError(f"optimizer adamw8bit runs on cpu and cuda, not on: {device.type}", hint="use --optimizer adamw")
    optimizer: Optimizer = AdamW8bit(groups, lr=config.lr, betas=config.betas)  # type: ignore[no-untyped-call]
    return optimizer


# --- a phase of a step ---


@dataclass
class Phase:
    """The part of a model that is updated together: a GAN has two, everything else one.

    Attributes:
        name: what `Trainable.losses` is asked for.
        parameters: those that it updates, by name.
        optimizers: by label; their state is kept under it.
        others: trainable parameters of the other phases, frozen while this one runs.
    """

    name: str
    parameters: dict[str, nn.Parameter]
    optimizers: dict[str, Optimizer]
    others: list[nn.Parameter]

    @contextmanager
    def focused(self) -> Iterator[None]:
        """Let gradients reach this phase's parameters only, and leave none behind."""
        for parameter in self.others:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in self.others:
                parameter.requires_grad_(True)
            for parameter in self.parameters.values():
                parameter.grad = None

    def clip(self, largest: float) -> float:
        """Scale the gradients down to a norm of `largest` (0 for any); gives the norm before."""
        with_gradient = [p for p in self.parameters.values() if p.grad is not None]
        assert with_gradient, f"no gradient in phase {self.name}"
        norm = gather(nn.utils.get_total_norm([p.grad for p in with_gradient if p.grad is not None]))
        if largest:
            nn.utils.clip_grads_with_norm_(with_gradient, largest, norm)
        return norm.item()

    def step(self, factor: float) -> None:
        """Update the weights at `factor` times the peak learning rates."""
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
            optimizer.step()


def build_phases(model: Trainable, config: TrainConfig, device: torch.device, dtype: torch.dtype) -> list[Phase]:
    """The phases of a model with their optimizers; `dtype` is what Muon computes in.

    Raises:
        TheseusError: the optimizer cannot run here, or has nothing to do.
    """
    phases = []
    trainable = {id(p): p for p in model.parameters() if p.requires_grad}
    for name in model.phases:
        own = {label: p for label, p in model.phase_parameters(name) if p.requires_grad}
        mine = {id(p) for p in own.values()}
        others = [p for key, p in trainable.items() if key not in mine]
        phases.append(Phase(name, own, build_optimizers(model, name, config, device, dtype), others))
    labels = [label for phase in phases for label in phase.optimizers]
    if config.optimizer == "muon" and not any(label.endswith(".muon") for label in labels):
        raise TheseusError(f"this model has no matrices in repeated blocks for optimizer: {config.optimizer}", hint="use adamw")
    return phases
