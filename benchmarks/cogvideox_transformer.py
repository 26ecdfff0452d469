"""The transformer of CogVideoX-2b against diffusers', with random weights: the `transformer` part of `benchmarks.cogvideox`.

Both sides read the same memory, so that the true shape takes 3.4 GB in bf16 once.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.cogvideox import SIDE, alternated, with_peak_memory
from theseus_core.contracts import Text
from theseus_core.device import dtype_name
from theseus_core.generators.dit import Block, Model
from theseus_core.nn.attention import attend, spare_rows
from theseus_core.nn.packed import can_pack, linear_gelu, pack
from theseus_core.pretrained.transformer import describe, ties
from theseus_core.registry import build

T = 0.5  # a time halfway; it does not matter to the speed


@torch.no_grad()
def measure_transformer(
    latent: tuple[int, int, int], layers: int, dtype: torch.dtype, device: torch.device, repeats: int
) -> dict[str, Any]:
    """Seconds of one forward, what its parts reach, and how far the outputs differ."""
    ours, theirs = released_transformers(layers, dtype, device)
    packed = deepcopy(ours)
    is_packed = can_pack(device) and pack(packed)
    config = ours.config
    assert config.grid is not None
    x = torch.randn(1, config.latent_channels, *latent, device=device).to(dtype)
    words = torch.randn(1, config.grid.text_tokens, config.text_width, device=device).to(dtype)
    text = Text(mask=torch.ones(words.shape[:2], dtype=torch.bool, device=device), embeddings=words)
    t = torch.full((1,), T, device=device)
    step = ours.path.clock(t).long()
    runs: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: ours.velocity(x, t, text),
        **({"packed": lambda: packed.velocity(x, t, text)} if is_packed else {}),
        "diffusers": lambda: theirs(x.transpose(1, 2), words, step, return_dict=False)[0].transpose(1, 2),
    }
    outputs, memory = {}, {}
    for name, run in runs.items():  # warms up as well
        outputs[name], memory[name] = with_peak_memory(run, device)
    square = torch.randn(SIDE, SIDE, device=device).to(dtype)
    tokens = words.shape[1] + latent[0] * (latent[1] // config.patch) * (latent[2] // config.patch)
    parts = parts_of(cast(Block, packed.blocks[0]), tokens, words.shape[1], dtype, device)
    seconds = alternated(
        {**runs, "matmul": lambda: square @ square, **{name: run for name, (run, _) in parts.items()}}, device, repeats
    )
    best = "packed" if is_packed else "ours"
    table: dict[str, Any] = {
        "shape": f"{layers} layers, {tokens} tokens, {dtype_name(dtype)}, {device}, {torch.get_num_threads()} threads",
        **{f"seconds, {name}": round(seconds[name], 3) for name in runs},
        **{f"{name} / diffusers": round(seconds[name] / seconds["diffusers"], 3) for name in runs if name != "diffusers"},
        "matmul GFLOP/s": round(2 * SIDE**3 / seconds["matmul"] / 1e9),
        **{f"peak MiB beyond the weights, {name}": round(memory[name] / 2**20) for name in runs},
        "relative difference": {name: relative(out, outputs["diffusers"]) for name, out in outputs.items() if name != "diffusers"},
    }
    for name, (_, flops) in parts.items():
        table[name] = {"share of our step": round(layers * seconds[name] / seconds[best], 3)}
        table[name] |= {"GFLOP/s": round(flops / seconds[name] / 1e9)} if flops else {}
    if dtype != torch.float32:
        exact = theirs.float()(x.transpose(1, 2).float(), words.float(), step, return_dict=False)[0].transpose(1, 2)
        table["relative difference to fp32"] = {name: relative(out, exact) for name, out in outputs.items()}
    return table


def released_transformers(layers: int, dtype: torch.dtype, device: torch.device) -> tuple[Model, Any]:
    """Ours and diffusers', on the same memory, with random weights that keep activations near 1."""
    from diffusers import CogVideoXTransformer3DModel

    torch.manual_seed(0)
    with torch.device("meta"):
        ours = build("generators", "dit", "cogvideox-2b", {"layers": layers})
        assert isinstance(ours, Model)
        described = describe(ours.config).model_dump()
        theirs = CogVideoXTransformer3DModel(**described)
    weights = {}
    for name, empty in ours.state_dict().items():
        weights[name] = torch.empty(empty.shape, dtype=dtype, device=device).normal_()
        weights[name].mul_(empty[0].numel() ** -0.5 if empty.ndim > 1 else 0.1).add_(1.0 if "norm.weight" in name else 0.0)
    ours.load_state_dict(weights, assign=True)
    shared = {
        theirs_: part for tie in ties(ours.config) for theirs_, part in zip(tie.theirs, tie.split(weights[tie.ours]), strict=True)
    }
    theirs.load_state_dict(shared, strict=False, assign=True)
    sizes = (described[f"sample_{name}"] for name in ("height", "width", "frames"))
    theirs.patch_embed.pos_embedding = theirs.patch_embed._get_positional_embeddings(*sizes, device=device)  # it is in no file
    return ours.eval(), theirs.eval()


def parts_of(
    block: Block, tokens: int, words: int, dtype: torch.dtype, device: torch.device
) -> dict[str, tuple[Callable[[], Tensor], int]]:
    """A block's linear layers, attention, norms and activation as calls of their own, each with its floating-point operations."""
    width, heads = block.up.in_features, block.attention.heads
    x = torch.randn(1, tokens, width, device=device).to(dtype)
    rows = F.pad(x, (0, 0, 0, spare_rows(x, tokens)))
    inner = torch.randn(*rows.shape[:2], 4 * width, device=device).to(dtype)
    q, k, v = torch.randn(3, 1, heads, tokens, width // heads, device=device).to(dtype)
    time_ = torch.randn(1, block.mlp_norm.modulation.in_features, device=device).to(dtype)

    def linears() -> Tensor:
        block.attention.qkv(rows), block.attention.out(rows), linear_gelu(block.up, rows)
        return cast(Tensor, block.down(inner))

    def norms() -> Tensor:
        block.attention_norm(x[:, :words], x[:, words:], time_)
        return cast(Tensor, block.mlp_norm(x[:, :words], x[:, words:], time_)[0])

    return {
        "linears and activation": (linears, 2 * tokens * 12 * width**2),
        "attention": (lambda: attend(q, k, v, None), 4 * tokens**2 * width),
        "norms and modulation": (norms, 0),
    }


def relative(a: Tensor, b: Tensor) -> float:
    return float(f"{(a - b).float().norm() / b.float().norm():.1e}")
