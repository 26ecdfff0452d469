"""How fast codes are written: `python -m benchmarks.codes [MODEL...] [--quantize none int8] [--json]`.

Of each model, or where none is named of three presets with random weights, which take as long as trained ones: the seconds of a
clip, from words to frames, and the tokens per second of every decoder beside its ceiling. Token by token, that is the rate at which
the weights are read; of many at once, the rate of a matrix product.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import fastest, matmul_rate
from theseus_core.device import dtype_name, pick_device, pick_dtype
from theseus_core.generators.autoregressive import Model as Autoregressive
from theseus_core.model_folder import Parts, Settings
from theseus_core.pipeline import TextToVideo
from theseus_core.quantize import quantize, weight_bytes
from theseus_core.registry import build
from theseus_core.train.runs import configure_run

PROMPT = "a red circle moves left"
PRESETS = {"sprite-codes": (17, 64), "shapes-codes": (17, 64), "codes": (5, 128)}  # frames and size
SECONDS = 5.0  # to repeat a clip in, at least three times


@dataclass(frozen=True)
class Ceilings:
    """What this machine can do with the weights of one network."""

    flops: float  # a second
    bytes: float  # a second, read as a product with one vector reads them


def of_preset(name: str) -> Parts:
    """The parts of a model that two presets of this name would train, with random weights."""
    vae, run = configure_run("vae", name), configure_run("transformer", name)
    torch.manual_seed(0)
    tokenizer = build("tokenizers", vae.family, vae.model_preset, vae.model)
    text = build("text", "builtin", run.text_preset, {"vocabulary": PROMPT.split(), **run.text})
    fed = {"codebook_size": tokenizer.codebook_size, "text_width": text.width}
    generator = build("generators", run.family, run.model_preset, {**run.model, **fed})
    frames, size = PRESETS[name]
    settings = Settings(frames=frames, height=size, width=size, fps=8, **run.sampling.model_dump())
    return Parts(tokenizer.eval(), text.eval(), generator.eval(), settings)


def load(model: str, mode: str, device: torch.device, dtype: torch.dtype) -> TextToVideo:
    if model not in PRESETS:
        return TextToVideo.load(model, str(device), dtype_name(dtype), quantize=mode)
    parts = of_preset(model)
    if mode != "none":
        quantize(parts.generator, mode, device, dtype)
        quantize(parts.text_encoder, mode, device, dtype)
    return TextToVideo(parts, device, dtype)


def ceilings(pipe: TextToVideo) -> Ceilings:
    """The reading is timed on as many bytes as the weights have: a small network stays in the processor's caches."""
    dtype = torch.bfloat16 if pipe.dtype == torch.bfloat16 else torch.float32
    side = 512
    matrix = torch.randn(max(1, weight_bytes(pipe.generator) // (side * dtype.itemsize)), side, device=pipe.device).to(dtype)
    vector = torch.randn(side, device=pipe.device).to(dtype)
    seconds = fastest(lambda: matrix @ vector, pipe.device, 0.5)
    return Ceilings(matmul_rate(dtype, pipe.device, 1024, 0.5) * 1e9, matrix.nbytes / seconds)


def measure(pipe: TextToVideo, sampler: str, best: Ceilings) -> dict[str, Any]:
    """One decoder of one model."""
    d = pipe.defaults
    tokens = math.prod(pipe.tokenizer.latent_shape(d.frames, d.height, d.width))

    def clip() -> object:
        return pipe.sample([PROMPT], seed=0, sampler=sampler)

    with FlopCounterMode(display=False) as counter:
        clip()
    seconds = fastest(clip, pipe.device, SECONDS)
    readings = tokens if sampler == "causal" else d.steps
    floors = {
        "reading": readings * weight_bytes(pipe.generator) / best.bytes,
        "matmul": counter.get_total_flops() / best.flops,
    }
    bound = max(floors, key=lambda name: floors[name])
    return {
        "decoder": sampler,
        "steps": tokens if sampler == "causal" else d.steps,
        "tokens": tokens,
        "seconds a clip": round(seconds, 3),
        "tokens/s": round(tokens / seconds),
        "ceiling, tokens/s": round(tokens / floors[bound]),
        "bound by": bound,
        "share of the ceiling": round(floors[bound] / seconds, 3),
    }


def table(models: list[str], modes: list[str], device: torch.device, dtype: torch.dtype) -> list[dict[str, Any]]:
    rows = []
    for model in models:
        for mode in modes:
            pipe = load(model, mode, device, dtype)
            assert isinstance(pipe.generator, Autoregressive), f"no model of codes: {model}"
            best, d = ceilings(pipe), pipe.defaults
            about = {"model": model, "clip": f"{d.frames}x{d.width}x{d.height}", "quantize": mode, "guidance": d.guidance_scale}
            for sampler in pipe.generator.samplers:
                rows.append(about | measure(pipe, sampler, best))
                print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", default=list(PRESETS), help="a run, a folder, a name, or a preset")
    parser.add_argument("--quantize", nargs="+", default=["none", "int8"], choices=["none", "int8"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    asked = parser.parse_args()
    device = pick_device(asked.device)
    table(asked.models, asked.quantize, device, pick_dtype(asked.dtype, device))


if __name__ == "__main__":
    main()
