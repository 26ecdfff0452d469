"""A model that ships with the package, made from nothing: trained, exported, scored, and described in its card.

    python -m benchmarks.bundled scenes | shapes [-o FOLDER] [--model FOLDER]

Runs the commands as a user would, with the presets of `RECIPES`. Each of them goes on where it was stopped, so this may be killed
and started again. Draws a contact sheet in docs/ too. With `--model` the model goes elsewhere than into the package.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import machine
from benchmarks.from_scratch import ROOT, theseus
from theseus_core.files import read_json, replacing
from theseus_core.model_folder import read_knows, vocabulary
from theseus_core.presets import LEFT_BEHIND, SHAPES
from theseus_core.render.sheets import contact_sheet
from theseus_core.render.video import read
from theseus_core.train.journal import read_journal
from theseus_core.world.scenes import SCENES

FRAMES, SIZE = 17, "128"
MOST_MIB = 40


class Recipe(NamedTuple):
    """How a bundled model is made, and how many clips the contact sheet shows of those that it is scored by, its name's suite.

    Attributes:
        preset: of the autoencoder.
        stages: run, preset and flags of trainings, each of which goes on from the one before; the last is runs/transformer.
    """

    preset: str
    shown: int
    stages: tuple[tuple[str, str, tuple[str, ...]], ...]


def again(seed: int, steps: int, often: list[str], *more: str) -> tuple[str, ...]:
    """Flags of a stage that goes over it once more: other clips, and what was still wrong in every other one of them."""
    settings = [f"world.seed={seed}", f"world.often=[{', '.join(often)}]", *more]
    return ("--steps", str(steps), *(word for setting in settings for word in ("--set", setting)))


SHAPES_AGAIN = [
    *(text for text in LEFT_BEHIND if "spinning" in text),
    *(f"{shape} moving left" for shape in SHAPES),
    *(f"{colour} {shape}" for shape in SHAPES for colour in ("black", "white")),
]
SMALL_THINGS = ["pendulum", "bouncing ball", "rain", "snow", "falling leaves", "windmill", "hot-air balloon", "drifting clouds"]
FORGOTTEN = [
    *("shooting star", "flower opening", "campfire", "drifting clouds", "lighthouse", "smoke from a chimney", "windmill"),
    *("sunrise", "sunset", "river"),
]
WEAK = ["windmill", "windmill", "snow", "falling leaves", "waterfall", "shooting star", "flower opening", "river"]
STREWN = [
    *("windmill", "snow", "falling leaves", "river", "bubbles", "starry night", "lightning storm", "smoke from a chimney"),
    *("falling leaves", "snow", "windmill", "waterfall", "flower opening"),
]
MIXED_UP = [
    *("falling leaves", "snow", "bubbles", "pendulum", "falling leaves", "snow", "starry night", "lightning storm", "windmill"),
    *("bouncing ball", "sailing boat", "hot-air balloon", "pendulum", "smoke from a chimney"),
]
REDRAWN = [
    *("falling leaves", "bubbles", "bouncing ball", "flower opening", "waterfall") * 2,
    *("falling leaves", "falling leaves", "lightning storm", "windmill", "snow", "sailing boat"),
]
AUTUMN = [
    *("falling leaves",) * 8,
    *("sunset", "sunrise", "candle", "sailing boat") * 2,
    *("bubbles", "hot-air balloon", "shooting star", "fireworks"),
]
BRIEFLY = ("world.clips=5120", "train.lr=1.5e-3", "train.decay=0.8")

RECIPES = {
    "scenes": Recipe(
        "scenes",
        len(SCENES),
        (
            ("runs/scenes", "scenes", ()),
            ("runs/last", "scenes-last", ()),
            ("runs/hardest", "scenes-hardest", ()),
            ("runs/things", "scenes-hardest", again(5, 2400, SMALL_THINGS)),
            ("runs/forgotten", "scenes-hardest", again(6, 620, FORGOTTEN, *BRIEFLY)),
            ("runs/weak", "scenes-hardest", again(7, 900, WEAK, *BRIEFLY)),
            ("runs/strewn", "scenes-hardest", again(8, 2000, STREWN, "train.decay=0.6")),
            ("runs/mixed-up", "scenes-hardest", again(9, 1400, MIXED_UP, "world.clips=5120")),
            ("runs/redrawn", "scenes-hardest", again(11, 2400, REDRAWN, "world.clips=8192", "train.decay=0.65")),
            ("runs/transformer", "scenes-hardest", again(12, 1200, AUTUMN, "world.clips=4096")),
        ),
    ),
    "shapes": Recipe(
        "two-sprites",
        40,
        (
            ("runs/words", "two-sprites", ("--steps", "1")),  # the vocabulary of all that will be said, which stays
            ("runs/turning", "turning", ()),
            ("runs/pairs", "two-sprites", ()),
            ("runs/last", "two-sprites-last", ()),
            ("runs/transformer", "two-sprites-last", again(2, 2400, SHAPES_AGAIN, "train.decay=0.7")),
        ),
    ),
}


def train(output: Path, recipe: Recipe) -> None:
    output.mkdir(parents=True, exist_ok=True)
    theseus(output, "train", "vae", "--data", "world", "--preset", recipe.preset)
    before: tuple[str, ...] = ()
    for run, preset, flags in recipe.stages:
        theseus(output, "train", "transformer", "--data", "world", "--preset", preset, "-o", run, *flags, *before)
        before = ("--init", run)


def export(output: Path, model: Path) -> None:
    """In fp16: of the halves it keeps the weights nearer to what was trained."""
    copy = output / "exported"
    shutil.rmtree(copy, ignore_errors=True)
    theseus(output, "models", "export", "runs/transformer", str(copy), "--dtype", "fp16", "--size", SIZE)
    with replacing(model) as part:
        shutil.copytree(copy, part)


def evaluate(output: Path, model: Path, suite: str) -> dict[str, Any]:
    """The summary; a folder of an older model's clips is made anew."""
    shutil.rmtree(output / "evaluation" / suite, ignore_errors=True)
    summary: dict[str, Any] = json.loads(theseus(output, "evaluate", "--suite", suite, "--model", str(model), "--json")[1])
    return summary


def draw(output: Path, suite: str, count: int, folder: Path) -> None:
    """The first clips of an evaluation, none of them chosen: of scenes one of each."""
    prompts = read_json(output / "evaluation" / suite / "report.json")["prompts"][:count]
    clips = [read(output / "evaluation" / suite / "clips" / f"{prompt['name']}.mp4", FRAMES) for prompt in prompts]
    contact_sheet(clips, folder / f"bundled-{suite}.png", labels=[prompt["text"] for prompt in prompts], height=64)


def minutes(run: Path) -> float:
    """Of training alone, over all starts."""
    return float([line["seconds"] for line in read_journal(run / "metrics.jsonl") if "seconds" in line][-1]) / 60


def card(name: str, output: Path, model: Path, found: dict[str, Any]) -> str:
    described = read_json(model / "model.json")
    made, defaults, parts = described["made_by"]["settings"], described["defaults"], described["parts"]
    words = vocabulary(model) or []
    size = sum(path.stat().st_size for path in model.rglob("*") if path.is_file()) / 2**20
    assert size <= MOST_MIB, f"{size:.1f} MiB"
    on = machine.measure()
    recipe = RECIPES[name]
    cost = {"vae": minutes(output / "runs/vae"), "transformer": sum(minutes(output / run) for run, _, _ in recipe.stages)}
    return f"""# A model that ships with Theseus: {name}

Makes {defaults["frames"]} frames of {defaults["width"]}x{defaults["height"]} at {defaults["fps"]:g} a second, from words, in \
{defaults["steps"]} steps. {size:.1f} MiB in fp16: `{parts["tokenizer"]}`, `{parts["generator"]}`, and the built-in text encoder.

## What it knows

The procedural world of `theseus_core/world`, and nothing else: it has seen no photograph and no film.

{knowledge(model)}
{len(words)} words. `theseus models show {name}` lists examples; `theseus generate` names the words of a prompt that
it does not know.

## What it was made from

Drawn clips with captions from a grammar; no file, no download, no one's work.
{held_out(made["world"])}
`python -m benchmarks.bundled {name}` makes one like it from nothing, with the preset `{recipe.preset}` for the autoencoder,
and then:

{stages(output, recipe)}
Training took {cost["vae"]:.0f} minutes for the autoencoder and {cost["transformer"]:.0f} for the transformer ({on["device"]},
busy with other work too).

## Scores

Measured on the files that `theseus evaluate` wrote and read back.

{scores(found)}
## Limits

{unready(found)}- Anything outside the world comes out as the nearest thing inside it, or as nothing in particular.
{FINE[parts["tokenizer"]]}- Other lengths than its own were never trained.
"""


def stages(output: Path, recipe: Recipe) -> str:
    """A table of the trainings of the transformer."""
    lines = ["| preset | steps | clips a step | clips in all |", "|---|---|---|---|"]
    for run, preset, _ in recipe.stages:
        found = read_json(output / run / "config.json")
        how, clips = found["train"], found["describe"]["world"]["clips"]
        lines.append(f"| {preset} | {how['steps']:,} | {how['batch_size']} | {clips:,} |")
    return "\n".join(lines) + "\n"


def held_out(world: dict[str, Any]) -> str:
    return f"Held out of the training: {'; '.join(world['hold_out'])}.\n" if world["hold_out"] else ""


FINE = {  # what a picture cannot be, by how it is made
    "eigenframes": "- Pictures are soft, at any size: each sixteenth of a frame is a sum of 32 pictures of 8x8 pixels, and\n"
    "  what is finer is guessed: see docs/tokenizers.md.\n",
    "sprites": "- Flat shapes on a smooth ground, at any size, and no other picture: see docs/tokenizers.md.\n",
}


def knowledge(model: Path) -> str:
    knows = read_knows(model)
    lines = []
    if "shapes" in knows:
        lines += [
            "- Moving shapes: circle, square, triangle, star, diamond, ring, cross, heart, in ten colours, on white, black, grey",
            "  or a gradient; in eight directions, bouncing, zigzag, in a circle, growing, shrinking, spinning; slow or fast; one,",
            "  or one above, below, left or right of another that stands still.",
        ]
    scenes = sorted(set(knows) - {"shapes"})
    if scenes:
        lines.append(f"- {len(scenes)} scenes: {', '.join(scenes)}.")
    return "\n".join(lines) + "\n"


def unready(found: dict[str, Any]) -> str:
    """A line that says what it cannot do yet, where it is wrong more often than right."""
    seen = found["scores"]["seen"]
    weak = [key for key, score in seen.items() if score["share"] < 0.5 and key != "all scenes"]
    return f"- It was trained too briefly, and mostly fails at: {', '.join(weak)}.\n" if weak else ""


def scores(found: dict[str, Any]) -> str:
    """A table, and what else was measured."""
    seen, held = found["scores"]["seen"], found["scores"]["held_out"]
    if held:
        lines = ["| shapes | combinations seen | never seen |", "|---|---|---|"]
        lines += [
            f"| {key.replace('_', ' ')} | {cell(seen.get(key))} | {cell(held.get(key))} |" for key in dict.fromkeys([*seen, *held])
        ]
    else:
        lines = ["| scenes | |", "|---|---|", *(f"| {key} | {cell(score)} |" for key, score in seen.items())]
    other = found["diversity"]
    lines += [
        "",
        f"Of {found['clips']} clips, {found['blank']} blank and {found['frozen']} frozen; two seeds differ visibly in "
        f"{other['visibly_different']} of {other['pairs']} pairs; {found['seconds_per_clip']:.2f} seconds a clip.",
    ]
    return "\n".join(lines) + "\n"


def cell(score: dict[str, Any] | None) -> str:
    return f"{100 * score['share']:.1f} % of {score['of']}" if score else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(RECIPES))
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--model", type=Path)
    arguments = parser.parse_args()
    recipe = RECIPES[arguments.name]
    output = (arguments.output or Path("runs/bundled") / arguments.name).absolute()
    model = (arguments.model or ROOT / "theseus_core/bundled" / arguments.name).absolute()
    train(output, recipe)
    export(output, model)
    text = card(arguments.name, output, model, evaluate(output, model, arguments.name))
    draw(output, arguments.name, recipe.shown, ROOT / "docs")
    (model / "CARD.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
