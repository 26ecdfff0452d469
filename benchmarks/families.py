"""The families of generators side by side: the same world, the same minutes of training, the same judge.

    python -m benchmarks.families [-o FOLDER] [--minutes 60] [--only dit,gan] [--clips 200] [--tokenizer-steps sprites=1000]

Runs the commands as a user would: every family is trained on one moving shape of 64x64, drawn from the same world with the same
combinations held out, and `theseus compare` judges them all. The minutes of a tokenizer count: they are taken off those of the
generator, also of each where two share one. Encodings and evaluations do not count. Each command goes on where it was stopped, so
this may be killed and started again. With few minutes `--tokenizer-steps` leaves more of them to the generators. Minutes are those
of the clock: where the machine has other work at one time and not at another, they are not the same for all.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.from_scratch import theseus
from theseus_core.evaluate.cost import how_trained
from theseus_core.presets import MOVING

ENDLESS = 1_000_000  # steps: the minutes are over before


@dataclass(frozen=True)
class Family:
    """How a family is trained.

    Attributes:
        command: of `theseus train`.
        preset: of that command; it decides all but the world and the minutes.
        tokenizer: the preset of `theseus train vae` whose run it stands on; "" where it makes pixels.
    """

    command: str
    preset: str
    tokenizer: str = ""


FAMILIES = {
    "dit": Family("transformer", "sprites", tokenizer="sprites"),
    "autoregressive": Family("transformer", "sprite-codes", tokenizer="sprite-codes"),
    "ddpm": Family("transformer", "ddpm-sprites", tokenizer="sprites"),
    "gan": Family("gan", "sprites", tokenizer="sprites"),
}


def world() -> list[str]:
    """The flags of every training, in place of what its preset says of the world."""
    words = ["--data", "world", "--scenes", ",".join(MOVING["scenes"]), "--set", "world.objects=1", "--set", "world.often=[]"]
    for key in ("clips", "height", "width"):
        words += ["--set", f"world.{key}={MOVING[key]}"]
    for text in MOVING["hold_out"]:
        words += ["--hold-out", text]
    return words


def train_tokenizer(output: Path, preset: str, steps: int | None) -> float:
    """The minutes that it took."""
    run = f"runs/vae-{preset}"
    shorter = ["--steps", str(steps)] if steps else []
    theseus(output, "train", "vae", "--preset", preset, "-o", run, *world(), *shorter)
    minutes = how_trained(output / run / "model").minutes
    assert minutes is not None
    return minutes


def train(output: Path, name: str, minutes: float) -> None:
    """Train a family for so many minutes."""
    family = FAMILIES[name]
    words = ["train", family.command, "--preset", family.preset, "-o", f"runs/{name}", *world()]
    words += ["--steps", str(ENDLESS), "--set", "train.schedule=constant", "--set", f"train.minutes={minutes:.3f}"]
    words += ["--set", "train.evaluate_every=0"]
    theseus(output, *words, *(["--vae", f"runs/vae-{family.tokenizer}"] if family.tokenizer else []))


def run(output: Path, names: list[str], minutes: float, clips: int, tokenizer_steps: dict[str, int]) -> dict[str, Any]:
    """Train all of them, and compare: what `theseus compare --json` says."""
    output.mkdir(parents=True, exist_ok=True)
    spent = {"": 0.0}
    for preset in sorted({FAMILIES[name].tokenizer for name in names} - {""}):
        spent[preset] = train_tokenizer(output, preset, tokenizer_steps.get(preset))
        print(f"tokenizer {preset}: {spent[preset]:.1f} minutes", flush=True)
    for name in names:
        left = minutes - spent[FAMILIES[name].tokenizer]
        if left <= 0:
            raise SystemExit(f"the tokenizer of {name} took all of the {minutes:g} minutes: give more, or fewer --tokenizer-steps")
        train(output, name, left)
        print(f"{name}: {left:.1f} minutes", flush=True)
    runs = [f"runs/{name}" for name in names]
    said = theseus(output, "compare", *runs, "--objects", "1", "--frames", "17", "--clips", str(clips), "--json")[1]
    found: dict[str, Any] = json.loads(said)
    return found


def chosen(text: str) -> list[str]:
    """`dit,gan` as a list; refuses what is no family here."""
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in FAMILIES]:
        raise argparse.ArgumentTypeError(f"no such family: {unknown[0]}; there are {', '.join(FAMILIES)}")
    return names


def steps_of(text: str) -> tuple[str, int]:
    """`sprites=1000` as a pair; refuses what is no tokenizer here, or no number of steps."""
    preset, _, steps = text.partition("=")
    presets = sorted({family.tokenizer for family in FAMILIES.values()} - {""})
    if preset not in presets or not steps.isdecimal() or int(steps) == 0:
        raise argparse.ArgumentTypeError(f"not PRESET=STEPS: {text}; presets are {', '.join(presets)}")
    return preset, int(steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/families"))
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--only", type=chosen, default=list(FAMILIES))
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--tokenizer-steps", type=steps_of, action="append", default=[], metavar="PRESET=STEPS")
    arguments = parser.parse_args()
    output = arguments.output.absolute()
    run(output, arguments.only, arguments.minutes, arguments.clips, dict(arguments.tokenizer_steps))
    print((output / "comparison/shapes/comparison.md").read_text())


if __name__ == "__main__":
    main()
