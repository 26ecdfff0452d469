"""`theseus prep`: a folder of GIFs and videos becomes a dataset."""

from __future__ import annotations

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from theseus_cli import console
from theseus_cli.options import parse_size
from theseus_core.errors import TheseusError

if TYPE_CHECKING:
    from theseus_core.data.filters import PrepSettings
    from theseus_core.data.prepare import Summary

WITHOUT_SOURCE = {"source", "output", "export", "as_json"}  # the options that mean something when there is nothing to prepare
TRAINED_MULTIPLE = 16  # pixels
SETTINGS = ("min_frames", "max_frames", "fps", "limit", "chunk_size", "timeout", "memory")


class Fit(StrEnum):
    """How a picture of another shape becomes one of --size."""

    crop = "crop"
    letterbox = "letterbox"
    stretch = "stretch"


class Long(StrEnum):
    """What becomes of a clip with more than --max-frames."""

    reject = "reject"
    trim = "trim"
    windows = "windows"


class Layout(StrEnum):
    """Where captions come from."""

    auto = "auto"
    folder = "folder"
    captions = "captions"


def prep(
    context: typer.Context,
    source: Annotated[
        list[Path] | None, typer.Argument(help="Files and folders of .gif .mp4 .webm .mov .avi .mkv.", show_default=False)
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The dataset's folder.")] = Path("dataset"),
    size: Annotated[str, typer.Option(help="Of the clips in pixels: 128, or WIDTHxHEIGHT: 720x480.")] = "128",
    fit: Annotated[Fit, typer.Option(help="Crop the middle, letterbox with black, or stretch.")] = Fit.crop,
    min_frames: Annotated[int, typer.Option(help="Shorter clips are rejected.")] = 15,
    max_frames: Annotated[int, typer.Option(help="Longer clips are treated as --long says.")] = 40,
    long: Annotated[
        Long, typer.Option(help="Reject, trim to the first frames, or cut into windows of --max-frames.")
    ] = Long.reject,
    fps: Annotated[
        float | None, typer.Option(help="Resample to this rate before frames are counted.", show_default="as it is")
    ] = None,
    captions: Annotated[
        Path | None,
        typer.Option(help="A .tsv, .csv or .jsonl of paths and captions.", show_default="captions.* in the source"),
    ] = None,
    layout: Annotated[
        Layout, typer.Option(help="folder: captions from sidecar .txt and names; captions: from a table, and only its files.")
    ] = Layout.auto,
    limit: Annotated[int | None, typer.Option(help="Take only so many files, drawn by --seed.", show_default="all")] = None,
    seed: Annotated[int | None, typer.Option(help="Which files --limit draws.", show_default="0")] = None,
    chunk_size: Annotated[int, typer.Option(help="Clips in a chunk, at most 10000.")] = 10_000,
    timeout: Annotated[float, typer.Option(help="Seconds that one file may take.")] = 60,
    memory: Annotated[int, typer.Option(help="MiB that one file may take.")] = 2048,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes.", show_default="one per core")] = None,
    export: Annotated[
        Path | None,
        typer.Option(help="Write the dataset's clips as lossless .mkv and .txt files into a new folder; no SOURCE needed."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Prepare a dataset: check, crop, resize and pack every clip. Started again, it goes on where it stopped."""
    if seed is not None and limit is None:
        raise TheseusError(f"--seed has no effect without --limit: {seed}", hint="--limit N takes N files, drawn by the seed")
    given = {name for name in context.params if context.get_parameter_source(name).name == "COMMANDLINE"}  # type: ignore[union-attr]
    if "memory" in given and sys.platform != "linux":
        raise TheseusError(f"--memory has no effect here: {memory}", hint="only Linux holds a process to a limit")
    if not source:
        _refuse_without_source(given, export)
    else:
        height, width = parse_size(size)
        tree = {name: context.params[name] for name in SETTINGS if context.params[name] is not None}
        tree |= {"fit": fit.value, "long": long.value, "layout": layout.value}
        tree |= {"width": width, "height": height, "captions": str(captions) if captions else None, "seed": seed or 0}
        _prepare(source, output, tree, workers, as_json)
    if export is not None:
        _export(output, export, as_json or bool(source))


def _refuse_without_source(given: set[str], export: Path | None) -> None:
    idle = [f"--{name.replace('_', '-')}" for name in sorted(given - WITHOUT_SOURCE)]
    if export is None:
        raise typer.BadParameter("nothing to prepare: name a folder of GIFs or videos", param_hint="SOURCE")
    if idle:
        raise TheseusError(f"no effect without a SOURCE: {' '.join(idle)}", hint="the clips are exported as they were prepared")


def _prepare(source: list[Path], output: Path, tree: dict[str, Any], workers: int | None, as_json: bool) -> None:
    import os
    from dataclasses import asdict
    from functools import partial

    from theseus_core.config import validate
    from theseus_core.data.filters import PrepSettings
    from theseus_core.data.prepare import prepare
    from theseus_core.render.sheets import contact_sheet

    settings = validate(PrepSettings, tree)
    if settings.layout == "folder" and settings.captions:
        raise TheseusError("--layout folder reads no captions file", hint="leave out --layout or --captions")
    if settings.width % TRAINED_MULTIPLE or settings.height % TRAINED_MULTIPLE:
        size = f"{settings.width}x{settings.height}"
        console.warn(f"the trainings of this package need widths and heights that are multiples of {TRAINED_MULTIPLE}, not: {size}")
    with console.progress("preparing") as advance:
        summary = prepare(
            source,
            output,
            settings,
            workers=workers or os.cpu_count() or 1,
            progress=advance,
            draw_sheet=partial(contact_sheet, height=64),
        )
    _report(source, summary, settings)
    console.emit(asdict(summary) | {"path": str(summary.path)} if as_json else summary.path)


def _report(source: list[Path], summary: Summary, settings: PrepSettings) -> None:
    from theseus_core.data.filters import REASONS
    from theseus_core.files import printable

    rows: list[tuple[str, int, str]] = [("kept", summary.kept, "")]
    rows += [(reason, count, REASONS[reason]) for reason, count in summary.rejected.items()]
    console.table(("files", "count", "why"), [*rows, ("found", summary.found, "")])
    size = f"{settings.width}x{settings.height}"
    wrote = f"{summary.clips:,} clips, {summary.frames:,} frames of {size}, {summary.bytes / 2**20:,.1f} MiB"
    console.say(f"read {summary.found:,} files from {', '.join(map(printable, source))}")
    console.say(f"nothing to do, it is prepared: {wrote}" if summary.finished_before else f"wrote {summary.path}: {wrote}")
    if summary.rejected:
        console.say(f"each rejected file with its reason: {summary.path / 'rejected.jsonl'}")
    console.say(f"what was kept, as a picture: {summary.path / 'contact_sheet.png'}")
    console.say("captions: " + ", ".join(f"{count:,} clips by {origin}" for origin, count in summary.captions.items()))
    if by_name := summary.captions.get("name", 0):
        console.warn(f"{by_name:,} of {summary.clips:,} clips have no caption but their file's name")
    if summary.captions_without_file:
        console.warn(f"{summary.captions_without_file:,} lines of the captions file name no file of the source")
    default = str(summary.path) == "dataset"
    console.say_next("theseus train vae" if default else f"theseus train vae --data {shlex.quote(str(summary.path))}")


def _export(output: Path, folder: Path, quiet: bool) -> None:
    from theseus_core.data.export import export
    from theseus_core.data.shards import Dataset

    dataset = Dataset.open(output)
    with console.progress("exporting", len(dataset)) as advance:
        export(dataset, folder, advance)
    console.say(f"wrote {len(dataset):,} clips as lossless FFV1 .mkv with captions in .txt: {folder}")
    if not quiet:
        console.emit(folder)
