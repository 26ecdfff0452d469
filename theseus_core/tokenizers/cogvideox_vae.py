"""The released CogVideoX autoencoder (Yang et al. 2024), 4x in time and 8x in space.

Its norms take their statistics over the time of a chunk, so a clip cut in other places gives other numbers. It was released to
run two latent frames at a time, and does so here unless told otherwise. Module names are those of the released weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from theseus_core.config import Config as BaseConfig
from theseus_core.contracts import Batch, Consumes, VideoTokenizer
from theseus_core.errors import TheseusError
from theseus_core.losses import psnr
from theseus_core.nn.causal3d import EPSILON, CausalConv3d, Downsample, Past, ResnetBlock, SpatialNorm, Upsample

TIME, SPACE = 4, 8
CHUNK = 2  # latent frames at a time, as released
MID_BLOCKS = 2


class Config(BaseConfig):
    """Configuration of `cogvideox_vae`; what the release has too bears the release's name."""

    block_out_channels: tuple[int, int, int, int] = Field((128, 256, 256, 512), description="channels from frames to latents")
    latent_channels: int = Field(16, ge=1, description="Z, channels of a latent")
    layers_per_block: int = Field(3, ge=1, description="residual blocks of each size; the decoder has one more")
    norm_num_groups: int = Field(32, ge=1, description="groups of channels that are normalised together")
    scaling_factor: float = Field(1.15258426, gt=0, description="what latents are multiplied with on their way into a generator")
    invert_scale_latents: bool = Field(
        False, description="a first frame given as an image is divided by the factor instead, as the 1.5 was trained"
    )
    sample_height: int = Field(480, ge=2 * SPACE, description="height of the frames it was made for; a tile is half of it")
    sample_width: int = Field(720, ge=2 * SPACE, description="width of the frames it was made for; a tile is half of it")
    l1_weight: float = Field(1.0, ge=0, description="weight of the mean absolute error")
    kl_weight: float = Field(1e-6, ge=0, description="weight of the KL divergence, a mean over latent values, in nats")

    @model_validator(mode="after")
    def _groups_divide_channels(self) -> Config:
        for channels in self.block_out_channels:
            if channels < 1 or channels % self.norm_num_groups:
                raise ValueError(f"{channels} channels are no multiple of {self.norm_num_groups} groups")
        return self


PRESETS: dict[str, dict[str, object]] = {
    "debug": {
        "block_out_channels": (8, 8, 16, 16),
        "latent_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": 2,
        "sample_height": 96,
        "sample_width": 80,
    },
    "tiny": {"block_out_channels": (32, 64, 64, 128), "layers_per_block": 1, "norm_num_groups": 16},
    "small": {"block_out_channels": (64, 128, 128, 256), "layers_per_block": 2},
    "base": {},  # the released size: 2b, with 5b and 1.5 by their factors
}


class Level(nn.Module):
    """Blocks of one size, then the step to the next size, if there is one."""

    gradient_checkpointing = False

    def __init__(
        self, resnets: Iterable[ResnetBlock], downsamplers: Iterable[Downsample] = (), upsamplers: Iterable[Upsample] = ()
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        self.downsamplers = nn.ModuleList(downsamplers)
        self.upsamplers = nn.ModuleList(upsamplers)

    def forward(self, x: Tensor, latents: Tensor | None, past: Past) -> Tensor:
        for resnet in self.resnets:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                assert past.start and not past.more, "a block that runs twice must find the same past"
                x = checkpoint(resnet, x, latents, past, use_reentrant=False)
            else:
                x = resnet(x, latents, past)
        for resample in (*self.downsamplers, *self.upsamplers):
            x = resample(x, past)
        return x


class Encoder(nn.Module):
    """Video (B, 3, T, H, W) to moments (B, 2 Z, t, h, w)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        widths, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = CausalConv3d(3, widths[0])
        self.down_blocks = nn.ModuleList()
        before = widths[0]
        for i, width in enumerate(widths):
            resnets = [ResnetBlock(before if j == 0 else width, width, groups) for j in range(config.layers_per_block)]
            last = i == len(widths) - 1
            self.down_blocks.append(Level(resnets, downsamplers=[] if last else [Downsample(width, 2**i < TIME)]))
            before = width
        self.mid_block = Level(ResnetBlock(before, before, groups) for _ in range(MID_BLOCKS))
        self.norm_out = nn.GroupNorm(groups, before, eps=EPSILON)
        self.conv_out = CausalConv3d(before, 2 * config.latent_channels)

    def forward(self, video: Tensor, past: Past) -> Tensor:
        x = self.conv_in(video, past)  # (B, C, T, H, W)
        for level in (*self.down_blocks, self.mid_block):
            x = level(x, None, past)  # at last (B, C, t, h, w)
        moments: Tensor = self.conv_out(nn.functional.silu(self.norm_out(x)), past)  # (B, 2 Z, t, h, w)
        return moments


class Decoder(nn.Module):
    """Latents (B, Z, t, h, w) to video (B, 3, T, H, W); every norm is told the latents."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        widths, groups, z = config.block_out_channels[::-1], config.norm_num_groups, config.latent_channels
        before = widths[0]
        self.conv_in = CausalConv3d(z, before)
        self.mid_block = Level(ResnetBlock(before, before, groups, z) for _ in range(MID_BLOCKS))
        self.up_blocks = nn.ModuleList()
        for i, width in enumerate(widths):
            resnets = [ResnetBlock(before if j == 0 else width, width, groups, z) for j in range(config.layers_per_block + 1)]
            last = i == len(widths) - 1
            self.up_blocks.append(Level(resnets, upsamplers=[] if last else [Upsample(width, 2**i < TIME)]))
            before = width
        self.norm_out = SpatialNorm(before, z, groups)
        self.conv_out = CausalConv3d(before, 3)

    def forward(self, latents: Tensor, past: Past) -> Tensor:
        x = self.conv_in(latents, past)  # (B, C, t, h, w)
        for level in (self.mid_block, *self.up_blocks):
            x = level(x, latents, past)  # at last (B, C, T, H, W)
        video: Tensor = self.conv_out(nn.functional.silu(self.norm_out(x, latents, past)), past)  # (B, 3, T, H, W)
        return video


@dataclass(frozen=True)
class Tiles:
    """Large frames as overlapping tiles, in latents: memory stays small, and each tile's norms know the tile alone.

    Attributes:
        height, width: of a tile.
        every_row, every_column: from the beginning of one tile to that of the next; the rest is blended.
    """

    height: int
    width: int
    every_row: int
    every_column: int

    @classmethod
    def released(cls, config: Config) -> Tiles:
        """Half the height and width the autoencoder was made for, a sixth of the rows and a fifth of the columns shared."""
        height, width = config.sample_height // (2 * SPACE), config.sample_width // (2 * SPACE)
        return cls(height, width, max(1, int(height * (1 - 1 / 6))), max(1, int(width * (1 - 1 / 5))))


class Model(VideoTokenizer):
    """The `cogvideox_vae` family.

    Attributes:
        tiles: how to cut frames that are larger than a tile; None to take them whole.
        slicing: run the videos of a batch one after the other, for less memory.
    """

    config: Config
    produces: Consumes = "latents"
    time_factor = TIME
    space_factor = SPACE
    exact_in_chunks: ClassVar[bool] = False
    tiles: Tiles | None = None
    slicing: bool = False

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.latent_channels = config.latent_channels
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    @property
    def image_scale(self) -> float:
        """What the latents of a given first frame are multiplied with beyond `encode`: 1, but for the 1.5."""
        return self.config.scaling_factor**-2 if self.config.invert_scale_latents else 1.0

    @property
    def tile(self) -> tuple[int, int]:
        tiles = Tiles.released(self.config)
        return tiles.height * SPACE, tiles.width * SPACE

    def set_tiling(self, on: bool) -> None:
        self.tiles = Tiles.released(self.config) if on else None

    def encode(self, video: Tensor, chunk: int | None = None) -> Tensor:
        """As `VideoTokenizer.encode`, but `chunk` decides the result; None is the release's `CHUNK`."""
        return self.posterior(video, chunk)[0]

    def posterior(self, video: Tensor, chunk: int | None = None) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents (B, Z, t, h, w), scaled as by `encode`."""
        self.check_size(*video.shape[2:])
        frames = TIME * _checked(chunk)
        moments = self._run(lambda part: in_chunks(self.encoder, part, frames), video, SPACE, 1)  # (B, 2 Z, t, h, w)
        mean, log_variance = moments.chunk(2, dim=1)
        scale = self.config.scaling_factor
        return mean * scale, (0.5 * log_variance.clamp(-30, 20)).exp() * scale

    def decode(self, latents: Tensor, chunk: int | None = None, size: tuple[int, int] | None = None) -> Tensor:
        """As `VideoTokenizer.decode`, but `chunk` decides the result; None is the release's `CHUNK`."""
        if latents.ndim != 5 or latents.shape[1] != self.latent_channels:
            raise TheseusError(f"latents must be (B, {self.latent_channels}, t, h, w), not: {tuple(latents.shape)}")
        at_once = _checked(chunk)
        z = latents / self.config.scaling_factor
        return self._run(lambda part: in_chunks(self.decoder, part, at_once), z, 1, SPACE)  # (B, 3, T, H, W)

    def _run(self, run: Callable[[Tensor], Tensor], x: Tensor, inward: int, outward: int) -> Tensor:
        x = x.to(self.decoder.conv_in.conv.weight.dtype)
        cut = self.tiles
        if cut is not None and (x.shape[3] > cut.height * inward or x.shape[4] > cut.width * inward):
            tiles = cut  # for the type checker: a closure forgets that it is not None
            whole, run = run, lambda part: in_tiles(whole, part, tiles, inward, outward)
        return torch.cat([run(part) for part in torch.split(x, 1 if self.slicing else len(x))])

    def losses(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        """L1 and a little KL, on whole clips: what a chunk must remember is in the way of gradients."""
        assert batch.video is not None
        video = batch.video
        self.check_size(*video.shape[2:])
        mean, log_variance = self.encoder(video, Past()).float().chunk(2, dim=1)
        log_variance = log_variance.clamp(-30, 20)
        output = self.decoder(mean + (0.5 * log_variance).exp() * torch.randn_like(mean), Past()).float()
        terms = {
            "l1": (output - video).abs().mean(),
            "kl": 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean(),
        }
        loss = self.config.l1_weight * terms["l1"] + self.config.kl_weight * terms["kl"]
        return {"loss": loss, **terms, "psnr": psnr(output.detach(), video).mean()}

    def shard_units(self) -> list[nn.Module]:
        levels = (*self.encoder.down_blocks, self.encoder.mid_block, self.decoder.mid_block, *self.decoder.up_blocks)
        return list(levels)

    @torch.no_grad()
    def calibrate(self, videos: Iterable[Tensor]) -> None:
        """Choose the one factor that gives latents a deviation of 1; the release has no factor for each channel."""
        count, total, squares = 0, 0.0, 0.0
        for video in videos:
            z = self.encode(video).cpu().double() / self.config.scaling_factor
            count, total, squares = count + z.numel(), total + float(z.sum()), squares + float(z.square().sum())
        deviation = math.sqrt(max(squares / count - (total / count) ** 2, 1e-8))
        self.config = self.config.model_copy(update={"scaling_factor": 1 / deviation})


def _checked(chunk: int | None) -> int:
    if chunk is not None and chunk < 1:
        raise TheseusError(f"a chunk holds at least one latent frame, not: {chunk}", hint="None for as many as the release takes")
    return CHUNK if chunk is None else chunk


def in_chunks(run: Callable[[Tensor, Past], Tensor], x: Tensor, frames: int) -> Tensor:
    """Run over (B, C, T, H, W) so many frames at a time; what is left over goes with the first chunk, as released."""
    count = max(x.shape[2] // frames, 1)
    parts = torch.split(x, [x.shape[2] - (count - 1) * frames] + [frames] * (count - 1), dim=2)
    past = Past()
    out = []
    for i, part in enumerate(parts):
        past.start, past.more = i == 0, i < count - 1
        out.append(run(part, past))
    return torch.cat(out, dim=2)


def in_tiles(run: Callable[[Tensor], Tensor], x: Tensor, tiles: Tiles, inward: int, outward: int) -> Tensor:
    """Run over (B, C, T, H, W) a tile at a time, and blend each into what is above and to the left of it.

    Args:
        inward, outward: values to a latent's side in what goes in and in what comes out.
    """
    down, right = tiles.every_row * outward, tiles.every_column * outward
    shared_rows, shared_columns = tiles.height * outward - down, tiles.width * outward - right
    rows: list[Tensor] = []
    above: list[Tensor] = []
    for i in range(0, x.shape[3], tiles.every_row * inward):
        row: list[Tensor] = []
        for j in range(0, x.shape[4], tiles.every_column * inward):
            tile = run(x[:, :, :, i : i + tiles.height * inward, j : j + tiles.width * inward])
            if above:
                tile = _blend(above[len(row)], tile, shared_rows, 3)
            if row:
                tile = _blend(row[-1], tile, shared_columns, 4)
            row.append(tile)
        rows.append(torch.cat([tile[:, :, :, :down, :right] for tile in row], dim=4))
        above = row
    return torch.cat(rows, dim=3)


def _blend(before: Tensor, tile: Tensor, shared: int, dim: int) -> Tensor:
    """`tile` with its first values led over from the last ones of `before`, linearly."""
    shared = min(shared, before.shape[dim], tile.shape[dim])
    if not shared:
        return tile
    weight = torch.arange(shared, device=tile.device, dtype=tile.dtype) / shared
    weight = weight.view([-1 if d == dim else 1 for d in range(5)])
    begin, rest = torch.split(tile, [shared, tile.shape[dim] - shared], dim)
    return torch.cat([before.narrow(dim, before.shape[dim] - shared, shared).lerp(begin, weight), rest], dim)
