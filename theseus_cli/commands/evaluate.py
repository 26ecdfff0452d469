"""`theseus evaluate`: how well a model shows what words ask for."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from theseus_cli import console
from theseus_cli.options import DeviceOption, DType, DTypeOption, JsonOption, Quantize, QuantizeOption, SeedOption

if TYPE_CHECKING:
    from theseus_core.evaluate import Report, Suite


class SuiteName(StrEnum):
    """What the prompts speak of."""

    shapes = "shapes"
    scenes = "scenes"


class Objects(StrEnum):
    """Shapes in a clip."""

    any = "any"
    one = "1"
    two = "2"


def evaluate(
    suite: Annotated[SuiteName, typer.Option("--suite", help="What the prompts speak of.")] = SuiteName.shapes,
    clips: Annotated[
        int, typer.Option("--clips", min=1, help="How many prompts; as many again for what is held out, if anything is.")
    ] = 200,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", help="A run, a model folder, a bundled or a hub name.", show_default="runs/transformer, else bundled"
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A folder; the clips and the report go into a folder in it, named by the suite.")
    ] = Path("evaluation"),
    hold_out: Annotated[
        list[str] | None,
        typer.Option(
            "--hold-out",
            help='What the training never showed: "circle moving up-right". May be given again.',
            show_default="as the model says",
        ),
    ] = None,
    objects: Annotated[Objects, typer.Option("--objects", help="Shapes in a clip.")] = Objects.any,
    seed: SeedOption = 0,
    steps: Annotated[int | None, typer.Option("--steps", help="Steps from noise to video.", show_default="the model's")] = None,
    guidance: Annotated[
        float | None, typer.Option("--guidance", help="How strictly to follow the prompt; 1 is none.", show_default="the model's")
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            "--sampler", "--decoder", help="The sampling algorithm; of codes: masked, causal.", show_default="the model's"
        ),
    ] = None,
    frames: Annotated[
        int | None, typer.Option("--frames", help="Number of frames, at least 17.", show_default="the model's")
    ] = None,
    device: DeviceOption = "auto",
    dtype: DTypeOption = DType.auto,
    quantize: QuantizeOption = Quantize.none,
    json: JsonOption = False,
) -> None:
    """Make clips from prompts of the procedural world, and score what they show. A second start makes only what is missing."""
    from theseus_core.evaluate import draw_suite, held_out_of
    from theseus_core.evaluate import evaluate as run
    from theseus_core.model_folder import default_model
    from theseus_core.pipeline import TextToVideo
    from theseus_core.recipe import describe

    name = model or default_model([prompt.text for prompt in draw_suite(suite.value, clips).prompts])
    pipe = TextToVideo.load(name, device, dtype.value, quantize.value)
    settings = pipe.settings(steps=steps, guidance_scale=guidance, sampler=sampler, frames=frames)
    shared = describe(pipe, name, settings, quantize.value, "none", False)
    count = None if objects is Objects.any else int(objects.value)
    drawn = draw_suite(suite.value, clips, seed, hold_out or held_out_of(name, suite.value), count)
    introduce(drawn, name)
    folder = output / suite.value
    with console.progress("evaluating") as advance:
        report = run(pipe, drawn, folder, shared, advance)
    show(report)
    console.say(f"every prompt's verdict: {folder / 'report.json'}")
    console.say(f"what was made, as a picture: {folder / 'contact_sheet.png'}")
    console.emit(report.summary() if json else folder)


def introduce(suite: Suite, model: str) -> None:
    """Say what is about to be tried."""
    held = sum(prompt.held_out for prompt in suite.prompts)
    console.say(f"model: {model}, {len(suite.prompts) - held} prompts of {suite.name}")
    if held:
        console.say(f"and {held} of what is held out: {'; '.join(suite.hold_out)}")


def show(report: Report) -> None:
    """Two tables: what was right, and how the clips are."""
    seen, held = report.scores(held_out=False), report.scores(held_out=True)
    columns = ["right", "%", "of"] + (["held out: %", "of"] if held else [])
    rows = []
    for key in dict.fromkeys([*seen, *held]):
        scores = [seen.get(key), held.get(key)] if held else [seen.get(key)]
        cells = [(round(100 * score.share, 1), score.of) if score else ("-", "-") for score in scores]
        rows.append([key.replace("_", " "), *(cell for pair in cells for cell in pair)])
    console.table(columns, rows)
    found = report.summary()
    diversity, seconds = found["diversity"], found["seconds_per_clip"]
    console.table(
        ["clips", ""],
        [
            ["blank", f"{found['blank']} of {found['clips']}"],
            ["frozen", f"{found['frozen']} of {found['clips']}"],
            ["flicker", f"{found['flicker']:.3f} of 255, median"],
            ["what no movement explains", f"{found['warping_error']:.2f} of 255, median"],
            ["two seeds differ visibly", f"{diversity['visibly_different']} of {diversity['pairs']} pairs"],
            ["by", f"{diversity['mean']:.1f} of 255, least {diversity['least']:.1f}"],
            ["seconds a clip", f"{seconds:.2f}, median" if seconds else "not measured: every clip was there"],
        ],
    )
