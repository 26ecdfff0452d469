"""A diffusion transformer over text and video in one sequence, after CogVideoX (Yang et al. 2024).

Full 3D attention, expert adaptive layer norm (text and video modulated apart, attention and MLP shared), 3D rotary
positions. Trained from scratch on the straight path of rectified flow, predicting the velocity, or the clean clip (Li and He
2025), which is the easier of the two where a token holds more values than the network is wide.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from theseus_core.config import Config as BaseConfig
from theseus_core.contracts import Batch, Consumes, Generator, Progress, Text
from theseus_core.diffusion.guidance import guided
from theseus_core.diffusion.samplers import SAMPLERS
from theseus_core.diffusion.schedule import RectifiedFlow, logit_normal, times
from theseus_core.errors import TheseusError, nearest
from theseus_core.nn.attention import Attention, Rotation, rotary_3d, unrotated
from theseus_core.nn.causal import ConvBlock
from theseus_core.nn.embeddings import TimeEmbedding, sincos_3d


class Config(BaseConfig):
    """Configuration of `dit`."""

    latent_channels: int = Field(16, ge=1, description="Z, as the tokenizer gives them")
    text_width: int = Field(256, ge=1, description="E, as the text encoder gives it")
    width: int = Field(384, ge=16, description="D, width of the blocks")
    layers: int = Field(12, ge=1, description="number of blocks")
    heads: int = Field(6, ge=1, description="G, attention heads; width / heads must be a multiple of 16")
    time_width: int = Field(128, ge=2, description="width of the embedded time, which steers every norm")
    patch: int = Field(2, ge=1, description="side of the square of latents that one token stands for")
    local_blocks: int = Field(
        0, ge=0, description="convolutional blocks at the latents' own resolution before the transformer, and as many behind it"
    )
    local_width: int = Field(64, ge=8, description="channels of these blocks")
    positions: Literal["rotary", "sincos", "both"] = Field(
        "both", description="rotary (relative, in attention), sincos (absolute, added to the tokens), or both"
    )
    predicts: Literal["velocity", "clean"] = Field("velocity", description="what the network gives; the loss is on the velocity")
    pooled_text: bool = Field(True, description="the mean of the words steers every norm too, as the time does")
    guidance_interval: tuple[float, float] = Field(
        (0.0, 1.0), description="times, from clean 0 to noise 1, in which guidance acts; outside it a step costs half"
    )
    shift: float = Field(1.0, gt=0, description="how far training and sampling times are moved towards the noise")

    @model_validator(mode="after")
    def _heads_divide(self) -> Config:
        if self.width % (16 * self.heads):
            raise ValueError(f"width must be a multiple of 16 * heads = {16 * self.heads}, got {self.width}")
        return self


LEAST_TIME = 0.05  # a clean prediction's error counts by 1 / t^2 in the velocity: down to here, where noise is next to nothing

PRESETS: dict[str, dict[str, object]] = {
    "debug": {"latent_channels": 4, "text_width": 32, "width": 64, "layers": 2, "heads": 2, "time_width": 32},
    "tiny": {"width": 256, "layers": 6, "heads": 4},
    "small": {},
    "base": {"width": 768, "heads": 12, "time_width": 256},
}


class ExpertNorm(nn.Module):
    """Adaptive layer norm with an expert for text and one for video: shift, scale and gate of each from the time."""

    def __init__(self, width: int, time_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.modulation = nn.Linear(time_width, 6 * width)
        nn.init.zeros_(self.modulation.weight)  # adaLN-zero: a block starts as the identity
        nn.init.zeros_(self.modulation.bias)

    def forward(self, text: Tensor, video: Tensor, time: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, L, D), (B, N, D) to the joint, modulated sequence (B, L + N, D), and the gates (B, 1, D) of text and video."""
        shift, scale, gate, text_shift, text_scale, text_gate = self.modulation(time).unsqueeze(1).chunk(6, dim=-1)
        joint = torch.cat(
            [
                torch.addcmul(text_shift, self.norm(text), 1 + text_scale),
                torch.addcmul(shift, self.norm(video), 1 + scale),
            ],
            dim=1,
        )  # (B, L + N, D)
        return joint, text_gate, gate


class Block(nn.Module):
    """Joint attention, then a joint MLP, each behind an expert norm and a gate."""

    gradient_checkpointing = False

    def __init__(self, width: int, heads: int, time_width: int) -> None:
        super().__init__()
        self.attention_norm = ExpertNorm(width, time_width)
        self.attention = Attention(width, heads)
        self.mlp_norm = ExpertNorm(width, time_width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, text: Tensor, video: Tensor, time: Tensor, rotation: Rotation | None, mask: Tensor) -> tuple[Tensor, Tensor]:
        length = text.shape[1]
        joint, text_gate, gate = self.attention_norm(text, video, time)  # (B, L + N, D)
        out = self.attention(joint, rotation, mask)
        text, video = torch.addcmul(text, text_gate, out[:, :length]), torch.addcmul(video, gate, out[:, length:])
        joint, text_gate, gate = self.mlp_norm(text, video, time)
        out = self.down(F.gelu(self.up(joint), approximate="tanh"))
        return torch.addcmul(text, text_gate, out[:, :length]), torch.addcmul(video, gate, out[:, length:])


class Local(nn.Module):
    """Convolutional blocks around the transformer, after the hourglass of Crowson et al. (2024), on (B, t, h, w, D).

    What lies within a few latents of another, such as an edge under noise, needs no attention, and what the patches of the
    transformer are too coarse for goes by it from the blocks before to those behind.
    """

    def __init__(self, channels: int, width: int, time_width: int, blocks: int) -> None:
        super().__init__()
        self.first = nn.Linear(channels, width)
        self.time_in = nn.Linear(time_width, 2 * width)
        self.before = nn.ModuleList(ConvBlock(width, 2.0) for _ in range(blocks))
        self.behind = nn.ModuleList(ConvBlock(width, 2.0) for _ in range(blocks))
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.last = nn.Linear(width, channels)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def enter(self, latents: Tensor, time: Tensor) -> Tensor:
        """(B, Z, t, h, w) and (B, time width) to (B, t, h, w, D)."""
        shift, scale = self.time_in(time).view(len(time), 1, 1, 1, -1).chunk(2, dim=-1)
        x = torch.addcmul(shift, self.first(latents.permute(0, 2, 3, 4, 1)), 1 + scale)
        for block in self.before:
            x = block(x)
        return x

    def leave(self, x: Tensor) -> Tensor:
        """(B, t, h, w, D) to (B, Z, t, h, w)."""
        for block in self.behind:
            x = block(x)
        out: Tensor = self.last(self.norm(x))
        return out.permute(0, 4, 1, 2, 3)


class Model(Generator):
    """The `dit` family."""

    config: Config
    consumes: Consumes = "latents"
    samplers = tuple(sorted(SAMPLERS))

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.patch = config.patch
        self.path = RectifiedFlow()
        local = config.local_blocks > 0
        self.local = Local(config.latent_channels, config.local_width, config.time_width, config.local_blocks) if local else None
        channels = config.local_width if local else config.latent_channels
        self.patch_in = nn.Linear(channels * config.patch**2, config.width)
        self.text_in = nn.Linear(config.text_width, config.width)
        self.time_in = TimeEmbedding(config.width, config.time_width)
        self.pooled_in = nn.Linear(config.text_width, config.time_width) if config.pooled_text else None
        self.blocks = nn.ModuleList(Block(config.width, config.heads, config.time_width) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width, eps=1e-5)
        self.modulation = nn.Linear(config.time_width, 2 * config.width)
        self.patch_out = nn.Linear(config.width, channels * config.patch**2)
        for last in (self.modulation,) if local else (self.modulation, self.patch_out):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def velocity(self, latents: Tensor, t: Tensor, text: Text) -> Tensor:
        """The predicted `noise - clean` of noisy latents (B, Z, t, h, w) at times (B,)."""
        assert text.embeddings is not None
        grid = self._grid(latents)
        time = self.time_in(t)  # (B, time width)
        if self.pooled_in is not None:
            time = time + self.pooled_in(masked_mean(text.embeddings, text.mask))
        time = F.silu(time)
        words = self.text_in(text.embeddings)  # (B, L, D)
        fine = self.local.enter(latents, time).permute(0, 4, 1, 2, 3) if self.local is not None else latents
        video = self.patch_in(patchify(fine, self.config.patch))  # (B, N, D)
        if self.config.positions != "rotary":
            video = video + sincos_3d(*grid, self.config.width, latents.device)
        mask = F.pad(text.mask, (0, video.shape[1]), value=True)  # (B, L + N)
        rotation = self._rotation(words.shape[1], grid, latents.device)
        for block in self.blocks:
            run = partial(checkpoint, block, use_reentrant=False) if block.gradient_checkpointing and self.training else block
            words, video = run(words, video, time, rotation, mask)
        shift, scale = self.modulation(time).unsqueeze(1).chunk(2, dim=-1)
        video = self.patch_out(torch.addcmul(shift, self.norm(video), 1 + scale))  # (B, N, Z patch^2)
        predicted = unpatchify(video, grid, self.config.patch)  # (B, Z, t, h, w)
        if self.local is not None:
            predicted = self.local.leave((fine + predicted).permute(0, 2, 3, 4, 1))
        return predicted if self.config.predicts == "velocity" else towards(latents, predicted, t)

    def losses(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        assert batch.latents is not None and batch.text is not None
        clean = batch.latents
        noise = torch.randn_like(clean)
        t = logit_normal(len(clean), self.config.shift, clean.device)
        noisy = self.path.add_noise(clean, noise, t)
        velocity = self.velocity(noisy, t, batch.text)
        target = noise - clean if self.config.predicts == "velocity" else towards(noisy, clean, t)
        return {"loss": (velocity.float() - target).square().mean()}

    @torch.no_grad()
    def sample(
        self,
        noise: Tensor,
        text: Text,
        negative: Text,
        *,
        steps: int,
        guidance_scale: float,
        sampler: str,
        progress: Progress | None = None,
    ) -> Tensor:
        if sampler not in SAMPLERS:
            raise TheseusError(f"dit has no sampler: {sampler}", hint=nearest(sampler, sorted(SAMPLERS)))
        velocity = guided(self.velocity, text, negative, guidance_scale, self.config.guidance_interval)

        def predict(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            return self.path.split(x, velocity(x, t).float(), t)

        return SAMPLERS[sampler](predict, noise, times(steps, self.config.shift, noise.device), self.path, progress)

    def shard_units(self) -> list[nn.Module]:
        return list(self.blocks)

    def _rotation(self, text_tokens: int, grid: tuple[int, int, int], device: torch.device) -> Rotation | None:
        if self.config.positions == "sincos":
            return None
        return unrotated(text_tokens, rotary_3d(*grid, self.config.width // self.config.heads, device))

    def _grid(self, latents: Tensor) -> tuple[int, int, int]:
        t, h, w = latents.shape[2:]
        patch = self.config.patch
        if h % patch or w % patch:
            raise TheseusError(
                f"the latents' sides must be multiples of the patch of {patch}: {w}x{h}",
                hint=f"{w - w % patch}x{h - h % patch} latents would do",
            )
        return t, h // patch, w // patch


def towards(noisy: Tensor, clean: Tensor, t: Tensor) -> Tensor:
    """The velocity at times (B,) of the straight path from a clean clip through a noisy one."""
    return (noisy - clean) / t.clamp_min(LEAST_TIME).view(-1, *[1] * (clean.ndim - 1))


def masked_mean(words: Tensor, mask: Tensor) -> Tensor:
    """(B, L, E) and (B, L) to (B, E): the mean of what the mask lets through, zero where that is nothing."""
    weights = mask.unsqueeze(-1).to(words.dtype)
    return (words * weights).sum(1) / weights.sum(1).clamp_min(1)


def patchify(latents: Tensor, patch: int) -> Tensor:
    """(B, Z, t, h, w) -> (B, N, Z patch^2), tokens ordered by time, height, width."""
    b, z, t, h, w = latents.shape
    x = latents.reshape(b, z, t, h // patch, patch, w // patch, patch)
    return x.permute(0, 2, 3, 5, 1, 4, 6).reshape(b, t * (h // patch) * (w // patch), z * patch * patch)


def unpatchify(x: Tensor, grid: tuple[int, int, int], patch: int) -> Tensor:
    """The inverse of `patchify`; `grid` is (t, h / patch, w / patch)."""
    t, h, w = grid
    b, _, p = x.shape
    x = x.reshape(b, t, h, w, p // patch**2, patch, patch)
    return x.permute(0, 4, 1, 2, 5, 3, 6).reshape(b, p // patch**2, t, h * patch, w * patch)
