"""`theseus prep`: GIFs and videos become a dataset."""

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
SETTINGS = [
    "min_frames",
    "max_frames",
    "fps",
    "limit",
    "chunk_size",
    "timeout",
    "memory",
    "fold",
    "template",
    "frame_rate",
    "per_file",
]
SETTINGS += ["unsafe_threshold", "unsafe_frames"]
SOURCES, SAFETY = "Sources", "Safety"  # panels of the help text


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


class Kind(StrEnum):
    """What a source is."""

    auto = "auto"
    clips = "clips"
    frames = "frames"
    tgif = "tgif"
    ucf101 = "ucf101"
    kinetics = "kinetics"
    list = "list"


def prep(
    context: typer.Context,
    source: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="SOURCE",
            help="Files and folders of .gif .mp4 .webm .mov .avi .mkv, folders of frames, a table of TGIF, a list in .json .jsonl "
            ".csv .tsv, folders of UCF-101 or Kinetics.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The dataset's folder.")] = Path("dataset"),
    size: Annotated[str, typer.Option(help="Of the clips in pixels: 128, or WIDTHxHEIGHT: 720x480.")] = "128",
    fit: Annotated[Fit, typer.Option(help="Crop the middle, letterbox with black, or stretch.")] = Fit.crop,
    min_frames: Annotated[int, typer.Option(help="Shorter clips are rejected.")] = 15,
    max_frames: Annotated[int, typer.Option(help="Longer clips are treated as --long says.")] = 40,
    long: Annotated[
        Long, typer.Option(help="Reject, trim to the first frames, or cut into windows of --max-frames.")
    ] = Long.reject,
    per_file: Annotated[
        int | None, typer.Option(help="Of --long windows keep only so many, evenly spread over the file.", show_default="all")
    ] = None,
    fps: Annotated[
        float | None, typer.Option(help="Resample to this rate before frames are counted.", show_default="as it is")
    ] = None,
    captions: Annotated[
        Path | None,
        typer.Option(help="A .tsv, .csv, .jsonl or .json of paths and captions.", show_default="captions.* in the source"),
    ] = None,
    layout: Annotated[
        Layout, typer.Option(help="folder: captions from sidecar .txt and names; captions: from a table, and only its files.")
    ] = Layout.auto,
    kind: Annotated[
        Kind, typer.Option("--source", help="What the sources are; auto recognises them by their layout.", rich_help_panel=SOURCES)
    ] = Kind.auto,
    files: Annotated[
        Path | None,
        typer.Option(
            "--files",
            "--gifs",
            help="The folder of the files that a table names.",
            show_default="beside the table, in gifs/ for TGIF",
            rich_help_panel=SOURCES,
        ),
    ] = None,
    download: Annotated[
        bool,
        typer.Option(
            "--download",
            help="Fetch the GIFs of a TGIF table first; started again, it goes on with what is missing.",
            rich_help_panel=SOURCES,
        ),
    ] = False,
    splits: Annotated[
        Path | None,
        typer.Option(
            help="The folder of the official lists: train.txt, val.txt, test.txt, or those of UCF-101. What they call val is held "
            "out from training, and test left alone.",
            show_default="splits/ or ucfTrainTestlist/ beside",
            rich_help_panel=SOURCES,
        ),
    ] = None,
    fold: Annotated[
        int | None, typer.Option(help="Which lists of UCF-101: 1, 2 or 3.", show_default="1", rich_help_panel=SOURCES)
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            help="What makes a caption of a class of UCF-101 or Kinetics; {label} may stand in it, too.",
            show_default="{subject} {action}",
            rich_help_panel=SOURCES,
        ),
    ] = None,
    frame_rate: Annotated[
        float | None,
        typer.Option(help="Of folders of frames, which do not say it.", show_default="10", rich_help_panel=SOURCES),
    ] = None,
    safety: Annotated[
        list[str] | None,
        typer.Option(
            metavar="captions|MODEL",
            help="captions: leave out clips with a word of our list in a caption. MODEL, a hub name or a folder: leave out clips "
            "by an image classifier of transformers. May be given twice. It misses what is misspelt, in another language, or only "
            "meant; and what the classifier was not taught, or happens between the frames that it sees. Look at the contact sheet.",
            show_default="off",
            rich_help_panel=SAFETY,
        ),
    ] = None,
    unsafe_label: Annotated[
        list[str] | None,
        typer.Option(
            help="A label of the classifier that means unsafe; may be given several times.",
            show_default="nsfw, porn, gore and the like",
            rich_help_panel=SAFETY,
        ),
    ] = None,
    unsafe_threshold: Annotated[
        float | None,
        typer.Option(help="The probability in any frame that leaves a clip out.", show_default="0.5", rich_help_panel=SAFETY),
    ] = None,
    unsafe_frames: Annotated[
        int | None,
        typer.Option(help="How many frames of a clip the classifier sees.", show_default="4", rich_help_panel=SAFETY),
    ] = None,
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
        flags = {str(option.name): option.opts[0] for option in context.command.params}
        _refuse_without_source([flags[name] for name in sorted(given - WITHOUT_SOURCE)], export)
    else:
        height, width = parse_size(size)
        tree = {name: context.params[name] for name in SETTINGS if context.params[name] is not None}
        tree |= {"fit": fit.value, "long": long.value, "layout": layout.value}
        tree |= {"width": width, "height": height, "seed": seed or 0, "source": kind.value}
        tree |= {key: str(path) for key, path in (("captions", captions), ("files", files), ("splits", splits)) if path}
        tree |= {"safety": tuple(safety or ()), "unsafe_labels": tuple(unsafe_label or ())}
        _prepare(source, output, tree, workers, download, as_json)
    if export is not None:
        _export(output, export, as_json or bool(source))


def _refuse_without_source(idle: list[str], export: Path | None) -> None:
    if export is None:
        raise typer.BadParameter("nothing to prepare: name a folder of GIFs or videos", param_hint="SOURCE")
    if idle:
        raise TheseusError(f"no effect without a SOURCE: {' '.join(idle)}", hint="the clips are exported as they were prepared")


def _prepare(source: list[Path], output: Path, tree: dict[str, Any], workers: int | None, download: bool, as_json: bool) -> None:
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
    idle = [f"--{name.replace('_', '-')}" for name in ("unsafe_threshold", "unsafe_frames") if name in tree]
    if idle and not settings.classifiers:
        raise TheseusError(f"no effect without a classifier: {' '.join(idle)}", hint="name one with --safety MODEL")
    if settings.width % TRAINED_MULTIPLE or settings.height % TRAINED_MULTIPLE:
        size = f"{settings.width}x{settings.height}"
        console.warn(f"the trainings of this package need widths and heights that are multiples of {TRAINED_MULTIPLE}, not: {size}")
    if download:
        _download(source, settings)
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


def _download(source: list[Path], settings: PrepSettings) -> None:
    from theseus_core.data.download import DROPPED
    from theseus_core.data.download import download as fetch
    from theseus_core.data.prepare import limited
    from theseus_core.data.sources import tgif
    from theseus_core.data.sources.gather import recognise

    for table in source:
        kind = recognise(table) if settings.source == "auto" else settings.source
        if kind != "tgif":
            raise TheseusError(
                f"--download fetches the GIFs of a TGIF table, not: {table}", hint="a line is a URL, a tab, a sentence"
            )
    links = [tgif.links(table) for table in source]
    chosen, before = limited(sum(map(len, links)), settings), 0
    for table, urls in zip(source, links, strict=True):
        wanted = {name: url for place, (name, url) in enumerate(urls.items(), before) if place in chosen}
        before += len(urls)
        folder = tgif.gif_folder(table, settings)
        with console.progress("downloading") as advance:
            done = fetch(wanted, folder, progress=advance)
        console.say(f"{done.fetched:,} of {done.wanted:,} GIFs downloaded, {done.there:,} were there: {folder}")
        if done.dropped:
            reasons = ", ".join(f"{reason} ({count:,})" for reason, count in done.dropped.items())
            console.say(
                f"{sum(done.dropped.values()):,} cannot be used, and are not asked for again: {reasons}; see {folder / DROPPED}"
            )
        if done.failed:
            reasons = ", ".join(f"{reason} ({count:,})" for reason, count in done.failed.items())
            count = sum(done.failed.values())
            console.warn(f"{count:,} could not be fetched this time, and the dataset is made without them: {reasons}")
            console.say("to try them once more, stop this, or name another folder with -o, and start again: what is here stays")


def _report(source: list[Path], summary: Summary, settings: PrepSettings) -> None:
    from theseus_core.data.filters import REASONS
    from theseus_core.files import printable

    rows: list[tuple[str, int, str]] = [("kept", summary.kept, "")]
    rows += [(reason, count, REASONS[reason]) for reason, count in summary.rejected.items()]
    console.table(("files", "count", "why"), [*rows, ("found", summary.found, "")])
    size = f"{settings.width}x{settings.height}"
    wrote = f"{summary.clips:,} clips, {summary.frames:,} frames of {size}, {summary.bytes / 2**20:,.1f} MiB"
    kinds = ", ".join(kind for kind in dict.fromkeys(summary.kinds) if kind != "clips")
    console.say(f"read {summary.found:,} files from {', '.join(map(printable, source))}" + (f" ({kinds})" if kinds else ""))
    for note in summary.notes:
        console.say(note)
    console.say(f"nothing to do, it is prepared: {wrote}" if summary.finished_before else f"wrote {summary.path}: {wrote}")
    if summary.rejected:
        console.say(f"each rejected file with its reason: {summary.path / 'rejected.jsonl'}")
    console.say(f"what was kept, as a picture: {summary.path / 'contact_sheet.png'}")
    console.say("captions: " + ", ".join(f"{count:,} clips by {origin}" for origin, count in summary.captions.items()))
    if summary.splits:
        console.say("official splits: " + ", ".join(f"{count:,} clips in {split}" for split, count in summary.splits.items()))
    too_long = summary.rejected.get("too_long", 0)
    if 2 * too_long > summary.found:
        console.warn(f"{too_long:,} of {summary.found:,} files are too long; --long trim or --long windows takes them")
    if "captions" in settings.safety:
        console.say("the list of words knows English as it is spelt there; look at the contact sheet for what it does not know")
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
