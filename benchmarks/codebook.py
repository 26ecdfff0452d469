"""What a VQ-VAE makes of clips that it never saw, and how evenly it takes its codes.

    python -m benchmarks.codebook RUN DATASET [--only gifs videos] [--json]

By the folder that clips came from: PSNR and SSIM of those that the training held out, from their codes alone, and of all how many
codes are in use and their perplexity, for a held-out few show too little to fill a codebook.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from theseus_core.contracts import VideoTokenizer
from theseus_core.data.loader import split, stack_windows
from theseus_core.data.shards import Dataset
from theseus_core.losses import psnr, ssim
from theseus_core.model_folder import load_tokenizer


@torch.no_grad()
def use_of_codes(tokenizer: VideoTokenizer, dataset: Dataset, clips: Sequence[int], frames: int) -> dict[str, float]:
    """Which codes some frames of each clip take."""
    codes = torch.cat([tokenizer.encode(stack_windows(dataset, [clip], frames)).flatten() for clip in clips])
    return {"codes": len(codes), **{f"{name} of all": value for name, value in tokenizer.measure(codes).items()}}


@torch.no_grad()
def likeness(tokenizer: VideoTokenizer, dataset: Dataset, clips: Sequence[int], frames: int) -> dict[str, float]:
    """Mean PSNR in dB and SSIM of clips that come back from their codes."""
    found = []
    for clip in clips:
        video = stack_windows(dataset, [clip], frames)
        back = tokenizer.decode(tokenizer.encode(video), size=(video.shape[3], video.shape[4]))
        found.append((float(psnr(back, video)), float(ssim(back, video))))
    return {name: sum(column) / len(found) for name, column in zip(("psnr", "ssim"), zip(*found, strict=True), strict=True)}


def measure(run: Path, dataset: Dataset, only: Sequence[str]) -> dict[str, dict[str, Any]]:
    """By folder, and of "all" of these: what the lines of the table say."""
    settings = json.loads((run / "config.json").read_text())["describe"]
    tokenizer, (_, held) = load_tokenizer(run), split(dataset, settings["hold_out"])
    folders = [record.source.split("/")[0] for record in dataset.records]
    table = {}
    names = list(only) or list(dict.fromkeys(folders))
    for group, members in [*((name, [name]) for name in names), ("all", names)]:
        clips = [number for number, folder in enumerate(folders) if folder in members]
        if not clips:
            raise SystemExit(f"no clip came from a folder: {group}; there are {', '.join(sorted(set(folders)))}")
        unseen = [number for number in clips if number in held]
        row: dict[str, Any] = {"clips": len(clips), "held out": len(unseen)}
        row |= likeness(tokenizer, dataset, unseen, settings["frames"]) if unseen else {}
        table[group] = row | use_of_codes(tokenizer, dataset, clips, settings["frames"])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--only", nargs="+", default=[], metavar="FOLDER")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    table = measure(asked.run, Dataset.open(asked.dataset), asked.only)
    if asked.json:
        print(json.dumps(table, indent=2))
        return
    for name, row in table.items():
        print(
            f"{name:10}",
            ", ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()),
        )


if __name__ == "__main__":
    main()
