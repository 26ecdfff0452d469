"""`theseus models`: what can be generated with here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from theseus_cli import console
from theseus_cli.options import JsonOption

app = typer.Typer(help="What can be generated with here: runs of this folder, and what came with the package.")


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    """List them where no command is given."""
    if context.invoked_subcommand is None:
        list_models()


@app.command("list")
def list_models(json: JsonOption = False) -> None:
    """List the models of runs/ and of the package."""
    from theseus_core.model_folder import available

    found = available(Path("runs"))
    if json:
        console.emit(found)
        return
    if not found:
        console.say("no model here yet, and none came with the package")
        console.say_next("theseus prep gifs/")
        return
    for damaged in (model for model in found if "damaged" in model):
        console.warn(f"this model cannot be read: {damaged['name']} ({damaged['damaged']})")
    console.table(
        ["name", "makes", "parts", "MiB"],
        [[m["name"], makes(m), ", ".join(m["parts"].values()), m["bytes"] / 2**20] for m in found],
    )


@app.command()
def show(name: Annotated[str, typer.Argument(help="A run, a model folder, a bundled or a hub name.", show_default=False)]) -> None:
    """Print everything that a model says about itself, as JSON."""
    from theseus_core.model_folder import describe, find_model, fingerprint, summary, vocabulary

    folder = find_model(name)
    console.emit(summary(name, folder) | describe(folder) | {"hash": fingerprint(folder), "vocabulary": vocabulary(folder)})


def makes(model: dict[str, Any]) -> str:
    """What a model makes unless asked otherwise, in words."""
    if "damaged" in model:
        return "nothing, it is damaged"
    d = model["defaults"]
    return f"videos: {d['frames']} frames of {d['width']}x{d['height']} at {d['fps']:g} fps" if d else "reconstructions"
