"""What a model costs: its weights, the minutes of its training, and the memory that a clip takes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

import theseus_core
from theseus_core.config import Tree, dump, validate
from theseus_core.device import peak_memory
from theseus_core.errors import TheseusError
from theseus_core.files import read_json, write_json
from theseus_core.model_folder import Parts, describe
from theseus_core.recipe import Recipe, load, make
from theseus_core.train.journal import read_journal

PROGRAM = "from theseus_core.evaluate.cost import answer; answer()"
TOKENIZER = "tokenizer/model.safetensors"  # in a model folder


# --- weights ---


def count_weights(parts: Parts) -> dict[str, int]:
    """Numbers that are kept of each part: what was learned, by gradients or, as some codebooks are, by averages.

    Under "training" stand those of the generator that no clip is made with, since another phase than the last updates them alone:
    a discriminator.
    """
    making = {id(p) for _, p in parts.generator.phase_parameters(parts.generator.phases[-1])}
    named = (pair for phase in parts.generator.phases for pair in parts.generator.phase_parameters(phase))
    training = sum({id(p): p.numel() for _, p in named if id(p) not in making}.values())
    counts = {
        "tokenizer": _numbers(parts.tokenizer),
        "text_encoder": _numbers(parts.text_encoder),
        "generator": _numbers(parts.generator) - training,
        "training": training,
    }
    return {"total": sum(counts.values()), **counts}


def _numbers(module: nn.Module) -> int:
    return sum(tensor.numel() for tensor in module.state_dict().values() if tensor.is_floating_point())


# --- training ---


@dataclass(frozen=True)
class Trained:
    """How long a model was trained, over all starts; encodings and evaluations are not counted. None where no journal says.

    Attributes:
        steps: of its own run.
        minutes: of its own run.
        before: minutes of what it was built on: its tokenizer, or the model that it began with; 0 where that has nothing to train.
    """

    steps: int | None
    minutes: float | None
    before: float | None

    @property
    def total(self) -> float | None:
        return None if self.minutes is None or self.before is None else self.minutes + self.before


def how_trained(folder: Path) -> Trained:
    """What the journal beside a model folder says, and those of the runs that it was built on, if they are still there."""
    journal = folder.parent / "metrics.jsonl"
    lines = read_journal(journal) if folder.name == "model" and journal.is_file() else []
    timed = [line for line in lines if "seconds" in line]
    if not timed:
        return Trained(None, None, _before(folder))
    return Trained(int(timed[-1]["step"]), float(timed[-1]["seconds"]) / 60, _before(folder))


def _before(folder: Path) -> float | None:
    described = describe(folder)
    if "generator" not in described["parts"]:  # a tokenizer, which is built on nothing
        return 0.0
    weights = folder / TOKENIZER
    if not weights.is_file():
        return None
    if not _names_of(weights):  # as where a generator makes pixels
        return 0.0
    origin = _origin(folder, (described.get("made_by") or {}).get("tokenizer"))
    return how_trained(origin).total if origin else None


def _names_of(weights: Path) -> list[str]:
    with safe_open(weights, framework="pt") as file:
        return list(file.keys())


def _origin(folder: Path, name: object) -> Path | None:
    """The model that brought the tokenizer: as the training named it, seen from here or from around the run, and still the same."""
    if not isinstance(name, str):
        return None
    for place in (Path(), *folder.resolve().parents):
        for found in (place / name / "model", place / name):
            if (found / TOKENIZER).is_file() and (found / TOKENIZER).read_bytes() == (folder / TOKENIZER).read_bytes():
                return found
    return None


# --- memory ---


@dataclass(frozen=True)
class Memory:
    """Bytes that a process takes which loads a model and makes one clip.

    Attributes:
        peak: of main memory, at most.
        libraries: of these, what Python and its libraries take before the model is read.
        device: of the memory of an accelerator, at most; None on a CPU.
    """

    peak: int
    libraries: int
    device: int | None


def measure_memory(recipe: Recipe, kept: Path) -> Memory:
    """Make the clip of a recipe in a process of its own, or read in the file `kept` what that took before.

    Raises:
        TheseusError: the process died, most likely for want of memory.
    """
    asked = dump(recipe)
    before = read_json(kept) if kept.exists() else {}
    if before.get("recipe") == asked:
        return Memory(**before["memory"])
    package = str(Path(theseus_core.__file__).parent.parent)
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        input=json.dumps({"recipe": asked, "threads": torch.get_num_threads()}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        how = signal.Signals(-done.returncode).name if done.returncode < 0 else (done.stderr.splitlines() or ["no word"])[-1]
        raise TheseusError(
            f"the process that measures the memory of {recipe.model} ended by: {how}", hint="is there memory left? theseus doctor"
        )
    memory = Memory(**json.loads(done.stdout.splitlines()[-1]))
    write_json(kept, {"recipe": asked, "memory": asdict(memory)})
    return memory


def answer() -> None:
    """What the process runs: a recipe comes in by stdin, and what it took goes out by stdout."""
    asked: Tree = json.load(sys.stdin)
    torch.set_num_threads(asked["threads"])
    libraries = peak_memory()
    recipe = validate(Recipe, asked["recipe"])
    pipe = load(recipe)
    make(pipe, recipe)
    device = torch.cuda.max_memory_allocated(pipe.device) if pipe.device.type == "cuda" else None
    sys.stdout.write(json.dumps(asdict(Memory(peak_memory(), libraries, device))) + "\n")
