"""What `sprites` tells of a frame, as a few codes: a sentence of seven words for a thing on its ground.

A thing is where it is (two words), how large, of what colour and of what shape, each the nearest of what training clips showed;
the ground is its colour, and how that changes. A kind of word has its own part of the codebook, as each part of a vector has in
product quantization (Jegou et al. 2011). Numbers that stand alone are cut evenly, the others are the k-means of those seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

import torch
from pydantic import Field
from torch import Tensor

from theseus_core.contracts import Consumes
from theseus_core.device import full_precision
from theseus_core.errors import TheseusError
from theseus_core.nn.foreground import MAX_THINGS
from theseus_core.nn.quantizer import k_means, nearest, use_of
from theseus_core.nn.sprites import GROUND, PLACE, SpriteConfig, Sprites

WORDS = ("y", "x", "size", "colour", "shape")  # of a thing; whether it is there goes with its colour
GROUND_WORDS = ("ground", "slope")
COLOURS = 3  # of the ground, each with what it is in the middle, and how it changes down and across


class Config(SpriteConfig):
    """Configuration of `sprite_codes`."""

    things: int = Field(1, ge=1, le=MAX_THINGS, description="sprites of a frame, at most; of more, the largest are kept")
    place_codes: int = Field(128, ge=2, description="codes for each of y, x and size, at even distances")
    colour_codes: int = Field(256, ge=2, description="codes for the colour of a thing, and for there being none")
    shape_codes: int = Field(1024, ge=2, description="codes for a shape, turned as it is")
    ground_codes: int = Field(512, ge=2, description="codes for the colour of the ground, in its middle")
    slope_codes: int = Field(512, ge=2, description="codes for how that colour changes across the ground, and down")


PRESETS: dict[str, dict[str, object]] = {
    "debug": {
        "shape_channels": 4,
        "canvas": 16,
        "width": 16,
        "place_codes": 16,
        "colour_codes": 8,
        "shape_codes": 16,
        "ground_codes": 8,
        "slope_codes": 8,
    },
    "small": {},
}
RUN: dict[str, object] = {"train": {"optimizer": "adamw"}}  # there are no blocks for Muon


class Model(Sprites):
    """The `sprite_codes` family: `encode` gives codes (B, 1, T, 5 K + 2, 1) int64, a row of words for each frame."""

    config: Config
    produces: Consumes = "codes"
    fitted_last = True
    calibrated_on = 4096  # windows of a few frames each

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.latent_channels = 1
        sizes = dict.fromkeys(("y", "x", "size"), config.place_codes)
        sizes |= {"colour": config.colour_codes, "shape": config.shape_codes}
        sizes |= {"ground": config.ground_codes, "slope": config.slope_codes}
        widths = {"y": 1, "x": 1, "size": 1, "colour": 4, "shape": config.shape_channels, "ground": COLOURS, "slope": 2 * COLOURS}
        self.words = [*WORDS] * config.things + [*GROUND_WORDS]
        self.codebook_size = sum(sizes.values())
        self.first = dict(zip(sizes, accumulate(sizes.values(), initial=0), strict=False))
        for name, size in sizes.items():
            self.register_buffer(f"codes_of_{name}", torch.zeros(size, widths[name]))

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        return 1, frames, len(self.words), 1

    def encode(self, video: Tensor, chunk: int | None = None) -> Tensor:
        """See `VideoTokenizer`; a clip is taken as a whole, whatever `chunk` says, for its things are sorted by how they move."""
        self.check_size(*video.shape[2:])
        parts = self._parts(self.numbers(video).float())
        with full_precision(video.device):
            codes = [
                self.first[name] + nearest(part.flatten(0, 1), self._codes_of(name)).view(part.shape[:-1])
                for name, part in zip(self.words, parts, strict=True)
            ]
        return torch.stack(codes, dim=-1)[:, None, :, :, None]

    def decode(self, latents: Tensor, chunk: int | None = None, size: tuple[int, int] | None = None) -> Tensor:
        """See `VideoTokenizer`. A code that is no word of its place, which only an untrained generator writes, is read as the
        nearest that is."""
        if latents.ndim != 5 or latents.shape[1::3] != (1, 1) or latents.shape[3] != len(self.words) or latents.is_floating_point():
            shape = f"(B, 1, t, {len(self.words)}, 1)"
            raise TheseusError(f"codes must be whole numbers {shape}, not: {latents.dtype} {tuple(latents.shape)}")
        assert size is not None, "codes of sprites do not say how large their frames are"
        parts = []
        for name, code in zip(self.words, latents[:, 0, :, :, 0].unbind(-1), strict=True):
            book = self._codes_of(name)
            parts.append(book[(code - self.first[name]).clamp(0, len(book) - 1)])
        *things, colour, slope = parts  # words of a thing stand in the order of its numbers
        ground = torch.cat([colour.unsqueeze(-1), slope.view(*slope.shape[:-1], COLOURS, 2)], dim=-1)
        return self.draw(torch.cat([*things, ground.flatten(-2)], dim=-1), *size)

    @torch.no_grad()
    def calibrate(self, videos: Iterable[Tensor]) -> None:
        """Fit the codes to what is seen in the clips; the same clips give the same codes."""
        seen = torch.cat([self.numbers(video).flatten(0, 1).float().cpu() for video in videos])  # (n, Z)
        if not seen.isfinite().all():
            raise TheseusError("what is told of frames are no numbers", hint="the training has diverged: a lower train.lr")
        by_word: dict[str, list[Tensor]] = {}
        for name, part in zip(self.words, self._parts(seen), strict=True):
            by_word.setdefault(name, []).append(part)
        with full_precision(seen.device), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            for name, parts in by_word.items():
                numbers, book = torch.cat(parts), self._codes_of(name)
                if numbers.shape[1] == 1:
                    line = torch.linspace(0, 1, len(book))[:, None]
                    book.copy_(numbers.min() + line * (numbers.max() - numbers.min()))
                else:
                    book.copy_(k_means(numbers, len(book), cosine=False, spread=True))

    def measure(self, latents: Tensor) -> dict[str, float]:
        return use_of(latents, self.codebook_size)

    def _codes_of(self, name: str) -> Tensor:
        book: Tensor = getattr(self, f"codes_of_{name}")
        return book

    def _parts(self, numbers: Tensor) -> list[Tensor]:
        """(..., Z) to what each word says of it, (..., n): of a thing's numbers, presence stands behind the colour."""
        parts: list[Tensor] = []
        for thing in self.things(numbers).unbind(-2):
            parts += [*torch.split(thing[..., :3], 1, dim=-1), thing[..., 3:PLACE], thing[..., PLACE:]]
        ground = numbers[..., -GROUND:].reshape(*numbers.shape[:-1], COLOURS, -1)
        return [*parts, ground[..., 0], ground[..., 1:].flatten(-2)]
