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
        typer.Option(
            "--output",
            "-o",
            help="A .png file.",
            show_default="curves.png or contact_sheet.png in that folder, DATASET-clips.png here",
        ),
    ] = None,
    clips: Annotated[int, typer.Option("--clips", min=1, help="At most so many clips on a contact sheet.")] = 24,
) -> None:
    """Draw the curves of a run, or a contact sheet of clips."""
    from theseus_core.render.plots import curves
    from theseus_core.render.sheets import contact_sheet
    from theseus_core.train.journal import read_journal

    is_run = (folder / "metrics.jsonl").is_file()
    target = output or _default_target(folder, is_run)
    if target.suffix.lower() != ".png" or target.is_dir():
        raise TheseusError(f"a picture is written as a .png file, not as: {target}")
    if is_run:
        curves(read_journal(folder / "metrics.jsonl"), target, title=str(folder))
    else:
        contact_sheet(clips_of(folder, clips), target)
    console.emit(target)


def _default_target(folder: Path, is_run: bool) -> Path:
    if (folder / "dataset.json").is_file():  # whose contact sheet is `prep`'s own
        return Path(f"{folder.resolve().name}-clips.png")
    return folder / ("curves.png" if is_run else "contact_sheet.png")


def clips_of(folder: Path, most: int) -> list[Clip]:
    """The clips of a dataset or of a folder of generated videos, at most so many and evenly spread."""
    from dataclasses import replace

    from theseus_core.data.clip import spread
    from theseus_core.data.shards import Dataset
    from theseus_core.recipe import read_index
    from theseus_core.render.video import read

    if (folder / "dataset.json").is_file():
        dataset = Dataset.open(folder)
        return [dataset.read(index) for index in spread(range(len(dataset)), most)]
    if (folder / "index.jsonl").is_file():
        return [replace(read(video, max_frames=1000), caption=prompt) for video, prompt in spread(read_index(folder), most)]
    raise TheseusError(
        f"nothing to draw, neither metrics.jsonl nor dataset.json nor index.jsonl is in: {folder}",
        hint="name a run such as runs/vae, a dataset, or a folder that `theseus generate` wrote",
    )
