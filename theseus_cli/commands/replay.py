"""`theseus replay`: the same video again, from the file beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from theseus_cli import console


def replay(
    sidecar: Annotated[
        Path, typer.Argument(help="The JSON file that `theseus generate` wrote beside a video.", show_default=False)
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write.", show_default="the name of the video, with -replay")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Where the model is now.", show_default="where it was")] = None,
    device: Annotated[str | None, typer.Option("--device", help="Another device than then.", show_default="as it was")] = None,
) -> None:
    """Make a video again. With the same model, device and versions the bytes are the same; it says whether they are."""
    from theseus_cli.commands.generate import make_one, refuse_to_overwrite
    from theseus_core.recipe import content_hash, load, read_sidecar
    from theseus_core.versions import versions

    kept = read_sidecar(sidecar)
    changes = {"model": model, "device": device}
    recipe = kept.recipe.model_copy(update={key: value for key, value in changes.items() if value})
    name = Path(kept.file)
    target = output or sidecar.with_name(f"{name.stem}-replay{name.suffix}")
    refuse_to_overwrite(target, 0, [Path(path) for path in (recipe.image, recipe.video, recipe.first_frames) if path])
    make_one(load(recipe), recipe, target)
    if target.suffix.lower() != name.suffix.lower():
        console.say(f"another format than then ({name.suffix or 'PNGs'}), so the bytes are not compared")
    elif content_hash(target) == kept.sha256:
        console.say(f"the same bytes as {kept.file} had")
    else:
        now = versions()
        changed = [f"{key} {was} then, {now.get(key)} now" for key, was in kept.versions.items() if now.get(key) != was]
        reason = "; ".join(changed) or "another device, processor or number of threads"
        console.warn(f"the bytes are not those that {kept.file} had: {reason}")
    console.emit(target)
