"""Where tokens stand in the released CogVideoX: scaled, or squeezed into the size of clip that it was trained on."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from theseus_core.config import Config
from theseus_core.device import in_doubles
from theseus_core.errors import TheseusError
from theseus_core.nn.attention import Rotation, rotary_3d, rotary_at

Size = tuple[int, int, int]  # tokens along time, height and width


class Grid(Config):
    """The size of the clips that a model was trained on, and how it counts the tokens of others."""

    frames: int = Field(13, ge=1, description="t, latent frames")
    height: int = Field(60, ge=1, description="h, rows of latents")
    width: int = Field(90, ge=1, description="w, columns of latents")
    text_tokens: int = Field(226, ge=1, description="L, words and padding")
    time_scale: float = Field(1.0, gt=0, description="sincos: tokens in time that count as one")
    space_scale: float = Field(1.875, gt=0, description="sincos: tokens in space that count as one")
    squeeze: bool = Field(True, description="rotary: a larger or smaller frame is fitted into the one of training, else counted")


def sincos(grid: Grid, size: Size, width: int, device: torch.device) -> Tensor:
    """(t h w, width) absolute positions: a quarter of the values is for time, then three eighths for columns, and for rows.

    Args:
        width: a multiple of 16.
    """
    scales = (grid.time_scale, grid.space_scale, grid.space_scale)
    where = in_doubles(device)
    places = [torch.arange(count, device=where, dtype=torch.float64) / scale for count, scale in zip(size, scales, strict=True)]
    when, high, right = (_waves(place, dim) for place, dim in zip(places, (width // 4, *[width * 3 // 8] * 2), strict=True))
    parts = [when[:, None, None], right[None, None, :], high[None, :, None]]
    return torch.cat([part.expand(*size, -1) for part in parts], dim=-1).reshape(-1, width).float().to(device)


def _waves(places: Tensor, width: int) -> Tensor:
    frequency = 10_000.0 ** (-torch.arange(0, width, 2, device=places.device, dtype=torch.float64) / width)
    angle = places[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def rotary(grid: Grid, size: Size, patch: int, width: int, device: torch.device) -> Rotation:
    """Rotary tables (t h w, K).

    Args:
        patch: side of the square of latents that a token stands for.
        width: K, a multiple of 16.
    """
    t, h, w = size
    if not grid.squeeze:
        return rotary_3d(t, h, w, width, device)
    high, wide = grid.height // patch, grid.width // patch
    scale = min(high / h, wide / w)  # the largest frame of these proportions within the one of training
    where = in_doubles(device)
    rows, columns = _fitted(h, scale, high, where), _fitted(w, scale, wide, where)
    cos, sin = rotary_at(torch.arange(t, device=where, dtype=torch.float64), rows, columns, width)
    return cos.to(device), sin.to(device)


def _fitted(count: int, scale: float, into: int, device: torch.device) -> Tensor:
    """(count,) places in the middle of `into` tokens; where a margin is left the last are drawn in a little, as in training."""
    length = round(scale * count)
    first = round((into - length) / 2)
    return torch.linspace(first, (first + length) * (count - 1) / count, count, device=device, dtype=torch.float64)


def starting_table(grid: Grid, patch: int, width: int) -> Tensor:
    """(L + N, width) positions to learn from: zero for words, `sincos` for the tokens of a clip of the size of training."""
    device = torch.get_default_device()
    video = sincos(grid, (grid.frames, grid.height // patch, grid.width // patch), width, device)
    return torch.cat([video.new_zeros(grid.text_tokens, width), video])


def placed(words: Tensor, video: Tensor, table: Tensor, grid: Grid, size: Size, patch: int) -> tuple[Tensor, Tensor]:
    """Words (B, L, D) and video (B, N, D) with a learned table (L + N, D) added; a shorter clip takes its beginning.

    Raises:
        TheseusError: another size, a longer clip or another number of words: no positions were learned for it.
    """
    t, h, w = size
    trained = (grid.height // patch, grid.width // patch)
    if (h, w) != trained or t > grid.frames:
        wanted = f"{grid.width}x{grid.height} latents, at most {grid.frames} frames of them"
        raise TheseusError(
            f"this model has learned positions for {wanted}, not: {w * patch}x{h * patch}, {t} frames",
            hint="a latent is 8x8 pixels and, after the first frame, four frames",
        )
    if words.shape[1] != grid.text_tokens:
        raise TheseusError(f"this model takes text of {grid.text_tokens} tokens, not: {words.shape[1]}")
    table = table.to(video.dtype)
    return words + table[: grid.text_tokens], video + table[grid.text_tokens :][: video.shape[1]]
