"""Video to blocks of pixels and back."""

from __future__ import annotations

from torch import Tensor


def patchify(video: Tensor, frames: int, side: int) -> Tensor:
    """(B, C, T, H, W) -> (B, T/frames, H/side, W/side, C frames side^2): each block of pixels as one vector."""
    b, c, t, h, w = video.shape
    x = video.reshape(b, c, t // frames, frames, h // side, side, w // side, side)
    return x.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)


def unpatchify(x: Tensor, frames: int, side: int) -> Tensor:
    """The inverse of `patchify`."""
    b, t, h, w, p = x.shape
    x = x.reshape(b, t, h, w, p // (frames * side**2), frames, side, side)
    return x.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(b, -1, t * frames, h * side, w * side)
