"""`theseus compare`: models side by side, on the same prompts and before the same judge."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from theseus_cli import console
from theseus_cli.commands.evaluate import Objects, SuiteName, introduce
from theseus_cli.options import DeviceOption, DType, DTypeOption, JsonOption, Quantize, QuantizeOption, SeedOption

if TYPE_CHECKING:
    from theseus_core.evaluate import Comparison


def compare(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Runs, model folders, bundled or hub names.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A folder; all that is made goes into a folder in it, named by the suite.")
    ] = Path("comparison"),
    suite: Annotated[SuiteName, typer.Option("--suite", help="What the prompts speak of.")] = SuiteName.shapes,
    clips: Annotated[
        int, typer.Option("--clips", min=1, help="How many prompts; as many again for what is held out, if anything is.")
    ] = 200,
    hold_out: Annotated[
        list[str] | None,
        typer.Option(
            "--hold-out",
            help='What the trainings never showed: "circle moving up-right". May be given again.',
            show_default="what all of them say so of",
        ),
    ] = None,
    objects: Annotated[Objects, typer.Option("--objects", help="Shapes in a clip.")] = Objects.any,
    frames: Annotated[
        int | None, typer.Option("--frames", help="Number of frames, at least 17.", show_default="each model's own")
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    dtype: DTypeOption = DType.auto,
    quantize: QuantizeOption = Quantize.none,
    json: JsonOption = False,
) -> None:
    """Score several models on the same prompts, and what each costs. A second start makes only what is missing."""
    from theseus_core.evaluate import How, draw_suite, held_out_of_all, line_up
    from theseus_core.evaluate import compare as run

    how = How(device, dtype.value, quantize.value, frames)
    contenders = line_up(runs, how)
    everywhere, somewhere = held_out_of_all(contenders, suite.value)
    if somewhere and not hold_out:
        console.warn(f"shown to some of them in training and not to others, and asked of all as seen: {'; '.join(somewhere)}")
    count = None if objects is Objects.any else int(objects.value)
    drawn = draw_suite(suite.value, clips, seed, hold_out or everywhere, count)
    introduce(drawn, ", ".join(runs))
    folder = output / suite.value
    with console.progress("comparing") as advance:
        found = run(contenders, drawn, folder, how, advance)
    show(found)
    console.say(f"the table: {folder / 'comparison.md'}, all figures: {folder / 'comparison.json'}")
    console.say(f"as pictures: {folder / 'comparison.png'}, {folder / 'contact_sheet.png'}")
    console.emit(found.tree() if json else folder)


def show(found: Comparison) -> None:
    """The table, and whose training nobody knows the minutes of."""
    console.table(["", *found.labels()], [[name, *cells] for name, cells in found.table()])
    unknown = [one.contender.label for one in found.standings if one.contender.trained.total is None]
    if unknown:
        console.say(f"no journal says how long these, or what they were built on, were trained: {', '.join(unknown)}")
