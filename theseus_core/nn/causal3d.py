"""The layers of the CogVideoX autoencoder (Yang et al. 2024): causal 3D convolution, norms steered by the latents, resampling.

Layout is (B, C, T, H, W). Where a clip begins, its first frame stands for itself and is resampled in space alone; all frames
after it are resampled in time too. Module names are those of the released weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-6


@dataclass
class Past:
    """What a chunk of a clip knows of its neighbours.

    Attributes:
        start: the chunk begins a clip.
        more: another chunk will follow, so the convolutions leave their last frames in `kept`.
        kept: for each convolution the frames before the chunk.
    """

    start: bool = True
    more: bool = False
    kept: dict[nn.Module, Tensor] = field(default_factory=dict)


class CausalConv3d(nn.Module):
    """3x3x3 convolution that sees a frame and the two before it; before a clip begins stands its first frame."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, out_channels, 3, padding=(0, 1, 1))

    def forward(self, x: Tensor, past: Past) -> Tensor:
        before = past.kept.pop(self, None)
        if before is None:
            before = x[:, :, :1].expand(-1, -1, 2, -1, -1)
        x = torch.cat([before, x], dim=2)  # (B, C, 2 + T, H, W)
        if past.more:
            past.kept[self] = x[:, :, -2:].clone()  # a view would keep the whole chunk alive
        out: Tensor = self.conv(x)  # (B, C', T, H, W)
        return out


class Pointwise(nn.Module):
    """A linear map of the channels of every position."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class SpatialNorm(nn.Module):
    """Group normalisation whose scale and shift come from the latents at each position (Zheng et al. 2022, MoVQ).

    The statistics run over the time of a chunk too: results depend on how a clip is cut. The maps from latents to scale and
    shift run at the latents' own size, and what they give is stretched to the frames; the other way round is the same map for
    each of up to 256 copies of a latent.
    """

    def __init__(self, channels: int, latent_channels: int, groups: int) -> None:
        super().__init__()
        self.norm_layer = nn.GroupNorm(groups, channels, eps=EPSILON)
        self.conv_y = Pointwise(latent_channels, channels)
        self.conv_b = Pointwise(latent_channels, channels)

    def forward(self, x: Tensor, latents: Tensor, past: Past) -> Tensor:
        (_, _, t, h, w), (_, _, frames, height, width) = latents.shape, x.shape
        times = latent_of_frame(frames, t, past.start, x.device)
        scale, shift = (
            conv(latents)[:, :, times].repeat_interleave(width // w, dim=-1).unsqueeze(4).to(x.dtype)  # (B, C, T, h, 1, W)
            for conv in (self.conv_y, self.conv_b)
        )
        rows = torch.unflatten(self.norm_layer(x), 3, (h, height // h))  # (B, C, T, h, H/h, W)
        out: Tensor = (rows * scale).add_(shift)  # as two steps: fused they round otherwise than the release
        return out.flatten(3, 4)


def latent_of_frame(frames: int, latents: int, start: bool, device: torch.device) -> Tensor:
    """(T,) int64: the latent that each frame belongs to. Where a clip starts, its first latent has one frame."""
    if start and latents > 1:
        return F.pad(1 + latent_of_frame(frames - 1, latents - 1, False, device), (1, 0))
    assert frames % latents == 0
    return torch.arange(latents, device=device).repeat_interleave(frames // latents)


class ResnetBlock(nn.Module):
    """`x + conv(silu(norm(conv(silu(norm(x))))))`; the norms are spatial where there are latents."""

    gradient_checkpointing = False

    def __init__(self, channels: int, out_channels: int, groups: int, latent_channels: int | None = None) -> None:
        super().__init__()

        def norm(width: int) -> nn.Module:
            if latent_channels is None:
                return nn.GroupNorm(groups, width, eps=EPSILON)
            return SpatialNorm(width, latent_channels, groups)

        self.norm1 = norm(channels)
        self.norm2 = norm(out_channels)
        self.conv1 = CausalConv3d(channels, out_channels)
        self.conv2 = CausalConv3d(out_channels, out_channels)
        if channels != out_channels:
            self.conv_shortcut = nn.Conv3d(channels, out_channels, 1)

    def forward(self, x: Tensor, latents: Tensor | None, past: Past) -> Tensor:
        steered = () if latents is None else (latents, past)
        h = self.conv1(F.silu(self.norm1(x, *steered), inplace=True), past)
        h = self.conv2(F.silu(self.norm2(h, *steered), inplace=True), past)
        if hasattr(self, "conv_shortcut"):
            x = self.conv_shortcut(x)
        out: Tensor = h + x
        return out


class Downsample(nn.Module):
    """Half the height and width, and half the frames where `in_time`: the mean of each pair."""

    def __init__(self, channels: int, in_time: bool) -> None:
        super().__init__()
        self.in_time = in_time
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        if self.in_time:
            alone, pairs = torch.split(x, [int(past.start), x.shape[2] - int(past.start)], dim=2)
            pairs = torch.unflatten(pairs, 2, (pairs.shape[2] // 2, 2))
            x = torch.cat([alone, pairs.mean(dim=3)], dim=2)  # (B, C, T/2, H, W)
        return _on_frames(self.conv, F.pad(x, (0, 1, 0, 1)))  # (B, C, T/2, H/2, W/2)


class Upsample(nn.Module):
    """Twice the height and width, and twice the frames where `in_time`, each the same as its neighbour."""

    def __init__(self, channels: int, in_time: bool) -> None:
        super().__init__()
        self.in_time = in_time
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        t = x.shape[2]
        x = _on_frames(self._doubled, x)  # (B, C, T, 2 H, 2 W)
        if not self.in_time:
            return x
        times = latent_of_frame(2 * t - past.start, t, past.start, x.device)
        return x[:, :, times]  # doubled last: the convolution need not see a frame twice

    def _doubled(self, frames: Tensor) -> Tensor:
        out: Tensor = self.conv(F.interpolate(frames, scale_factor=2.0))
        return out


def _on_frames(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Run a layer of pictures on each frame."""
    b = x.shape[0]
    out = layer(x.transpose(1, 2).flatten(0, 1))  # (B T, C, H, W)
    return torch.unflatten(out, 0, (b, -1)).transpose(1, 2)
