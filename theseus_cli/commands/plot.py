"""`theseus plot`: the curves of a training run as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from theseus_cli import console


def plot(
    run: Annotated[Path, typer.Argument(help="A folder that `theseus train` wrote.", show_default=False)],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A .png file.", show_default="RUN/curves.png")] = None,
) -> None:
    """Draw every figure that a run has logged, training against held-out clips."""
    from theseus_core.errors import TheseusError
    from theseus_core.render.plots import curves
    from theseus_core.train.journal import read_journal

    target = output or run / "curves.png"
    if target.suffix.lower() != ".png":
        raise TheseusError(f"curves are written as .png, not as: {target.name}")
    console.emit(curves(read_journal(run / "metrics.jsonl"), target, title=str(run)))
