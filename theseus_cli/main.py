"""The command `theseus`: its commands, and the one place where an error becomes a line for the user."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from theseus_cli import console
from theseus_cli.commands.compare import compare
from theseus_cli.commands.doctor import doctor
from theseus_cli.commands.evaluate import evaluate
from theseus_cli.commands.generate import generate
from theseus_cli.commands.models import app as models
from theseus_cli.commands.plot import plot
from theseus_cli.commands.prep import prep
from theseus_cli.commands.reconstruct import reconstruct
from theseus_cli.commands.replay import replay
from theseus_cli.commands.synth import synth
from theseus_cli.commands.train import app as train
from theseus_core import __version__
from theseus_core.errors import TheseusError

app = typer.Typer(
    name="theseus",
    help="Text-to-video for people with one machine: GIFs become a dataset, a dataset becomes a model, words become a video.",
    epilog="To begin: theseus prep gifs/, theseus train vae, theseus train transformer, theseus generate 'a waterfall' -o out.mp4",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.command()(prep)
app.command()(synth)
app.add_typer(train, name="train")
app.command()(generate)
app.command()(replay)
app.command()(reconstruct)
app.command()(evaluate)
app.command()(compare)
app.command()(plot)
app.add_typer(models, name="models")
app.command()(doctor)


def _version(wanted: bool) -> None:
    if wanted:
        console.emit(f"theseus {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options before any command."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 an error the user can mend, 2 wrong usage, 130 interrupted."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of each layer, at each step
    try:
        app(arguments)
    except TheseusError as error:
        console.fail(error.message, error.hint)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
