"""Options that several commands share, each with its words in one place."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from theseus_core.errors import TheseusError


class Quantize(StrEnum):
    """Bits of the linear layers."""

    none = "none"
    int8 = "int8"
    nf4 = "nf4"
    fp4 = "fp4"


class Offload(StrEnum):
    """What waits in main memory."""

    none = "none"
    model = "model"
    layer = "layer"


class DType(StrEnum):
    """Precision of the computation."""

    auto = "auto"
    bf16 = "bf16"
    fp16 = "fp16"
    fp32 = "fp32"


MACHINE = "Machine"  # the panel of the help text for what decides where and how, not what

DeviceOption = Annotated[
    str, typer.Option("--device", help="auto (cuda, then mps, then cpu), or one by name.", rich_help_panel=MACHINE)
]
DTypeOption = Annotated[
    DType, typer.Option("--dtype", help="Precision of the computation; auto takes bf16 where it is fast.", rich_help_panel=MACHINE)
]
QuantizeOption = Annotated[
    Quantize,
    typer.Option(
        "--quantize", help="Linear layers in 8 or 4 bits: less memory; int8 on a CPU is faster too.", rich_help_panel=MACHINE
    ),
]
OffloadOption = Annotated[
    Offload,
    typer.Option("--offload", help="Keep whole parts, or single layers, in main memory until used.", rich_help_panel=MACHINE),
]
CompileOption = Annotated[
    bool, typer.Option("--compile", help="Compile the generator: slow to start, faster for many videos.", rich_help_panel=MACHINE)
]
TilingOption = Annotated[
    bool, typer.Option("--tiling", help="Large frames in tiles: less memory, a little other pictures.", rich_help_panel=MACHINE)
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same result.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of a table.")]
VaeOption = Annotated[Path, typer.Option("--vae", help="A run or model folder with a tokenizer.")]


def parse_size(text: str) -> tuple[int, int]:
    """`128` or `720x480` (width first) as height and width.

    Raises:
        TheseusError: it is neither.
    """
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() and int(side) > 0 for side in sides):
        raise TheseusError(f"not a size: {text}", hint="one number for a square, or WIDTHxHEIGHT: 128, 720x480")
    return int(sides[-1]), int(sides[0])
