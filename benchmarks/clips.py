"""What the benchmarks over codes share: the commands as a user runs them, and a dataset of real clips, or of drawn ones."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from theseus_core.data.shards import Dataset
from theseus_core.data.sources.world import World, WorldSettings
from theseus_core.data.writer import write_dataset

ROOT = Path(__file__).parents[1]
CORPUS = ROOT.parent / "shared" / "corpus"
DRAWN = 96  # clips of the world, where there are no real ones


def theseus(folder: Path, *words: object) -> tuple[float, str]:
    """Run a command in a folder: the minutes that it took, and its stdout."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "theseus_cli.main", *map(str, words)]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return (time.perf_counter() - start) / 60, done.stdout


def prepared(folder: Path, corpus: Path, chunk_size: int, size: int = 128) -> tuple[Dataset, str]:
    """`folder/dataset` of the clips of a corpus, or of the world's where it is not there; and in words which."""
    path, real = folder / "dataset", [corpus / name for name in ("gifs", "videos") if (corpus / name).is_dir()]
    said = f"clips of {corpus}" if real else f"{DRAWN} clips of the world, for there is no corpus at {corpus}"
    if not (path / "dataset.json").exists():
        if real:
            of_long = ["--long", "windows", "--per-file", 4]
            theseus(folder, "prep", *real, "-o", path, "--size", size, "--chunk-size", chunk_size, *of_long)
        else:
            world = World(WorldSettings(scenes=("shapes", "nature"), height=size, width=size))
            write_dataset(path, world.clips(DRAWN, 8.0), {"size": [size, size]}, chunk_size)
    return Dataset.open(path), said
