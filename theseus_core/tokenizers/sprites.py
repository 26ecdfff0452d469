"""Frames as a smooth ground and a few sprites on it (`nn.sprites`): a clip of moving shapes as some fifty numbers a frame.

Latents have no size of their own: they are decoded at any.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from theseus_core.contracts import Consumes
from theseus_core.errors import TheseusError
from theseus_core.nn.sprites import GROUND, PLACE, SpriteConfig, Sprites

# Latents of larger numbers rise above the noise sooner, and count for more: where a thing goes is three numbers of many, and shows
# most; what shape it has is a dozen, and they say it together.
PLACES, SHAPES, SLOPES = 3.0, 0.6, 0.4


class Config(SpriteConfig):
    """Configuration of `sprites`."""


PRESETS: dict[str, dict[str, object]] = {
    "debug": {"shape_channels": 4, "canvas": 16, "width": 16},
    "small": {},
}
RUN: dict[str, object] = {"train": {"optimizer": "adamw"}}  # there are no blocks for Muon


class Model(Sprites):
    """The `sprites` family."""

    config: Config
    mean: Tensor
    std: Tensor
    produces: Consumes = "latents"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.latent_channels = self.numbers_of_frame
        self.register_buffer("mean", torch.zeros(self.latent_channels))
        self.register_buffer("std", torch.ones(self.latent_channels))

    def encode(self, video: Tensor, chunk: int | None = None) -> Tensor:
        """See `VideoTokenizer`; a clip is taken as a whole, whatever `chunk` says, for its things are sorted by how they move."""
        self.check_size(*video.shape[2:])
        z = (self.numbers(video) - self.mean) / self.std  # (B, T, Z)
        return z.mT[..., None, None]

    def decode(self, latents: Tensor, chunk: int | None = None, size: tuple[int, int] | None = None) -> Tensor:
        if latents.ndim != 5 or latents.shape[1] != self.latent_channels or latents.shape[3:] != (1, 1):
            raise TheseusError(f"latents must be (B, {self.latent_channels}, t, 1, 1), not: {tuple(latents.shape)}")
        assert size is not None, "latents of sprites do not say how large their frames are"
        return self.draw(latents[..., 0, 0].mT.float() * self.std.float() + self.mean.float(), *size)

    @torch.no_grad()
    def calibrate(self, videos: Iterable[Tensor]) -> None:
        seen = torch.cat([self.numbers(video).flatten(0, 1).cpu().double() for video in videos])
        self.mean.copy_(seen.mean(0))
        shows = torch.ones_like(self.std)
        things, slopes = self.things(shows), shows[-GROUND:].view(3, 3)[:, 1:]
        things[:, :3], things[:, PLACE:], slopes[:] = PLACES, SHAPES, SLOPES
        # what never changes stays small: a deviation of nothing would make noise of it
        self.std.copy_(seen.std(0, correction=0).clamp_min(1e-2) * shows.square().mean().sqrt() / shows)
