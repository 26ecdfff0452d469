"""Chunk by chunk in replicas that are averaged, against interleaved shards: `python -m benchmarks.replicas [--epochs 6]`.

Both train the same VQ-VAE on the same clips for as many steps, by the public commands: replicas each on chunks of their own, one
after the other, with a last pass of all over all; the plain way on all chunks at once. Measured on clips that neither saw: PSNR and
SSIM; what is known of the first chunk by itself, when the chunks are done, at the end, and how much less that is than it was at
best; and the minutes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.clips import CORPUS, prepared, theseus
from theseus_core.data.loader import split, stack_windows
from theseus_core.data.shards import Dataset
from theseus_core.losses import psnr, ssim
from theseus_core.registry import build
from theseus_core.train.checkpoint import open_checkpoint, saved_steps

HOLD_OUT, FRAMES = 0.35, 5

KEYS = ("psnr", "ssim", "first chunk, chunks done", "first chunk, end", "forgotten", "minutes")


def train(folder: Path, name: str, preset: str, epochs: float, batch: int, every: int, words: Sequence[object]) -> float:
    """The minutes of a training that keeps a checkpoint of every epoch."""
    common = ["train", "vae", "--family", "vqvae", "--preset", preset, "--data", folder / "dataset", "-o", folder / name]
    size = ["--epochs", epochs, "--batch-size", batch, "--set", f"frames={FRAMES}", "--set", f"hold_out={HOLD_OUT}"]
    kept = [f"train.checkpoint_every={every}", "train.keep=1000", "train.evaluate_every=0"]
    return theseus(folder, *common, *size, *(word for one in kept for word in ("--set", one)), *words)[0]


@torch.no_grad()
def scores(run: Path, step: int, preset: str, dataset: Dataset, clips: Sequence[int]) -> dict[str, float]:
    """Of the averaged weights of a checkpoint, the means over clips."""
    model = build("tokenizers", "vqvae", preset)
    model.load_state_dict(open_checkpoint(run / "checkpoints" / f"step-{step:06d}").tensors("ema"))
    model.eval()
    videos = [stack_windows(dataset, [clip], FRAMES) for clip in clips]
    backs = [model.decode(model.encode(video)) for video in videos]
    found = {
        "psnr": [psnr(back, video) for back, video in zip(backs, videos, strict=True)],
        "ssim": [ssim(back, video) for back, video in zip(backs, videos, strict=True)],
    }
    return {name: torch.cat(values).mean().item() for name, values in found.items()}


def measure(run: Path, preset: str, dataset: Dataset, last_pass: int) -> dict[str, Any]:
    _, held = split(dataset, HOLD_OUT)
    first = [clip for clip in held if dataset.records[clip].chunk == dataset.records[held[0]].chunk]
    steps = sorted(saved_steps(run / "checkpoints"))
    known = {step: scores(run, step, preset, dataset, first)["psnr"] for step in steps}
    done = max((step for step in steps if step <= steps[-1] - last_pass), default=steps[-1])
    about = {"first chunk, chunks done": known[done], "first chunk, end": known[steps[-1]]}
    about["forgotten"] = max(known[step] for step in steps if step <= done) - known[done]
    return {**scores(run, steps[-1], preset, dataset, held), **about, "of the first chunk by step": known}


def compare(folder: Path, dataset: Dataset, preset: str, asked: argparse.Namespace) -> dict[str, dict[str, Any]]:
    trained, _ = split(dataset, HOLD_OUT)
    epoch = max(1, round(len(trained) / asked.batch_size))
    in_replicas = ["--replicas", asked.replicas, "--merge-every", asked.merge_every]
    table = {}
    for name, words in {"interleaved": [], f"{asked.replicas} replicas": in_replicas}.items():
        run = folder / name.replace(" ", "-")
        minutes = train(folder, run.name, preset, asked.epochs, asked.batch_size, epoch, words)
        table[name] = {**measure(run, preset, dataset, epoch), "minutes": minutes}
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--merge-every", type=float, default=1.0, help="epochs")
    parser.add_argument("--epochs", type=float, default=6.0, help="the last pass included")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--preset", default="tiny", help="debug or tiny")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--chunk-size", type=int, default=16, help="clips in a chunk")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/replicas"))
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    asked = parser.parse_args()
    folder = asked.output.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    dataset, said = prepared(folder, asked.corpus.absolute(), asked.chunk_size, asked.size)
    print(
        f"{said}, {len(dataset)} in {len({record.chunk for record in dataset.records})} chunks; {asked.epochs:g} epochs", flush=True
    )
    table = compare(folder, dataset, asked.preset, asked)
    (folder / "replicas.json").write_text(json.dumps(table, indent=2) + "\n")
    print(f"{'':14}", *(f"{key:>25}" for key in KEYS))
    for name, row in table.items():
        print(f"{name:14}", *(f"{row[key]:25.3f}" for key in KEYS))


if __name__ == "__main__":
    main()
