"""A truly causal video autoencoder, 4x in time and 8x in space or more, after LeanVAE (Cheng and Yuan 2025).

Frame 0 is a latent by itself, every four frames after it are one more: T = 1 + 4k frames become t = 1 + k latents. Patches
go through one linear map, then residual blocks at the latents' resolution: depth-wise causal convolution and a gated MLP.
Norms act on the channels of one position, never over time, so nothing leaks from the future and a clip may be cut into
chunks at any latent.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from pydantic import Field
from torch import Tensor, nn

from theseus_core.config import Config as BaseConfig
from theseus_core.contracts import Batch, Consumes, VideoTokenizer
from theseus_core.errors import TheseusError
from theseus_core.losses import psnr, ssim
from theseus_core.nn.causal import Cache, Trunk
from theseus_core.nn.closed_form import Covariance, evened
from theseus_core.nn.patching import patchify, unpatchify

TIME = 4


class Config(BaseConfig):
    """Configuration of `causal_vae`."""

    latent_channels: int = Field(16, ge=1, description="Z, channels of a latent; more reconstruct better and diffuse more slowly")
    space_factor: int = Field(8, ge=1, description="side of the square of pixels that a latent stands for")
    width: int = Field(384, ge=8, description="D, channels of the blocks")
    encoder_blocks: int = Field(2, ge=1, description="residual blocks of the encoder")
    decoder_blocks: int = Field(4, ge=1, description="residual blocks of the decoder")
    expansion: float = Field(2.0, gt=0, description="hidden width of the gated MLP as a multiple of `width`")
    whiten: float = Field(
        1.0, ge=0, le=1, description="how far strong and weak channels are evened out: 1 to the same deviation, 0 not at all"
    )
    l1_weight: float = Field(1.0, ge=0, description="weight of the mean absolute error")
    mse_weight: float = Field(1.0, ge=0, description="weight of the mean squared error")
    ssim_weight: float = Field(0.0, ge=0, description="weight of 1 - SSIM")
    kl_weight: float = Field(1e-6, ge=0, description="weight of the KL divergence, a mean over latent values, in nats")


PRESETS: dict[str, dict[str, object]] = {
    "debug": {"latent_channels": 4, "width": 32, "encoder_blocks": 1, "decoder_blocks": 1},
    "tiny": {"width": 256},
    "small": {},
    "base": {"width": 768, "encoder_blocks": 4, "decoder_blocks": 8},
}


class Encoder(nn.Module):
    """Video (B, 3, T, H, W) to moments (B, t, h, w, 2 Z)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.space = config.space_factor
        self.first = nn.Linear(3 * self.space**2, config.width)
        self.rest = nn.Linear(3 * TIME * self.space**2, config.width)
        self.trunk = Trunk(config.width, config.encoder_blocks, config.expansion)
        self.moments = nn.Linear(config.width, 2 * config.latent_channels)

    def forward(self, video: Tensor, cache: Cache | None = None) -> Tensor:
        parts = []
        if not cache:  # the start of a clip: its first frame is a latent by itself
            parts.append(self.first(patchify(video[:, :, :1], 1, self.space)))  # (B, 1, h, w, D)
            video = video[:, :, 1:]
        if video.shape[2]:
            parts.append(self.rest(patchify(video, TIME, self.space)))  # (B, k, h, w, D)
        moments: Tensor = self.moments(self.trunk(torch.cat(parts, dim=1), cache))  # (B, t, h, w, 2 Z)
        return moments


class Decoder(nn.Module):
    """Latents (B, t, h, w, Z) to video (B, 3, T, H, W)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.latents = nn.Linear(config.latent_channels, config.width)
        self.trunk = Trunk(config.width, config.decoder_blocks, config.expansion)
        self.space = config.space_factor
        self.first = nn.Linear(config.width, 3 * self.space**2)
        self.rest = nn.Linear(config.width, 3 * TIME * self.space**2)

    def forward(self, latents: Tensor, cache: Cache | None = None) -> Tensor:
        start = not cache
        x = self.trunk(self.latents(latents), cache)  # (B, t, h, w, D)
        parts = []
        if start:
            parts.append(unpatchify(self.first(x[:, :1]), 1, self.space))  # (B, 3, 1, H, W)
            x = x[:, 1:]
        if x.shape[1]:
            parts.append(unpatchify(self.rest(x), TIME, self.space))  # (B, 3, 4 k, H, W)
        return torch.cat(parts, dim=2)


class Model(VideoTokenizer):
    """The `causal_vae` family."""

    config: Config
    mean: Tensor
    std: Tensor
    produces: Consumes = "latents"
    time_factor = TIME

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.latent_channels, self.space_factor = config.latent_channels, config.space_factor
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.register_buffer("mean", torch.zeros(config.latent_channels))
        self.register_buffer("std", torch.ones(config.latent_channels))

    def encode(self, video: Tensor, chunk: int | None = None) -> Tensor:
        frames = video.shape[2]
        self.check_size(*video.shape[2:])
        _check_chunk(chunk)
        cache: Cache | None = None if chunk is None else {}
        ends = [frames] if chunk is None else [1 + TIME * i for i in range(chunk - 1, (frames - 1) // TIME + chunk, chunk)]
        starts = [0, *ends[:-1]]
        moments = [self.encoder(video[:, :, a:b], cache) for a, b in zip(starts, ends, strict=True)]
        mean = torch.cat(moments, dim=1)[..., : self.latent_channels]  # (B, t, h, w, Z)
        return ((mean - self.mean) / self.std).permute(0, 4, 1, 2, 3)  # (B, Z, t, h, w)

    def decode(self, latents: Tensor, chunk: int | None = None, size: tuple[int, int] | None = None) -> Tensor:
        if latents.ndim != 5 or latents.shape[1] != self.latent_channels:
            raise TheseusError(f"latents must be (B, {self.latent_channels}, t, h, w), not: {tuple(latents.shape)}")
        _check_chunk(chunk)
        z = latents.permute(0, 2, 3, 4, 1) * self.std + self.mean  # (B, t, h, w, Z)
        cache: Cache | None = None if chunk is None else {}
        return torch.cat([self.decoder(part, cache) for part in torch.split(z, chunk or z.shape[1], dim=1)], dim=2)

    @torch.no_grad()
    def initialize(self, videos: Iterable[Tensor]) -> None:
        """Start as the best linear codec: project patches on their principal components, keep Z of them, and back.

        The blocks start as the identity, so training begins at the quality of the PCA instead of at grey.
        """
        first, rest = (Covariance(3 * frames * self.space_factor**2) for frames in (1, TIME))
        for video in videos:
            self.check_size(*video.shape[2:])
            first.add(patchify(video[:, :, :1], 1, self.space_factor))
            rest.add(patchify(video[:, :, 1:], TIME, self.space_factor))
        for inward, outward, seen in (
            (self.encoder.first, self.decoder.first, first),
            (self.encoder.rest, self.decoder.rest, rest),
        ):
            if not seen.count:  # single frames show nothing of what follows the first
                continue
            mean, basis = seen.principal_components(self.config.width, scale_by=self.latent_channels)
            inward.weight.copy_(basis)
            inward.bias.copy_(-basis @ mean)
            outward.weight.copy_(torch.linalg.pinv(basis))
            outward.bias.copy_(mean)
        z, d = self.latent_channels, self.config.width
        self.encoder.moments.weight.copy_(torch.eye(2 * z, d).where(torch.arange(2 * z)[:, None] < z, torch.zeros(())))
        self.encoder.moments.bias.copy_(torch.tensor([0.0] * z + [-6.0] * z))  # a log variance of -6: next to no noise
        self.decoder.latents.weight.copy_(torch.eye(d, z))
        nn.init.zeros_(self.decoder.latents.bias)

    def losses(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        assert batch.video is not None
        video = batch.video
        self.check_size(*video.shape[2:])
        mean, log_variance = self.encoder(video).float().chunk(2, dim=-1)
        log_variance = log_variance.clamp(-30, 20)
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        output = self.decoder(z).float()
        c = self.config
        terms = {
            "l1": (output - video).abs().mean(),
            "mse": (output - video).square().mean(),
            "kl": 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean(),
        }
        loss = c.l1_weight * terms["l1"] + c.mse_weight * terms["mse"] + c.kl_weight * terms["kl"]
        if c.ssim_weight:
            terms["ssim"] = ssim(output, video).mean()
            loss = loss + c.ssim_weight * (1 - terms["ssim"])
        return {"loss": loss, **terms, "psnr": psnr(output.detach(), video).mean()}

    def shard_units(self) -> list[nn.Module]:
        return [self.encoder.trunk, self.decoder.trunk]

    @torch.no_grad()
    def calibrate(self, videos: Iterable[Tensor]) -> None:
        self.mean.zero_()
        self.std.fill_(1)
        seen = Covariance(self.latent_channels)
        for video in videos:
            seen.add(self.encode(video).float().permute(0, 2, 3, 4, 1))
        mean = seen.sum / seen.count
        self.mean.copy_(mean)
        std = (seen.products.diagonal() / seen.count - mean.square()).clamp_min(1e-8).sqrt()
        self.std.copy_(evened(std, self.config.whiten))


def _check_chunk(chunk: int | None) -> None:
    if chunk is not None and chunk < 1:
        raise TheseusError(f"a chunk holds at least one latent frame, not: {chunk}", hint="None for all at once")
