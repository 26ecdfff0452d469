"""`theseus models`: what can be generated with here."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from theseus_cli import console
from theseus_cli.options import JsonOption, parse_size

app = typer.Typer(help="What can be generated with here: runs of this folder, and what came with the package.")
NameArgument = Annotated[str, typer.Argument(help="A run, a model folder, a bundled or a hub name.", show_default=False)]
SHOWN_WORDS, SHOWN_PROMPTS = 60, 40


class Precision(StrEnum):
    """Of the weights of a copy."""

    bf16 = "bf16"
    fp16 = "fp16"
    fp32 = "fp32"


class Layout(StrEnum):
    """Whose files a copy has."""

    theseus = "theseus"
    diffusers = "diffusers"


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
def show(name: NameArgument, json: JsonOption = False) -> None:
    """Say what a model knows, what it makes, and how large it is."""
    from theseus_core import model_folder

    folder = model_folder.find_model(name)
    found = model_folder.summary(name, folder) | model_folder.describe(folder) | {"hash": model_folder.fingerprint(folder)}
    found |= {"vocabulary": model_folder.vocabulary(folder), "knows": model_folder.read_knows(folder)}
    card = model_folder.card(folder)
    found["card"] = str(card) if card else None
    if json:
        console.emit(found)
        return
    console.table(["model", name], facts(found))
    if found["knows"]:
        console.table(["knows", "prompts", "for example"], [[*row] for row in examples(found["knows"])])
    console.say("all of it, and what it was made from: --json")


@app.command()
def export(
    name: NameArgument,
    output: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that is not there yet.", show_default=False)],
    dtype: Annotated[
        Precision, typer.Option("--dtype", help="Of the weights; fp32 for --layout diffusers alone.")
    ] = Precision.bf16,
    layout: Annotated[
        Layout, typer.Option("--layout", help="Theseus' own files, or those that diffusers reads as a CogVideoX.")
    ] = Layout.theseus,
    size: Annotated[
        str | None,
        typer.Option("--size", help="What it makes unless asked otherwise: 128, or WIDTHxHEIGHT.", show_default="as it is"),
    ] = None,
) -> None:
    """Copy a model for others, with weights of half the size."""
    from theseus_core.model_folder import export_model, export_released, find_model, summary

    if dtype == Precision.fp32 and layout == Layout.theseus:
        raise typer.BadParameter("a copy is of half the size; fp32 is for --layout diffusers", param_hint="--dtype")
    if size and layout == Layout.diffusers:
        raise typer.BadParameter("that layout says no size", param_hint="--size")
    folder = find_model(name, "tokenizer")  # that alone would do too
    if layout == Layout.diffusers:
        export_released(folder, output, dtype.value)
    else:
        export_model(folder, output, dtype.value, parse_size(size) if size else None)
    before, after = (summary(name, place)["bytes"] / 2**20 for place in (folder, output))
    console.say(f"wrote {output}: weights in {dtype}, {before:.1f} MiB became {after:.1f}")
    console.emit(output)


def facts(model: dict[str, Any]) -> list[list[str]]:
    """What there is to say of a model in a line each."""
    d, vocabulary = model["defaults"], model["vocabulary"]
    lines = {
        "makes": makes(model),
        "in": f"{d['steps']} steps of {d['sampler']}, guidance {d['guidance_scale']:g}" if d else None,
        "parts": ", ".join(f"{part} {family}" for part, family in model["parts"].items()),
        "words": counted(vocabulary) if vocabulary is not None else None,
        "size": f"{model['bytes'] / 2**20:.1f} MiB in {model['folder']}",
        "hash": model["hash"],
        "more about it": model["card"],
    }
    return [[name, line] for name, line in lines.items() if line is not None]


def counted(vocabulary: list[str]) -> str:
    """How many words, and the commonest of those that show something."""
    from theseus_core.words import content

    telling = [word for word in vocabulary if content(word)][:SHOWN_WORDS]
    return f"{len(vocabulary):,}: {', '.join(telling)}{', ...' if len(telling) == SHOWN_WORDS else ''}"


def examples(knows: dict[str, list[str]]) -> list[tuple[str, int, str]]:
    """Of each group its name, its size, and some of its prompts: of a large group more."""
    from theseus_core.data.clip import spread

    every = max(1, sum(map(len, knows.values())) // SHOWN_PROMPTS)
    return [(group, len(prompts), "; ".join(spread(prompts, max(3, len(prompts) // every)))) for group, prompts in knows.items()]


def makes(model: dict[str, Any]) -> str:
    """What a model makes unless asked otherwise, in words."""
    if "damaged" in model:
        return "nothing, it is damaged"
    d = model["defaults"]
    return f"videos: {d['frames']} frames of {d['width']}x{d['height']} at {d['fps']:g} fps" if d else "reconstructions"
