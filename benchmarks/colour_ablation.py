"""What the colour and the perceptual term are worth: the same VQ-VAE on the same clips with them and without.

    python -m benchmarks.colour_ablation [--steps 1000] [--net vgg16] [-o FOLDER] [--corpus FOLDER]

Trains by the public commands with the preset `codes`, and prints of each model what it makes of clips that it never saw: CIEDE2000
(less is nearer), the saturation that is left (1 is all), PSNR and SSIM; of all clips, how many codes are in use and how evenly (the
perplexity); and draws the models side by side. Where the weights of the feature net cannot be had, the perceptual term is left out,
which is said.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.clips import CORPUS, prepared, theseus
from benchmarks.codebook import use_of_codes
from theseus_core.data.clip import Clip, spread
from theseus_core.data.loader import split, stack_windows
from theseus_core.data.shards import Dataset
from theseus_core.device import pick_device
from theseus_core.errors import TheseusError
from theseus_core.model_folder import load_tokenizer
from theseus_core.nn.features import feature_net
from theseus_core.pipeline import to_frames
from theseus_core.render.sheets import comparison

KEYS = ("ciede2000", "saturation", "psnr", "ssim", "usage of all", "perplexity of all")
HOLD_OUT, FRAMES, SHOWN = 0.35, 5, 6
PERCEPTUAL = 0.1  # its weight, that of the preset `base`


def net_to_be_had(name: str) -> str:
    """The name, or "" where its weights are not here and cannot be fetched."""
    if name == "none":
        return ""
    try:
        feature_net(name, pick_device())
    except TheseusError as error:
        print(f"without a perceptual term: {error.message}", flush=True)
        return ""
    return name


def variants(net: str) -> dict[str, list[str]]:
    """By name the settings of the models; the first has neither term."""
    without = ["--set", "model.colour_weight=0"]
    perceptual = ["--set", f"model.perceptual_weight={PERCEPTUAL}", "--set", f"model.perceptual_net={net}"]
    found = {"without": without, "with colour": []}
    return found | ({f"with colour and {Path(net).name}": perceptual} if net else {})


def train(folder: Path, name: str, steps: int, settings: list[str]) -> dict[str, Any]:
    """The scores of one model, and the minutes of its training; a second start finds it trained."""
    words = [
        "train",
        "vae",
        "--preset",
        "codes",
        "--data",
        folder / "dataset",
        "-o",
        run_of(folder, name),
        "--steps",
        steps,
        "--json",
    ]
    minutes, out = theseus(folder, *words, "--set", f"hold_out={HOLD_OUT}", *settings)
    return {"minutes": round(minutes, 1), **json.loads(out)["scores"]}


def run_of(folder: Path, name: str) -> Path:
    return folder / name.replace(" ", "-")


@torch.no_grad()
def draw(folder: Path, dataset: Dataset, names: list[str]) -> Path:
    """The same held-out clips through every model, each above what came back, as one picture: the models side by side."""
    _, held = split(dataset, HOLD_OUT)
    shown = spread(held, SHOWN)
    videos = stack_windows(dataset, shown, FRAMES)
    originals = [Clip(to_frames(video), 8, dataset.records[clip].captions[0]) for clip, video in zip(shown, videos, strict=True)]
    sheets = []
    for name in names:
        tokenizer = load_tokenizer(run_of(folder, name))
        back = [Clip(to_frames(tokenizer.decode(tokenizer.encode(video[None]))[0]), 8) for video in videos]
        path = run_of(folder, name) / "comparison.png"
        sheets.append(comparison(originals, back, path, frames_per_clip=3, height=96, titles=("clip", name)))
    pictures = [Image.open(path) for path in sheets]
    joined = Image.new("RGB", (sum(p.width for p in pictures), max(p.height for p in pictures)), "white")
    for number, picture in enumerate(pictures):
        joined.paste(picture, (sum(p.width for p in pictures[:number]), 0))
    joined.save(folder / "colour_ablation.png")
    return folder / "colour_ablation.png"


def show(table: dict[str, dict[str, Any]]) -> None:
    print(f"{'model':28}", *(f"{key:>18}" for key in (*KEYS, "minutes")))
    for name, scores in table.items():
        print(f"{name:28}", *(f"{scores[key]:18.3f}" for key in (*KEYS, "minutes")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument(
        "--net", default="vgg16", help="of the perceptual term: vgg16, a file, random (which knows nothing), or none"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/colour-ablation"))
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    asked = parser.parse_args()
    folder = asked.output.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    dataset, said = prepared(folder, asked.corpus.absolute(), chunk_size=10_000)
    print(f"{said}; {asked.steps} steps each", flush=True)
    models = variants(net_to_be_had(asked.net))
    table = {name: train(folder, name, asked.steps, settings) for name, settings in models.items()}
    for name, scores in table.items():
        # of all clips, those of the training too: a held-out few show too little to fill a codebook
        scores |= use_of_codes(load_tokenizer(run_of(folder, name)), dataset, range(len(dataset.records)), FRAMES)
    (folder / "colour_ablation.json").write_text(json.dumps(table, indent=2) + "\n")
    show(table)
    print(f"as a picture: {draw(folder, dataset, list(models))}")


if __name__ == "__main__":
    main()
