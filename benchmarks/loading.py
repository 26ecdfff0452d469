"""Loading a transformer of CogVideoX-2b's shape against diffusers: `python -m benchmarks.loading [--layers 30] [--repeats 3]`.

Random weights in bf16 are written once; each side reads them in a fresh process, by turns, and takes one step, for until then what
is mapped has not been read. "ours" is what `generate` does for fewer than eight steps, "packed" what it does for eight or more
where the CPU multiplies bf16. The memory is the peak of what the process holds beyond what it held with everything imported; of
each number the least is reported.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.cogvideox_transformer import released_transformers
from theseus_core.contracts import Text
from theseus_core.diffusion.discrete import Betas
from theseus_core.nn.packed import can_pack, pack
from theseus_core.pretrained.transformer import load_transformer, save_transformer

SIDES = ("ours", "packed", "diffusers")
LATENT = (16, 9, 16, 16)  # of 33 frames of 128x128
WORDS = (226, 4096)


def resident(field: str) -> int:
    """Bytes of this process that are in memory: VmRSS now, VmHWM at most so far."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields[field].split()[0]) * 1024


@torch.no_grad()
def load(side: str, folder: Path) -> dict[str, float]:
    """What one side takes, in this process."""
    from diffusers import CogVideoXTransformer3DModel

    x, words = torch.randn(1, *LATENT).bfloat16(), torch.randn(1, *WORDS).bfloat16()
    before, start = resident("VmRSS"), time.perf_counter()
    if side == "diffusers":
        theirs = CogVideoXTransformer3DModel.from_pretrained(folder, torch_dtype=torch.bfloat16)
        loaded = time.perf_counter() - start
        theirs(x.transpose(1, 2), words, torch.tensor([500]), return_dict=False)
    else:
        ours = load_transformer(folder, Betas(), torch.bfloat16)
        if side == "packed":
            pack(ours)
        loaded = time.perf_counter() - start
        text = Text(mask=torch.ones(words.shape[:2], dtype=torch.bool), embeddings=words)
        ours.velocity(x, torch.full((1,), 0.5), text)
    stepped = time.perf_counter() - start
    return {"seconds": loaded, "with a step": stepped, "peak MiB": (resident("VmHWM") - before) / 2**20}


def measure(layers: int, repeats: int) -> dict[str, dict[str, float]]:
    with TemporaryDirectory() as name:
        ours, _ = released_transformers(layers, torch.bfloat16, torch.device("cpu"))
        folder = save_transformer(ours, Path(name) / "transformer")
        del ours
        sides = [side for side in SIDES if side != "packed" or can_pack(torch.device("cpu"))]
        runs: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
        for _ in range(repeats):
            for side in sides:
                command = [sys.executable, "-m", "benchmarks.loading", "--side", side, "--folder", str(folder)]
                said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                runs[side].append(json.loads(said.splitlines()[-1]))
    return {side: {key: min(run[key] for run in of) for key in of[0]} for side, of in runs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(load(arguments.side, arguments.folder)))
        return
    table: dict[str, Any] = measure(arguments.layers, arguments.repeats)
    if arguments.json:
        print(json.dumps(table, indent=2))
        return
    for side, found in table.items():
        print(f"{side:10}", *(f"{key} {value:.2f}" for key, value in found.items()), sep="  ")


if __name__ == "__main__":
    main()
