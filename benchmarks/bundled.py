"""The model that ships with the package, made from nothing: trained, exported, scored, and described in its card.

    python -m benchmarks.bundled [-o FOLDER] [--model FOLDER]

Runs the commands as a user would, with the preset `world`. Each of them goes on where it was stopped, so this may be killed and
started again. Draws the contact sheets in docs/ too. With `--model` the model goes to another place than into the package.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.from_scratch import ROOT, theseus
from theseus_core.files import read_json, replacing
from theseus_core.model_folder import read_knows, vocabulary
from theseus_core.render.sheets import contact_sheet
from theseus_core.render.video import read
from theseus_core.train.journal import read_journal
from theseus_core.world.scenes import SCENES

NAME = "world"
BUNDLED = ROOT / "theseus_core/bundled" / NAME
SUITES = ("shapes", "scenes")
FRAMES = 17
MOST_MIB = 40


def train(output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for part in ("vae", "transformer"):
        theseus(output, "train", part, "--data", "world", "--preset", NAME)


def export(output: Path, model: Path) -> None:
    """In fp16: of the halves it keeps the weights nearer to what was trained."""
    copy = output / "exported"
    shutil.rmtree(copy, ignore_errors=True)
    theseus(output, "models", "export", "runs/transformer", str(copy), "--dtype", "fp16")
    with replacing(model) as part:
        shutil.copytree(copy, part)


def evaluate(output: Path, model: Path) -> dict[str, Any]:
    """The summaries of both suites; a folder of an older model's clips is made anew."""
    found = {}
    for suite in SUITES:
        shutil.rmtree(output / "evaluation" / suite, ignore_errors=True)
        found[suite] = json.loads(theseus(output, "evaluate", "--suite", suite, "--model", str(model), "--json")[1])
    return found


def draw(output: Path, folder: Path) -> None:
    """A clip of every scene, and forty of shapes: the first of the evaluation, none of them chosen."""
    for suite, count in (("shapes", 40), ("scenes", len(SCENES))):
        prompts = read_json(output / "evaluation" / suite / "report.json")["prompts"][:count]
        clips = [read(output / "evaluation" / suite / "clips" / f"{prompt['name']}.mp4", FRAMES) for prompt in prompts]
        contact_sheet(clips, folder / f"bundled-{suite}.png", labels=[prompt["text"] for prompt in prompts], height=64)


def minutes(run: Path) -> float:
    """Of training alone, over all starts."""
    return float([line["seconds"] for line in read_journal(run / "metrics.jsonl") if "seconds" in line][-1]) / 60


def card(output: Path, model: Path, found: dict[str, Any]) -> str:
    made = read_json(model / "model.json")["made_by"]["settings"]
    defaults = read_json(model / "model.json")["defaults"]
    knows, words = read_knows(model), vocabulary(model) or []
    size = sum(path.stat().st_size for path in model.rglob("*") if path.is_file()) / 2**20
    assert size <= MOST_MIB, f"{size:.1f} MiB"
    scenes = sorted(set(knows) - {"shapes"})
    on = machine.measure()
    cost = {part: minutes(output / "runs" / part) for part in ("vae", "transformer")}
    return f"""# The model that ships with Theseus

Makes {defaults["frames"]} frames of {defaults["width"]}x{defaults["height"]} at {defaults["fps"]:g} a second, from words, in \
{defaults["steps"]} steps. {size:.1f} MiB in fp16: `causal_vae`, `dit`, and the built-in text encoder.

## What it knows

The procedural world of `theseus_core/world`, and nothing else: it has seen no photograph and no film.

- Moving shapes: circle, square, triangle, star, diamond, ring, cross, heart, in ten colours, on white, black, grey or a gradient;
  in eight directions, bouncing, zigzag, in a circle, growing, shrinking, spinning; slow or fast; one, or one above, below, left or
  right of another that stands still.
- {len(scenes)} scenes: {", ".join(scenes)}.

{len(words)} words. `theseus models show {NAME}` lists examples; `theseus generate` names the words of a prompt that
it does not know.

## What it was made from

{made["world"]["clips"]:,} drawn clips with captions from a grammar, half of them shapes and half scenes; no file,
no download, no one's work. Held out of the training: {"; ".join(made["world"]["hold_out"])}.

`python -m benchmarks.bundled` makes it again from nothing, with the preset `{NAME}`: {made["train"]["steps"]:,} steps of \
{made["train"]["batch_size"]} clips. Training took {cost["vae"]:.0f} minutes for the autoencoder and
{cost["transformer"]:.0f} for the transformer ({on["device"]}, {on["threads"]} threads, busy with other work too).

## Scores

Measured on the files that `theseus evaluate` wrote and read back.

{scores(found)}
## Limits

{unready(found)}- Anything outside the world comes out as the nearest thing inside it, or as nothing in particular.
- Fine detail is soft: a token of the transformer stands for 32x32 pixels and four frames.
- Other sizes and lengths than its own were never trained.
"""


def unready(found: dict[str, Any]) -> str:
    """A line that says what it cannot do yet, where it is wrong more often than right."""
    weak = []
    if found["shapes"]["scores"]["seen"]["all three"]["share"] < 0.5:
        weak.append("shapes with the shape, colour and motion that were asked for")
    scenes = found["scenes"]["scores"]["seen"]
    weak += [key for key, score in scenes.items() if score["share"] < 0.5]
    return f"- It was trained too briefly, and mostly fails at: {', '.join(weak)}.\n" if weak else ""


def scores(found: dict[str, Any]) -> str:
    """A table of the shapes, one of the scenes, and what else was measured."""
    shapes, scenes = found["shapes"], found["scenes"]
    seen, held = shapes["scores"]["seen"], shapes["scores"]["held_out"]
    rows = [f"| {key.replace('_', ' ')} | {cell(seen.get(key))} | {cell(held.get(key))} |" for key in dict.fromkeys([*seen, *held])]
    lines = ["| shapes | combinations seen | never seen |", "|---|---|---|", *rows, "", "| scenes | |", "|---|---|"]
    lines += [f"| {key} | {cell(score)} |" for key, score in scenes["scores"]["seen"].items()]
    for name, each in found.items():
        other = each["diversity"]
        lines += [
            "",
            f"Of {each['clips']} clips of {name}, {each['blank']} blank and {each['frozen']} frozen; two seeds differ visibly in "
            f"{other['visibly_different']} of {other['pairs']} pairs; {each['seconds_per_clip']:.2f} seconds a clip.",
        ]
    return "\n".join(lines) + "\n"


def cell(score: dict[str, Any] | None) -> str:
    return f"{100 * score['share']:.1f} % of {score['of']}" if score else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/bundled"))
    parser.add_argument("--model", type=Path, default=BUNDLED)
    arguments = parser.parse_args()
    output, model = arguments.output.absolute(), arguments.model.absolute()
    train(output)
    export(output, model)
    text = card(output, model, evaluate(output, model))
    draw(output, ROOT / "docs")
    (model / "CARD.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
