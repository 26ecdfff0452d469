"""Frames as the weights of a few hundred pictures that they are sums of: a clip of scenes as a short list of numbers a frame.

The pictures are the principal components of frames shrunk to thumbnails, or of equal cells of these, as faces were first told by
"eigenpictures" (Sirovich and Kirby 1987), in closed form. Few of them are large, so that a generator has a handful of latents for a
clip. What they leave soft, convolutions draw sharper, every frame by itself and across the borders of cells.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from theseus_core.config import Config as BaseConfig
from theseus_core.contracts import Batch, Consumes, VideoTokenizer
from theseus_core.device import full_precision
from theseus_core.errors import TheseusError
from theseus_core.losses import psnr, ssim
from theseus_core.nn.closed_form import Covariance, evened


class Config(BaseConfig):
    """Configuration of `eigenframes`."""

    components: int = Field(256, ge=1, description="Z, the pictures that a cell, or a whole frame, is a sum of")
    cells: int = Field(1, ge=1, description="across and down a frame, each a sum of its own; all of the same pictures")
    side: int = Field(32, ge=4, description="of the square of pixels that frames are shrunk to")
    factor: int = Field(4, ge=1, description="how many times larger than that square a frame is drawn again")
    width: int = Field(64, ge=8, description="channels of the convolutions that draw it")
    blocks: int = Field(4, ge=0, description="residual blocks of two convolutions")
    noise: float = Field(0.03, ge=0, description="deviation of what is added to the latents in training, where they have one of 1")
    whiten: float = Field(
        0.5, ge=0, le=1, description="how far strong and weak components are evened out: 1 to the same deviation, 0 not at all"
    )
    l1_weight: float = Field(1.0, ge=0, description="weight of the mean absolute error")
    mse_weight: float = Field(1.0, ge=0, description="weight of the mean squared error")
    ssim_weight: float = Field(0.0, ge=0, description="weight of 1 - SSIM")


PRESETS: dict[str, dict[str, object]] = {
    "debug": {"components": 12, "side": 16, "factor": 2, "width": 16, "blocks": 1},
    "small": {},
}
RUN: dict[str, object] = {"train": {"optimizer": "adamw"}}  # there are no blocks for Muon


class Block(nn.Module):
    """Two convolutions beside what they add to, (n, D, S, S); nothing to begin with."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.second(F.silu(self.first(F.silu(x))))
        return x + added


class Sharpen(nn.Module):
    """Thumbnails (n, 3, S, S) to frames (n, 3, f S, f S); as interpolation would to begin with."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.factor = config.factor
        self.inward = nn.Conv2d(3, config.width, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(config.width) for _ in range(config.blocks)))
        self.outward = nn.Conv2d(config.width, 3 * config.factor**2, 3, padding=1)
        nn.init.zeros_(self.outward.weight)
        nn.init.zeros_(self.outward.bias)  # type: ignore[arg-type]

    def forward(self, small: Tensor) -> Tensor:
        fine = F.pixel_shuffle(self.outward(F.silu(self.blocks(self.inward(small)))), self.factor)
        return fine + F.interpolate(small, scale_factor=self.factor, mode="bilinear")


class Model(VideoTokenizer):
    """The `eigenframes` family."""

    config: Config
    mean: Tensor
    std: Tensor
    average: Tensor
    pictures: Tensor
    produces: Consumes = "latents"
    time_factor = 1
    space_factor = 1
    sizeless: ClassVar[bool] = True
    fitted_on: ClassVar[int] = 1024

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.latent_channels = config.components
        self.grid = config.cells
        if config.side % config.cells:
            raise TheseusError(f"{config.cells} cells do not divide a side of {config.side} pixels")
        values = 3 * (config.side // config.cells) ** 2
        if config.components > values:
            raise TheseusError(
                f"{config.components} components of {values} values", hint=f"at most {values}, or a larger side than {config.side}"
            )
        self.sharpen = Sharpen(config)
        self.register_buffer("average", torch.zeros(3 * config.side**2))
        self.register_buffer("pictures", nn.init.normal_(torch.zeros(config.components, values), std=values**-0.5))
        self.register_buffer("mean", torch.zeros(config.components))
        self.register_buffer("std", torch.ones(config.components))

    def encode(self, video: Tensor, chunk: int | None = None) -> Tensor:
        self.check_size(*video.shape[2:])
        z = (self._weights(video) - self.mean) / self.std  # (B, T, h, w, Z)
        return z.permute(0, 4, 1, 2, 3)

    def decode(self, latents: Tensor, chunk: int | None = None, size: tuple[int, int] | None = None) -> Tensor:
        z, side = self.latent_channels, self.grid
        if latents.ndim != 5 or latents.shape[1] != z or latents.shape[3:] != (side, side):
            raise TheseusError(f"latents must be (B, {z}, t, {side}, {side}), not: {tuple(latents.shape)}")
        assert size is not None, "latents of eigenframes do not say how large their frames are"
        parts = torch.split(latents, chunk or latents.shape[2], dim=2)
        return torch.cat([self._draw(part.permute(0, 2, 3, 4, 1) * self.std + self.mean, size) for part in parts], dim=2)

    @torch.no_grad()
    def initialize(self, videos: Iterable[Tensor]) -> None:
        """The mean frame, and the eigenvectors of the covariance of how cells, or frames, differ from it, by falling eigenvalue."""
        thumbnails = torch.cat([self._thumbnails(video).flatten(0, 1) for video in videos])
        self.average.copy_(thumbnails.mean(0))
        seen = Covariance(self.pictures.shape[1])
        for part in torch.split(thumbnails - self.average, 256):
            seen.add(self._cut(part))
        _, _, vectors = seen.eigenvectors()
        self.pictures.copy_(vectors[: self.config.components])

    @torch.no_grad()
    def calibrate(self, videos: Iterable[Tensor]) -> None:
        weights = torch.cat([self._weights(video).flatten(0, 3).cpu().double() for video in videos])
        std = weights.std(0, correction=0).clamp_min(1e-4)
        self.mean.copy_(weights.mean(0))
        self.std.copy_(evened(std, self.config.whiten))

    def losses(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        assert batch.video is not None
        video, c = batch.video, self.config
        weights = self._weights(video)
        weights = weights + c.noise * weights.std((0, 1, 2, 3), keepdim=True, correction=0) * torch.randn_like(weights)
        output = self._draw(weights, (video.shape[3], video.shape[4])).float()
        terms = {"l1": (output - video).abs().mean(), "mse": (output - video).square().mean()}
        loss = c.l1_weight * terms["l1"] + c.mse_weight * terms["mse"]
        if c.ssim_weight:
            terms["ssim"] = ssim(output, video).mean()
            loss = loss + c.ssim_weight * (1 - terms["ssim"])
        return {"loss": loss, **terms, "psnr": psnr(output.detach(), video).mean()}

    def _thumbnails(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, T, 3 S S), each pixel the mean of what it stands for."""
        frames = video.transpose(1, 2).float()
        return F.adaptive_avg_pool2d(frames.flatten(0, 1), self.config.side).reshape(*frames.shape[:2], -1)

    def _cut(self, thumbnails: Tensor) -> Tensor:
        """(..., 3 S S) -> (..., h, w, 3 s s): the cells of each."""
        before, g = thumbnails.shape[:-1], self.grid
        cells = thumbnails.reshape(*before, 3, g, self.config.side // g, g, self.config.side // g)
        return cells.movedim((-4, -2), (-5, -4)).reshape(*before, g, g, -1)

    def _joined(self, cells: Tensor) -> Tensor:
        """What `_cut` cut."""
        before, g = cells.shape[:-3], self.grid
        apart = cells.reshape(*before, g, g, 3, self.config.side // g, self.config.side // g)
        return apart.movedim((-5, -4), (-4, -2)).reshape(*before, -1)

    def _weights(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, T, h, w, Z): how much of each picture is in each cell."""
        with full_precision(video.device):
            return self._cut(self._thumbnails(video) - self.average.float()) @ self.pictures.float().T

    def _draw(self, weights: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, T, h, w, Z) -> (B, 3, T, H, W)."""
        batch, frames = weights.shape[:2]
        small = self._joined(weights.to(self.pictures.dtype) @ self.pictures) + self.average  # (B, T, 3 S S)
        small = small.view(-1, 3, self.config.side, self.config.side).to(self.sharpen.inward.weight.dtype)
        drawn: Tensor = self.sharpen(small)  # (B T, 3, f S, f S)
        if drawn.shape[2:] != size:
            drawn = F.interpolate(drawn, size, mode="bilinear", antialias=True)
        return drawn.view(batch, frames, 3, *size).transpose(1, 2)
