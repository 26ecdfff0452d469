"""The classic first experiment: ten captioned clips learned by heart, and asked for again by their captions.

    python -m benchmarks.ten_clips [--codes] [-o FOLDER] [--corpus FOLDER] [--json]

Runs the four commands as a user would, from the files to the videos, with the preset `ten-clips`, or with --codes those of a VQ-VAE
and of a transformer that writes its codes (`ten-clips-codes`), and measures what they wrote: the reconstruction of every clip, and
for every generated video which of the ten clips it is closest to.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from theseus_core.data.clip import Clip
from theseus_core.data.loader import stack_windows
from theseus_core.data.shards import Dataset
from theseus_core.device import autocast, pick_device, pick_dtype
from theseus_core.losses import psnr, ssim
from theseus_core.model_folder import load_tokenizer
from theseus_core.pipeline import to_frames, to_video
from theseus_core.render.sheets import comparison
from theseus_core.render.video import read

ROOT = Path(__file__).parents[1]
CORPUS = ROOT.parent / "shared" / "corpus"
CLIPS = [
    "gifs/raccoon_guitar.gif",
    "gifs/sea_waves.gif",
    "gifs/boat_sunset.gif",
    "gifs/bird_branch.gif",
    "gifs/neon_city.gif",
    "gifs/dancing_pigs.gif",
    "videos/wolf.mp4",
    "videos/corgi_park.mp4",
    "videos/bunny_rope.webm",
    "videos/car_turn_24.mp4",
]
FRAMES = 17
Figures = dict[str, Any]


def commands(corpus: Path, preset: str) -> dict[str, list[str]]:
    """The four commands, run in the output's folder."""
    clips = [str(corpus / clip) for clip in CLIPS]
    return {
        "prep": ["prep", *clips, "--captions", "captions.tsv"],
        "train vae": ["train", "vae", "--preset", preset],
        "train transformer": ["train", "transformer", "--preset", preset],
        "generate": ["generate", "--prompts", "prompts.txt", "-o", "generated"],
    }


def write_captions(corpus: Path, output: Path) -> None:
    """The ten rows of the corpus's captions, with absolute paths, and the captions alone as prompts."""
    rows = dict(line.split("\t") for line in (corpus / "captions.tsv").read_text().splitlines())
    (output / "captions.tsv").write_text("".join(f"{corpus / clip}\t{rows[clip]}\n" for clip in CLIPS))
    (output / "prompts.txt").write_text("".join(f"{rows[clip]}\n" for clip in CLIPS))


def run(corpus: Path, output: Path, preset: str) -> dict[str, float]:
    """Minutes that each command took."""
    output.mkdir(parents=True)
    write_captions(corpus, output)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    minutes = {}
    for name, words in commands(corpus, preset).items():
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "theseus_cli.main", *words], cwd=output, env=environment, check=True)
        minutes[name] = round((time.perf_counter() - start) / 60, 2)
    return minutes


@torch.no_grad()
def reconstruction(dataset: Dataset, run_folder: Path) -> Figures:
    """PSNR and SSIM of each clip, in the precision in which videos are generated here."""
    device = pick_device()
    tokenizer = load_tokenizer(run_folder).to(device)
    video = stack_windows(dataset, range(len(dataset)), FRAMES)
    with autocast(device, pick_dtype("auto", device)):
        back = torch.cat([tokenizer.decode(tokenizer.encode(clip[None].to(device))).float().cpu() for clip in video])
    return {"psnr": psnr(back, video).tolist(), "ssim": ssim(back, video).tolist()}


def nearest_clips(generated: list[Tensor], originals: Tensor) -> list[list[float]]:
    """Mean squared error, in units of [0, 1], of every generated video to every clip: rows are videos."""
    return [[(video - original).square().mean().item() / 4 for original in originals] for video in generated]


def measure(output: Path) -> Figures:
    """All that the judge says of the files in `output`; draws the contact sheet."""
    dataset = Dataset.open(output / "dataset")
    originals = stack_windows(dataset, range(len(dataset)), FRAMES)
    files = sorted((output / "generated").glob("*.mp4"))
    generated = [to_video(read(path, FRAMES).frames) for path in files]
    errors = nearest_clips(generated, originals)
    own = [row.index(min(row)) == number for number, row in enumerate(errors)]
    different = min((a - b).abs().mean().item() * 127.5 for i, a in enumerate(generated) for b in generated[:i])
    figures = reconstruction(dataset, output / "runs/vae")
    captions = [record.captions[0] for record in dataset.records]
    labels = [f"{caption}  (the clip itself {10 * -_log10(row[i]):.1f} dB, the next one {10 * -_log10(_next(row, i)):.1f} dB)"
              for i, (caption, row) in enumerate(zip(captions, errors, strict=True))]  # fmt: skip
    comparison(
        [Clip(to_frames(video), 8, caption) for video, caption in zip(originals, captions, strict=True)],
        [Clip(to_frames(video), 8) for video in generated],
        output / "ten-clips.png",
        labels=labels,
        titles=("clip", "generated"),
    )
    return {
        "clips": [
            {"caption": caption, "psnr": p, "ssim": s, "to its own clip": row[i], "to the nearest other": _next(row, i)}
            for i, (caption, p, s, row) in enumerate(zip(captions, figures["psnr"], figures["ssim"], errors, strict=True))
        ],
        "mean psnr": sum(figures["psnr"]) / len(captions),
        "closest to their own clip": sum(own),
        "smallest difference of two videos": different,
    }


def _next(row: list[float], own: int) -> float:
    return min(error for number, error in enumerate(row) if number != own)


def _log10(value: float) -> float:
    return torch.tensor(value).clamp_min(1e-10).log10().item()


def show(figures: Figures) -> None:
    print(f"{'caption':62} {'PSNR':>6} {'SSIM':>6} {'MSE own':>9} {'MSE next':>9}")
    for clip in figures["clips"]:
        own, other = clip["to its own clip"], clip["to the nearest other"]
        print(f"{clip['caption'][:62]:62} {clip['psnr']:6.1f} {clip['ssim']:6.3f} {own:9.5f} {other:9.5f}")
    print(f"mean reconstruction {figures['mean psnr']:.2f} dB (asked: 30)")
    print(f"generated videos closest to their own clip: {figures['closest to their own clip']} of {len(figures['clips'])}")
    print(f"smallest mean difference of two generated videos: {figures['smallest difference of two videos']:.1f} of 255")
    listed = ", ".join(f"{name} {value}" for name, value in figures["minutes"].items())
    print(f"minutes: {listed}; {sum(figures['minutes'].values()):.1f} in all (asked: at most 45)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codes", action="store_true", help="with a VQ-VAE and an autoregressive transformer")
    parser.add_argument("-o", "--output", type=Path, help="runs/ten-clips, or runs/ten-clips-codes, unless given")
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    preset = "ten-clips-codes" if arguments.codes else "ten-clips"
    output = (arguments.output or Path("runs") / preset).absolute()
    if not output.exists():
        minutes = run(arguments.corpus.absolute(), output, preset)
        (output / "minutes.json").write_text(json.dumps(minutes))
    figures = measure(output) | {"minutes": json.loads((output / "minutes.json").read_text())}
    if arguments.json:
        print(json.dumps(figures, indent=2))
    else:
        show(figures)


if __name__ == "__main__":
    main()
