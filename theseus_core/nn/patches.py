"""Blocks of neighbouring latents as tokens, and back."""

from __future__ import annotations

from torch import Tensor


def patchify(x: Tensor, patch: int, frames: int = 1) -> Tensor:
    """(B, t, h, w, D) -> (B, t / frames, h / patch, w / patch, frames patch^2 D)."""
    b, t, h, w, d = x.shape
    x = x.reshape(b, t // frames, frames, h // patch, patch, w // patch, patch, d)
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(b, t // frames, h // patch, w // patch, -1)


def unpatchify(x: Tensor, patch: int, frames: int = 1) -> Tensor:
    """The inverse of `patchify`."""
    b, t, h, w, d = x.shape
    x = x.reshape(b, t, h, w, frames, patch, patch, d // (frames * patch**2))
    return x.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(b, t * frames, h * patch, w * patch, -1)
