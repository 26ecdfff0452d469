"""`theseus synth`: clips of the procedural world become a dataset, with nothing to download."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from theseus_cli import console
from theseus_cli.options import SeedOption, parse_size
from theseus_core.errors import TheseusError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from theseus_core.data.clip import Clip
    from theseus_core.data.shards import Dataset

SHOWN = 40  # clips on the contact sheet


class Format(StrEnum):
    """Files to write besides the dataset."""

    mp4 = "mp4"
    webm = "webm"
    gif = "gif"


def synth(
    output: Annotated[Path, typer.Option("--output", "-o", help="The dataset's folder.", show_default=False)],
    clips: Annotated[int, typer.Option("--clips", min=1, help="How many.", show_default=False)],
    scenes: Annotated[str, typer.Option("--scenes", help="Kinds of clips, with commas between them.")] = "shapes",
    hold_out: Annotated[
        list[str] | None,
        typer.Option("--hold-out", help='Never show this: "circle moving up-right". May be given again.', show_default="nothing"),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help='Show nothing but this: "red star". May be given again.', show_default="everything"),
    ] = None,
    seed: SeedOption = 0,
    size: Annotated[str, typer.Option("--size", help="128, or WIDTHxHEIGHT: 256x144.")] = "128",
    frames: Annotated[int, typer.Option("--frames", help="Of each clip, at least 17.")] = 17,
    fps: Annotated[float, typer.Option("--fps", help="Frames a second.")] = 8,
    export: Annotated[
        Format | None,
        typer.Option("--export", help="Write each clip as a file too, with its caption in a .txt beside it.", show_default="none"),
    ] = None,
) -> None:
    """Make a dataset of drawn clips with captions. The same options give the same bytes."""
    from theseus_core.config import dump, validate
    from theseus_core.data.sources.world import World, WorldSettings
    from theseus_core.data.writer import check_new, write_dataset
    from theseus_core.render.video import check

    height, width = parse_size(size)
    chosen = {"scenes": [name.strip() for name in scenes.split(",")], "hold_out": hold_out or [], "only": only or []}
    settings = validate(WorldSettings, chosen | {"seed": seed, "frames": frames, "height": height, "width": width})
    check(Path(f"clip.{export}") if export else Path("clip"), height, width, fps)
    check_new(output)
    if export and (output / export.value).exists():
        raise TheseusError(f"there is something already: {output / export.value}", hint="name another folder with -o")
    world = World(settings)
    asked = [("never", *pair) for pair in zip(settings.hold_out, world.hold_out, strict=True)]
    asked += [("alone", *pair) for pair in zip(settings.only, world.only, strict=True)]
    for how, text, read in asked:
        console.say(f"{how} shown, for {text!r}: {', '.join(f'{key} {value}' for key, value in read.attributes.items())}")
    with console.progress("drawing", clips) as advance:
        made = _counted(world.clips(clips, fps), clips, advance)
        dataset = write_dataset(output, made, {"world": dump(settings), "clips": clips, "fps": fps})
    _draw_sheet(dataset, output / "contact_sheet.png")
    if export:
        _export(dataset, output / export.value, export.value)
    _report(dataset, output, export, (width, height))


def _counted(clips: Iterator[Clip], total: int, advance: console.Progress) -> Iterator[Clip]:
    for number, clip in enumerate(clips, 1):
        yield clip
        advance(number, total)


def _draw_sheet(dataset: Dataset, path: Path) -> None:
    from theseus_core.render.sheets import contact_sheet

    contact_sheet([dataset.read(number) for number in range(min(SHOWN, len(dataset)))], path, height=64)


def _export(dataset: Dataset, folder: Path, ending: str) -> None:
    from theseus_core.files import replacing
    from theseus_core.render.video import write

    with console.progress("exporting", len(dataset)) as advance, replacing(folder) as part:
        part.mkdir()
        for number in range(len(dataset)):
            clip = dataset.read(number)
            path = write(clip, part / f"{number:06d}.{ending}")
            path.with_suffix(".txt").write_text(clip.caption + "\n", encoding="utf-8")
            advance(number + 1, len(dataset))


def _report(dataset: Dataset, output: Path, export: Format | None, size: tuple[int, int]) -> None:
    frames, total = (sum(getattr(record, key) for record in dataset.records) for key in ("frames", "bytes"))
    wrote = f"{len(dataset):,} clips, {frames:,} frames of {size[0]}x{size[1]}, {total / 2**20:,.1f} MiB"
    console.say(f"wrote {output}: {wrote}")
    console.say(f"what was made, as a picture: {output / 'contact_sheet.png'}")
    if export:
        console.say(f"as files: {output / export.value}")
    console.say_next("theseus train vae" if str(output) == "dataset" else f"theseus train vae --data {quote(str(output))}")
    console.emit(output)
