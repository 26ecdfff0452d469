"""Models that do not fit into the accelerator's memory: which part is there, and when. And compiling their blocks."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from theseus_core.contracts import Generator
from theseus_core.errors import TheseusError, nearest

MODES = ["none", "model", "layer"]


def check(mode: str, device: torch.device, compile: bool, quantize: str = "none") -> None:
    """Refuse a way of offloading or compiling that could have no effect here.

    Raises:
        TheseusError: saying why.
    """
    if mode not in MODES:
        raise TheseusError(f"no such way to offload: {mode}", hint=nearest(mode, MODES))
    if mode != "none" and device.type == "cpu":
        hint = "on a CPU the model is there already; --quantize int8 or nf4 makes it smaller"
        raise TheseusError(f"offloading moves parts from an accelerator to main memory, and the device is: {device}", hint=hint)
    if mode != "none" and quantize != "none":
        raise TheseusError(
            f"quantized weights stay on the device: --offload {mode} with --quantize {quantize}", hint="choose one of the two"
        )
    if compile and mode == "layer":
        raise TheseusError("compiled blocks cannot be moved in and out: --compile with --offload layer", hint="--offload model")
    if compile and device.type == "cpu" and not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        raise TheseusError(
            "compiling for a CPU needs a C++ compiler, and none was found: g++", hint="install one, or leave --compile out"
        )


def check_blocks(generator: Generator, mode: str, compile: bool) -> None:
    """Refuse what goes block by block where a generator has no blocks.

    Raises:
        TheseusError: it would have no effect.
    """
    if not generator.shard_units() and (compile or mode == "layer"):
        flag = "--compile" if compile else "--offload layer"
        hint = "leave it out" if compile else "--offload model"
        raise TheseusError(f"this model has no repeated blocks, and nothing would come of: {flag}", hint=hint)


def place(parts: Sequence[nn.Module], generator: Generator, device: torch.device, mode: str) -> None:
    """Put the parts where they begin: all on the device, none (`model`), or all but the generator's blocks (`layer`)."""
    if mode == "model":
        return
    if mode == "layer":
        offload_units(generator, device)
    for part in parts:
        if part is not generator or mode == "none":
            part.to(device)


def bring_alone(part: nn.Module, parts: Sequence[nn.Module], device: torch.device) -> None:
    """Move one part to the device and the others to main memory."""
    for other in parts:
        if other is not part:
            other.to("cpu")
    part.to(device)


def offload_units(generator: Generator, device: torch.device) -> None:
    """Keep the generator's blocks in main memory; each comes to the device for its own forward pass alone.

    Everything else of the generator stays on the device.
    """
    units = generator.shard_units()
    inside = {id(module) for unit in units for module in unit.modules()}
    for module in generator.modules():
        if id(module) not in inside:
            _move_own(module, device)
    for unit in units:
        unit.register_forward_pre_hook(partial(_arrive, device=device))
        unit.register_forward_hook(_leave)


def _move_own(module: nn.Module, device: torch.device) -> None:
    """Move what the module itself holds, and not its children."""
    for parameter in module.parameters(recurse=False):
        parameter.data = parameter.data.to(device)
    for name, buffer in module.named_buffers(recurse=False):
        setattr(module, name, buffer.to(device))


def _arrive(unit: nn.Module, inputs: Any, *, device: torch.device) -> None:
    unit.to(device)


def _leave(unit: nn.Module, inputs: Any, output: Any) -> None:
    unit.to("cpu")


def compile_units(generator: Generator) -> None:
    """Compile each of the generator's blocks at its first use: equal blocks share one compilation, unlike a whole model."""
    for unit in generator.shard_units():
        unit.compile()
