"""The tokenizer of generators that make pixels themselves: what goes in comes out, and nothing is learned."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from theseus_core.config import Config as BaseConfig
from theseus_core.contracts import Batch, Consumes, VideoTokenizer


class Config(BaseConfig):
    """Configuration of `pixels`: there is nothing to choose."""


PRESETS: dict[str, dict[str, object]] = {"debug": {}, "small": {}}


class Model(VideoTokenizer):
    """The `pixels` tokenizer: Z is the three colours, and a latent frame is a frame."""

    config: Config
    produces: Consumes = "pixels"
    latent_channels = 3
    time_factor = 1
    space_factor = 1

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    def losses(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        raise AssertionError("pixels are not trained")

    def encode(self, video: Tensor, chunk: int | None = None) -> Tensor:
        self.check_size(*video.shape[2:])
        return video

    def decode(self, latents: Tensor, chunk: int | None = None, size: tuple[int, int] | None = None) -> Tensor:
        return latents

    def calibrate(self, videos: Iterable[Tensor]) -> None:
        """Pixels stay as they are, in [-1, 1]."""
