"""How often a sampler evaluates the network, found by running it with the network left out."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor

from theseus_core.contracts import Generator, Text


def evaluations(
    generator: Generator, method: str, channels: int, steps: int, guidance_scale: float, sampler: str, **beside: Any
) -> Counter[int]:
    """How often `sample` calls this method of the generator for one clip, by how many clips it shows it at once.

    Args:
        method: its name; it takes noisy latents first, and gives as many numbers.
        channels: Z.
        beside: what else `sample` takes, by name; what is None is left out.
    """
    seen: Counter[int] = Counter()

    def left_out(latents: Tensor, *_: Any) -> Tensor:
        seen[len(latents)] += 1
        return torch.zeros_like(latents)

    stub: Any = generator
    noise = torch.zeros(1, channels, generator.patch_frames, generator.patch, generator.patch)
    words = Text(mask=torch.ones(1, 1, dtype=torch.bool), embeddings=torch.zeros(1, 1, 1))
    how: dict[str, Any] = {"steps": steps, "guidance_scale": guidance_scale, "sampler": sampler}
    how |= {name: value for name, value in beside.items() if value is not None}
    setattr(stub, method, left_out)
    try:
        stub.sample(noise, words, words, **how)
    finally:
        delattr(stub, method)
    return seen


def at_once(noise: Tensor, text: Text, clips: int) -> tuple[Tensor, Tensor, Text]:
    """What a network sees of `clips` times the same clip (1, Z, t, h, w): noisy latents, times and words."""
    assert text.embeddings is not None
    words = Text(mask=text.mask.repeat(clips, 1), embeddings=text.embeddings.repeat(clips, 1, 1))
    return noise.repeat(clips, 1, 1, 1, 1), noise.new_zeros(clips), words
