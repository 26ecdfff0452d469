"""Weights mapped from a file: what is copied from them takes no memory twice."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from theseus_core.device import forget_mapped
from theseus_core.pretrained.weights import STEM, Stored, load_into, same, stacked

MIB = 2**20
WIDE = 2048  # a layer of 16 MiB in fp32

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is let go of on Linux alone")


def mapped_memory() -> int:
    """Bytes of mapped files that are in this process's memory."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssFile"].split()[0]) * 1024


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    weights = {f"{name}.weight": torch.randn(WIDE, WIDE) for name in "abc"} | {f"{name}.bias": torch.randn(WIDE) for name in "abc"}
    save_file(weights, tmp_path / f"{STEM}.safetensors")
    return tmp_path


def stack() -> nn.ModuleDict:
    with torch.device("meta"):
        return nn.ModuleDict({"ab": nn.Linear(WIDE, 2 * WIDE), "c": nn.Linear(WIDE, WIDE)})


TIES = [*stacked("ab", "a", "b"), *same("c", "c")]


@linux
def test_what_was_copied_from_a_file_is_let_go_of(folder: Path) -> None:
    before = mapped_memory()
    stored, module = Stored(folder), stack()
    load_into(module, TIES, stored)
    assert mapped_memory() - before < 8 * MIB  # of the 32 that were copied
    assert module["c"].weight.sum().isfinite()  # this one is not copied: it is read now
    assert mapped_memory() - before > 12 * MIB


@linux
def test_what_was_let_go_of_is_read_again(folder: Path) -> None:
    stored = Stored(folder)
    weight = stored.read("a.weight")
    expected = weight.clone()
    forget_mapped(weight)
    assert torch.equal(weight, expected)


def test_only_what_is_mapped_is_marked_so(folder: Path) -> None:
    module = stack()
    load_into(module, TIES, Stored(folder))
    assert {name for name, parameter in module.named_parameters() if parameter.mapped} == {"c.weight", "c.bias"}
    load_into(module, TIES, Stored(folder), torch.bfloat16)
    assert not any(parameter.mapped for parameter in module.parameters())
