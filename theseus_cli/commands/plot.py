"""`theseus plot`: a picture of a training run, of a dataset, or of what was generated."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from theseus_cli import console
from theseus_core.errors import TheseusError

if TYPE_CHECKING:
    from theseus_core.data.clip import Clip


def plot(
    folder: Annotated[Path, typer.Argument(help="A training run, a dataset, or a folder of generated videos.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A .png file.", show_default="curves.png or contact_sheet.png in that folder"),
    ] = None,
    clips: Annotated[int, typer.Option("--clips", min=1, help="At most so many clips on a contact sheet.")] = 24,
) -> None:
    """Draw the curves of a run, or a contact sheet of clips."""
    from theseus_core.render.plots import curves
    from theseus_core.render.sheets import contact_sheet
    from theseus_core.train.journal import read_journal

    is_run = (folder / "metrics.jsonl").is_file()
    target = output or folder / ("curves.png" if is_run else "contact_sheet.png")
    if target.suffix.lower() != ".png":
        raise TheseusError(f"pictures are written as .png, not as: {target.name}")
    if is_run:
        curves(read_journal(folder / "metrics.jsonl"), target, title=str(folder))
    else:
        contact_sheet(clips_of(folder, clips), target)
    console.emit(target)


def clips_of(folder: Path, most: int) -> list[Clip]:
    """The clips of a dataset or of a folder of generated videos, at most so many and evenly spread."""
    from dataclasses import replace

    from theseus_core.data.shards import Dataset
    from theseus_core.recipe import read_index
    from theseus_core.render.video import read

    if (folder / "dataset.json").is_file():
        dataset = Dataset.open(folder)
        return [dataset.read(index) for index in spread(len(dataset), most)]
    if (folder / "index.jsonl").is_file():
        videos = read_index(folder)
        return [replace(read(videos[index][0], max_frames=1000), caption=videos[index][1]) for index in spread(len(videos), most)]
    raise TheseusError(
        f"nothing to draw, neither metrics.jsonl nor dataset.json nor index.jsonl is in: {folder}",
        hint="name a run such as runs/vae, a dataset, or a folder that `theseus generate` wrote",
    )


def spread(count: int, most: int) -> list[int]:
    """At most so many of `range(count)`, evenly spread."""
    return list(range(count)) if count <= most else [index * count // most for index in range(most)]
