"""A released CogVideoX here and in diffusers, for a machine that has its weights: the same words and noise through both.

    python -m benchmarks.released THUDM/CogVideoX-2b [--frames 49] [--size 720x480] [--steps 50] [--device cuda] [--dtype bf16]
        [--image FILE] [--tiling] [-o FOLDER]

Each side runs in a process of its own, by DDIM, and leaves its video in the folder. Prints seconds, peak memory, and how far the
two videos are apart.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from theseus_core.data.clip import Clip
from theseus_core.device import pick_dtype
from theseus_core.files import read_json, write_json
from theseus_core.losses import psnr
from theseus_core.model_folder import find_model
from theseus_core.pipeline import TextToVideo, to_frames, to_video
from theseus_core.render.video import read_image

SIDES = ("ours", "diffusers")
GUIDANCE = 6.0


def ours(folder: Path, asked: argparse.Namespace, noise: Tensor) -> tuple[Tensor, float]:
    """(C, T, H, W) in [-1, 1], and the seconds of loading."""
    start = time.perf_counter()
    pipe = TextToVideo.load(folder, asked.device, asked.dtype, tiling=asked.tiling)
    loading = time.perf_counter() - start
    given: dict[str, Any] = {"image": to_video(read_image(asked.image, asked.size)[None])[None, :, 0]} if asked.image else {}
    made = pipe.sample(
        [asked.prompt], noise, steps=asked.steps, guidance_scale=GUIDANCE, sampler="ddim", frames=asked.frames, **given
    )
    return made[0], loading


def theirs(folder: Path, asked: argparse.Namespace, noise: Tensor) -> tuple[Tensor, float]:
    import diffusers
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    DiagonalGaussianDistribution.sample = lambda self, generator=None: self.mode()  # of an image: noise would be another here
    dtype = pick_dtype(asked.dtype, torch.device(asked.device))
    start = time.perf_counter()
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, torch_dtype=dtype).to(asked.device)
    pipe.scheduler = diffusers.CogVideoXDDIMScheduler.from_config(pipe.scheduler.config)
    if asked.tiling:
        pipe.vae.enable_tiling()
    loading = time.perf_counter() - start
    given: dict[str, Any] = {"image": Image.fromarray(read_image(asked.image, asked.size))} if asked.image else {}
    made = pipe(
        prompt=asked.prompt,
        num_frames=asked.frames,
        num_inference_steps=asked.steps,
        guidance_scale=GUIDANCE,
        latents=noise.transpose(1, 2).to(asked.device, dtype),
        max_sequence_length=pipe.transformer.config.max_text_seq_length,
        output_type="pt",
        **given,
    ).frames[0]  # (T, C, H, W) in [0, 1]
    return made.transpose(0, 1).float().cpu() * 2 - 1, loading


def run(side: str, asked: argparse.Namespace) -> None:
    """One side: its video, and a JSON of what it took."""
    torch.manual_seed(0)
    noise = load_file(asked.output / "noise.safetensors")["noise"]
    start = time.perf_counter()
    video, loading = (ours if side == "ours" else theirs)(find_model(asked.model), asked, noise)
    seconds = time.perf_counter() - start - loading
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    found = {"seconds to load": round(loading, 2), "seconds": round(seconds, 2), "peak MiB of main memory": round(peak)}
    if asked.device.startswith("cuda"):
        found["peak MiB of the GPU"] = round(torch.cuda.max_memory_allocated() / 2**20)
    save_file({"video": video.contiguous()}, asked.output / f"{side}.safetensors")
    Clip(to_frames(video), 8.0).save(asked.output / f"{side}.mp4")
    write_json(asked.output / f"{side}.json", found)


def draw_noise(asked: argparse.Namespace) -> None:
    """The starting noise, and beside it what fills up patches in time."""
    pipe = TextToVideo.load(find_model(asked.model), "cpu", asked.dtype)
    settings = pipe.settings(frames=asked.frames, height=asked.size and asked.size[0], width=asked.size and asked.size[1])
    asked.frames, asked.size = settings.frames, (settings.height, settings.width)
    z, t, h, w = pipe.tokenizer.latent_shape(settings.frames, settings.height, settings.width)
    t += -t % pipe.generator.patch_frames
    noise = torch.randn(1, z, t, h, w, generator=torch.Generator().manual_seed(asked.seed))
    save_file({"noise": noise}, asked.output / "noise.safetensors")


def size_of(words: str) -> tuple[int, int]:
    """WIDTHxHEIGHT as (height, width)."""
    width, height = words.split("x")
    return int(height), int(width)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--prompt", default="a beautiful waterfall in a forest")
    parser.add_argument("--frames", type=int)
    parser.add_argument("--size", type=size_of)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--image", type=Path)
    parser.add_argument("--tiling", action="store_true")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/released"))
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    asked.output.mkdir(parents=True, exist_ok=True)
    if asked.side:
        run(asked.side, asked)
        return
    draw_noise(asked)
    size = f"{asked.size[1]}x{asked.size[0]}"
    for side in SIDES:
        own = ["--side", side, "--frames", str(asked.frames), "--size", size]
        subprocess.run([sys.executable, "-m", "benchmarks.released", *sys.argv[1:], *own], check=True)
    videos = [load_file(asked.output / f"{side}.safetensors")["video"] for side in SIDES]
    table: dict[str, Any] = {side: read_json(asked.output / f"{side}.json") for side in SIDES}
    table["largest difference, of 1"] = round(float((videos[0] - videos[1]).abs().max()) / 2, 5)
    table["PSNR, dB"] = round(float(psnr(videos[0][None], videos[1][None])), 2)
    print(json.dumps(table, indent=2))


if __name__ == "__main__":
    main()
