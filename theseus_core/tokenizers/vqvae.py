"""A VQ-VAE (van den Oord et al. 2017): frames to numbers of codes and back, a frame at a time or, causally, four.

Patches go through one linear map, then residual blocks at the codes' resolution, as in `causal_vae`; between encoder and decoder
stands the codebook. The decoder gets the entries of the codes and nothing else.

With `dither` each place of a tile has an offset of its own, added before the codebook and known behind it (Roberts 1962), so that
a code means something else at each place: neighbours together tell a colour more finely than one code can, and a flat ground takes
many codes and not one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from theseus_core.colour import colour_error
from theseus_core.config import Config as BaseConfig
from theseus_core.contracts import Batch, Consumes, VideoTokenizer
from theseus_core.errors import TheseusError
from theseus_core.losses import psnr, ssim
from theseus_core.nn.causal import Cache, Trunk
from theseus_core.nn.closed_form import project, read_off, solve, some_of
from theseus_core.nn.features import feature_net, unlikeness
from theseus_core.nn.patching import patchify, unpatchify
from theseus_core.nn.quantizer import Quantized, Quantizer, use_of


class Config(BaseConfig):
    """Configuration of `vqvae`."""

    codebook_size: int = Field(1024, ge=2, description="V, entries of the codebook")
    code_width: int = Field(256, ge=1, description="width of a code as the decoder gets it")
    lookup_width: int = Field(8, ge=2, description="K, width of the space in which the nearest code is looked for")
    cosine: bool = Field(True, description="codes and vectors lie on the unit sphere of that space, which keeps more codes in use")
    time_factor: Literal[1, 4] = Field(1, description="frames that a code stands for; with 4 the first frame has codes of its own")
    space_factor: int = Field(4, ge=1, description="side of the square of pixels that a code stands for")
    time_kernel: int = Field(3, ge=1, description="code frames that a block sees, itself included; 1 treats each by itself")
    width: int = Field(128, ge=8, description="D, channels of the blocks")
    encoder_blocks: int = Field(2, ge=1, description="residual blocks of the encoder")
    decoder_blocks: int = Field(4, ge=1, description="residual blocks of the decoder")
    expansion: float = Field(2.0, gt=0, description="hidden width of the gated MLP as a multiple of `width`")
    dither: int = Field(0, ge=0, description="side of the tile of codes whose places have offsets of their own; 0 for none")
    gradient: Literal["rotation", "straight"] = Field(
        "rotation", description="how the gradient passes the choice of a code: turned as the vector is into its code, or unchanged"
    )
    code_decay: float = Field(0.99, ge=0, lt=1, description="how much of the codebook's moving averages stays in a step")
    restart_after: int = Field(100, ge=0, description="steps in which nothing took a code, after which it moves; 0 for never")
    least_usage: float = Field(
        0.5, ge=0, le=1, description="share of codes in use below which the training warns that the codebook collapses"
    )
    l1_weight: float = Field(1.0, ge=0, description="weight of the mean absolute error")
    commitment_weight: float = Field(
        0.25, ge=0, description="weight of the distance of vectors to their codes; it moves the vectors"
    )
    codebook_weight: float = Field(
        0.0, ge=0, description="weight of the same for the codes; 0 lets these follow the moving average of their vectors instead"
    )
    ssim_weight: float = Field(0.1, ge=0, description="weight of 1 - SSIM")
    colour_weight: float = Field(0.5, ge=0, description="weight of the distance in CIELAB")
    perceptual_weight: float = Field(0.0, ge=0, description="weight of the unlikeness to `perceptual_net`")
    perceptual_net: str = Field(
        "vgg16", description="vgg16 (downloaded), a .safetensors file with its weights, or random (filters that know nothing)"
    )
    perceptual_frames: int = Field(2, ge=1, description="frames of each clip that the perceptual term looks at")
    diversity_weight: float = Field(0.02, ge=0, description="weight of the unevenness with which codes are chosen")
    diversity_steps: int = Field(2000, ge=0, description="steps in which that weight falls to zero; 0 lets it stay")

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        if self.lookup_width > min(self.width, self.code_width):
            raise ValueError(f"lookup_width must be at most width and code_width: {min(self.width, self.code_width)}")
        if self.perceptual_net != "vgg16" and not self.perceptual_weight:
            raise ValueError("perceptual_net has an effect only with a perceptual_weight")
        if self.dither == 1:
            raise ValueError("dither is 0 for none, or the side of a tile of at least 2: one place has nothing to differ from")
        return self


# Without the diversity term the offsets shrink as it trains.
DITHERED: dict[str, object] = {"dither": 8, "diversity_weight": 0.1, "diversity_steps": 0}
PRESETS: dict[str, dict[str, object]] = {
    "debug": {
        "codebook_size": 32,
        "code_width": 16,
        "lookup_width": 4,
        "width": 32,
        "encoder_blocks": 1,
        "decoder_blocks": 1,
        "restart_after": 4,
        "least_usage": 0.05,
    },
    "tiny": {"time_factor": 4, "space_factor": 8, "width": 192, "decoder_blocks": 6},  # few codes, which a CPU can learn to write
    "small": DITHERED,
    "base": {**DITHERED, "width": 256, "encoder_blocks": 4, "decoder_blocks": 8, "perceptual_weight": 0.1},
}


OFFSET = 0.07  # deviation of the first offsets, where the strongest component of patches has 1


class Offsets(nn.Module):
    """A vector for each place of a tile of P x P, learned; places a tile apart have the same."""

    def __init__(self, side: int, width: int, deviation: float) -> None:
        super().__init__()
        self.vectors = nn.Parameter(deviation * torch.randn(side, side, width))  # (P, P, D)

    def forward(self, x: Tensor) -> Tensor:
        """(B, t, h, w, D) to the same."""
        h, w = x.shape[2:4]
        side = len(self.vectors)
        return x + self.vectors.repeat(-(-h // side), -(-w // side), 1)[:h, :w].to(x.dtype)


class Encoder(nn.Module):
    """Video (B, 3, T, H, W) to vectors (B, t, h, w, D)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.time, self.space = config.time_factor, config.space_factor
        self.first = nn.Linear(3 * self.space**2, config.width)
        self.rest = nn.Linear(3 * self.time * self.space**2, config.width) if self.time > 1 else None
        self.trunk = Trunk(config.width, config.encoder_blocks, config.expansion, config.time_kernel)
        self.offsets = Offsets(config.dither, config.width, OFFSET) if config.dither else None

    def forward(self, video: Tensor, cache: Cache | None = None) -> Tensor:
        parts = []
        if self.rest is None:
            parts.append(self.first(patchify(video, 1, self.space)))  # (B, T, h, w, D)
        else:
            if not cache:  # the start of a clip: its first frame has codes by itself
                parts.append(self.first(patchify(video[:, :, :1], 1, self.space)))  # (B, 1, h, w, D)
                video = video[:, :, 1:]
            if video.shape[2]:
                parts.append(self.rest(patchify(video, self.time, self.space)))  # (B, k, h, w, D)
        vectors: Tensor = self.trunk(torch.cat(parts, dim=1), cache)
        return vectors if self.offsets is None else self.offsets(vectors)


class Decoder(nn.Module):
    """Entries of the codebook (B, t, h, w, code width) to video (B, 3, T, H, W)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.time, self.space = config.time_factor, config.space_factor
        self.inward = nn.Linear(config.code_width, config.width)
        self.offsets = Offsets(config.dither, config.width, 0.0) if config.dither else None
        self.trunk = Trunk(config.width, config.decoder_blocks, config.expansion, config.time_kernel)
        self.first = nn.Linear(config.width, 3 * self.space**2)
        self.rest = nn.Linear(config.width, 3 * self.time * self.space**2) if self.time > 1 else None

    def forward(self, entries: Tensor, cache: Cache | None = None) -> Tensor:
        start = not cache
        x = self.inward(entries)  # (B, t, h, w, D)
        x = self.trunk(x if self.offsets is None else self.offsets(x), cache)
        if self.rest is None:
            return unpatchify(self.first(x), 1, self.space)  # (B, 3, T, H, W)
        parts = []
        if start:
            parts.append(unpatchify(self.first(x[:, :1]), 1, self.space))  # (B, 3, 1, H, W)
            x = x[:, 1:]
        if x.shape[1]:
            parts.append(unpatchify(self.rest(x), self.time, self.space))  # (B, 3, 4 k, H, W)
        return torch.cat(parts, dim=2)


class Model(VideoTokenizer):
    """The `vqvae` family: `encode` gives codes (B, 1, t, h, w) int64."""

    config: Config
    produces: Consumes = "codes"
    latent_channels = 1

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.time_factor, self.space_factor, self.codebook_size = config.time_factor, config.space_factor, config.codebook_size
        self.encoder = Encoder(config)
        self.quantizer = Quantizer(
            config.codebook_size,
            config.width,
            config.code_width,
            config.lookup_width,
            cosine=config.cosine,
            learned_by="gradient" if config.codebook_weight else "average",
            decay=config.code_decay,
            restart_after=config.restart_after,
            passes=config.gradient,
        )
        self.decoder = Decoder(config)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))  # done; the diversity term fades with them

    steps: Tensor

    def encode(self, video: Tensor, chunk: int | None = None) -> Tensor:
        frames, f = video.shape[2], self.time_factor
        self.check_size(*video.shape[2:])
        _check_chunk(chunk)
        cache: Cache | None = None if chunk is None else {}
        ends = [frames] if chunk is None else [1 + f * i for i in range(chunk - 1, (frames - 1) // f + chunk, chunk)]
        starts = [0, *ends[:-1]]
        codes = [self.quantizer.encode(self.encoder(video[:, :, a:b], cache)) for a, b in zip(starts, ends, strict=True)]
        return torch.cat(codes, dim=1).unsqueeze(1)  # (B, 1, t, h, w)

    def decode(self, latents: Tensor, chunk: int | None = None, size: tuple[int, int] | None = None) -> Tensor:
        if latents.ndim != 5 or latents.shape[1] != 1 or latents.is_floating_point():
            raise TheseusError(f"codes must be whole numbers (B, 1, t, h, w), not: {latents.dtype} {tuple(latents.shape)}")
        _check_chunk(chunk)
        entries = self.quantizer.decode(latents.squeeze(1))  # (B, t, h, w, code width)
        cache: Cache | None = None if chunk is None else {}
        return torch.cat([self.decoder(part, cache) for part in torch.split(entries, chunk or entries.shape[1], dim=1)], dim=2)

    def losses(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        assert batch.video is not None
        video = batch.video
        self.check_size(*video.shape[2:])
        quantized = self.quantizer(self.encoder(video))
        output = self.decoder(quantized.vectors).float()
        weights, terms = self._terms(video, output, quantized)
        loss = torch.stack([weight * terms[name] for name, weight in weights.items()]).sum()
        likeness = ssim(output if self.config.ssim_weight else output.detach(), video).mean()
        seen = {"psnr": psnr(output.detach(), video).mean(), "ssim": likeness}
        seen |= {"usage": self.quantizer.usage, "perplexity": self.quantizer.perplexity}
        return {"loss": loss + self.config.ssim_weight * (1 - likeness), **terms, **seen}

    def _terms(self, video: Tensor, output: Tensor, quantized: Quantized) -> tuple[dict[str, float], dict[str, Tensor]]:
        """The terms of the loss but SSIM, with their weights; one that would count nothing is left out where it costs time."""
        c = self.config
        weights = {"l1": c.l1_weight, "commitment": c.commitment_weight, "codebook": c.codebook_weight}
        terms = {"l1": (output - video).abs().mean(), "commitment": quantized.commitment, "codebook": quantized.codebook}
        weights["diversity"] = c.diversity_weight * self._diversity_left()
        terms["diversity"] = quantized.diversity
        if c.colour_weight:
            weights["colour"], terms["colour"] = c.colour_weight, colour_error(output, video)
        if c.perceptual_weight:
            weights["perceptual"], terms["perceptual"] = c.perceptual_weight, self._perceptual(output, video)
        return weights, terms

    def _diversity_left(self) -> float:
        return max(0.0, 1 - float(self.steps) / self.config.diversity_steps) if self.config.diversity_steps else 1.0

    def _perceptual(self, output: Tensor, video: Tensor) -> Tensor:
        net = feature_net(self.config.perceptual_net, video.device)
        frames = torch.randperm(video.shape[2], device=video.device)[: self.config.perceptual_frames]
        shown, wanted = (clip[:, :, frames].transpose(1, 2).flatten(0, 1) for clip in (output, video))  # (B n, 3, H, W)
        return unlikeness(net, shown, wanted)

    def after_step(self) -> None:
        self.quantizer.update()
        self.steps += 1

    def worry(self, scalars: dict[str, float]) -> str:
        least = self.config.least_usage
        if scalars.get("usage", 1.0) >= least or self.steps < 50:  # before, an average has nothing to say
            return ""
        return f"the codebook collapses: {scalars['usage']:.0%} of its codes are in use, fewer than {least:.0%}"

    def measure(self, latents: Tensor) -> dict[str, float]:
        return use_of(latents, self.codebook_size)

    def shard_units(self) -> list[nn.Module]:
        return [self.encoder.trunk, self.decoder.trunk]

    def calibrate(self, videos: Iterable[Tensor]) -> None:
        """Nothing: codes have no scale."""

    # --- the first weights, from data ---

    @torch.no_grad()
    def initialize(self, videos: Iterable[Tensor]) -> None:
        """Start as the best codec of its kind that is linear on both sides of the codebook.

        Patches are projected on their principal components, the codes are the k-means of those, and the way back is the least
        squares from codes to patches. The blocks start as the identity, so training begins with the picture in sight.
        """
        first, rest = [], []
        for video in videos:
            self.check_size(*video.shape[2:])
            start = video if self.time_factor == 1 else video[:, :, :1]
            first.append(patchify(start, 1, self.space_factor).flatten(0, 3))
            if self.time_factor > 1:
                rest.append(patchify(video[:, :, 1:], self.time_factor, self.space_factor).flatten(0, 3))
        samples = [some_of(torch.cat(parts)) for parts in (first, rest) if parts and sum(map(len, parts))]
        k = self.config.lookup_width - self.config.cosine  # on a sphere one direction is what all lengths are measured by
        for patches, inward in zip(samples, self._linears(self.encoder), strict=False):
            project(inward, patches)
        read_off(self.quantizer.inward, k)
        vectors = [inward(patches) for patches, inward in zip(samples, self._linears(self.encoder), strict=False)]  # (n, D) each
        added, known = self._first_offsets(torch.cat(vectors), k)
        tiles = [torch.randint(len(added), (len(each),)) for each in vectors]  # as if each patch had its place in a tile
        places = [self.quantizer.place(each + added[tile]) for each, tile in zip(vectors, tiles, strict=True)]
        self.quantizer.start_from(torch.cat(places))
        for linear in (self.quantizer.outward, self.decoder.inward):
            nn.init.eye_(linear.weight)
            nn.init.zeros_(linear.bias)
        for patches, place, tile, outward in zip(samples, places, tiles, self._linears(self.decoder), strict=False):
            solve(outward, self.quantizer.entries(self.quantizer.nearest(place)) + known[tile], patches)

    def _first_offsets(self, vectors: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Let the decoder take away what the encoder adds to the k values that are read off its vectors (n, D).

        Returns:
            what is added at each place of the tile, (P^2, D), and there to the entries of the codes, (P^2, K); without dither
            one row of zeros each.
        """
        if self.encoder.offsets is None or self.decoder.offsets is None:
            return vectors.new_zeros(1, self.config.width), vectors.new_zeros(1, self.config.lookup_width)
        added, known = self.encoder.offsets.vectors, self.decoder.offsets.vectors
        scale = self.quantizer.inward(vectors).norm(dim=-1).reciprocal().mean() if self.config.cosine else 1.0  # on the sphere
        first = self.config.lookup_width - k
        known[..., first : first + k] = -scale * added[..., :k]
        return added.flatten(0, 1), known.flatten(0, 1)[:, : first + k]

    @staticmethod
    def _linears(half: Encoder | Decoder) -> list[nn.Linear]:
        return [half.first] if half.rest is None else [half.first, half.rest]


def _check_chunk(chunk: int | None) -> None:
    if chunk is not None and chunk < 1:
        raise TheseusError(f"a chunk holds at least one frame of codes, not: {chunk}", hint="None for all at once")
