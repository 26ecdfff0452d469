"""A diffusion transformer over text and video in one sequence, after CogVideoX (Yang et al. 2024).

Full 3D attention, expert adaptive layer norm (text and video modulated apart, attention and MLP shared), 3D rotary
positions. Trained from scratch on the straight path of rectified flow, predicting the velocity, or the clean clip (Li and He
2025), which is the easier of the two where a token holds more values than the network is wide.
"""

from __future__ import annotations

from functools import partial
from typing import Literal, cast

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from theseus_core.config import Config as BaseConfig
from theseus_core.contracts import Batch, Consumes, Generator, Progress, Text
from theseus_core.diffusion.guidance import guided
from theseus_core.diffusion.samplers import SAMPLERS
from theseus_core.diffusion.schedule import RectifiedFlow, logit_normal, times, uniform
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
    patch: int = Field(2, ge=1, description="side of the square of latents, or of the last level, that one token stands for")
    levels: tuple[tuple[PositiveInt, PositiveInt], ...] = Field(
        (),
        description="(width, blocks) of convolutions before the transformer, and as many behind it: "
        "at the latents' own resolution, then at half of it, and so on",
    )
    positions: Literal["rotary", "sincos", "both"] = Field(
        "both", description="rotary (relative, in attention), sincos (absolute, added to the tokens), or both"
    )
    predicts: Literal["velocity", "clean"] = Field("velocity", description="what the network gives; the loss is on the velocity")
    pooled_text: bool = Field(True, description="the mean of the words steers every norm too, as the time does")
    guidance_interval: tuple[float, float] = Field(
        (0.0, 1.0), description="times, from clean 0 to noise 1, in which guidance acts; outside it a step costs half"
    )
    shift: float = Field(1.0, gt=0, description="how far training and sampling times are moved towards the noise")
    times: Literal["logit-normal", "uniform"] = Field(
        "logit-normal", description="how training times are spread before the shift: most of them in the middle, or evenly"
    )
    least_time: float = Field(
        0.0, ge=0, lt=1, description="at times below, the loss is on a clean clip rather than on the velocity, or they outweigh all"
    )

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


class Level(nn.Module):
    """Convolutional blocks at one resolution around the transformer, after the hourglass of Crowson et al. (2024).

    What lies within a few latents of another, such as an edge under noise, needs no attention, and what the patches of the
    transformer are too coarse for goes by it from the blocks before to those behind. Layout is channels last.

    Args:
        channels: of the level above.
        width: D.
        patch: side of the square of the level above that one place of this one stands for.
    """

    def __init__(self, channels: int, width: int, time_width: int, blocks: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.first = nn.Linear(channels * patch**2, width)
        self.before = nn.ModuleList(ConvBlock(width, 2.0) for _ in range(blocks))
        self.behind = nn.ModuleList(ConvBlock(width, 2.0) for _ in range(blocks))
        self.time_before = nn.Linear(time_width, 2 * width)
        self.time_behind = nn.Linear(time_width, 2 * width)
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.last = nn.Linear(width, channels * patch**2)
        for modulation in (self.time_before, self.time_behind):
            nn.init.zeros_(modulation.weight)
            nn.init.zeros_(modulation.bias)

    def enter(self, x: Tensor, time: Tensor) -> Tensor:
        """(B, t, h, w, channels) and (B, time width) to (B, t, h / patch, w / patch, D)."""
        x = modulated(self.first(patchify(x, self.patch)), self.time_before(time))
        for block in self.before:
            x = block(x)
        return x

    def leave(self, x: Tensor, time: Tensor) -> Tensor:
        """(B, t, h / patch, w / patch, D) to (B, t, h, w, channels)."""
        x = modulated(x, self.time_behind(time))
        for block in self.behind:
            x = block(x)
        return unpatchify(self.last(self.norm(x)), self.patch)


class Model(Generator):
    """The `dit` family."""

    config: Config
    consumes: Consumes = "latents"
    samplers = tuple(sorted(SAMPLERS))

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.path = RectifiedFlow()
        self.levels = nn.ModuleList()
        channels = config.latent_channels
        for i, (width, blocks) in enumerate(config.levels):
            self.levels.append(Level(channels, width, config.time_width, blocks, patch=2 if i else 1))
            channels = width
        self.patch = config.patch * 2 ** max(0, len(config.levels) - 1)
        self.patch_in = nn.Linear(channels * config.patch**2, config.width)
        self.text_in = nn.Linear(config.text_width, config.width)
        self.time_in = TimeEmbedding(config.width, config.time_width)
        self.pooled_in = nn.Linear(config.text_width, config.time_width) if config.pooled_text else None
        self.blocks = nn.ModuleList(Block(config.width, config.heads, config.time_width) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width, eps=1e-5)
        self.modulation = nn.Linear(config.time_width, 2 * config.width)
        self.patch_out = nn.Linear(config.width, channels * config.patch**2)
        for last in (self.modulation, self.levels[0].last if self.levels else self.patch_out):
            assert isinstance(last, nn.Linear)
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
        x = latents.permute(0, 2, 3, 4, 1)  # (B, t, h, w, Z)
        levels, passed = cast("list[Level]", list(self.levels)), []
        for level in levels:
            x = level.enter(x, time)
            passed.append(x)
        video = self.patch_in(patchify(x, self.config.patch).flatten(1, 3))  # (B, N, D)
        if self.config.positions != "rotary":
            video = video + sincos_3d(*grid, self.config.width, latents.device)
        mask = F.pad(text.mask, (0, video.shape[1]), value=True)  # (B, L + N)
        rotation = self._rotation(words.shape[1], grid, latents.device)
        for block in self.blocks:
            run = partial(checkpoint, block, use_reentrant=False) if block.gradient_checkpointing and self.training else block
            words, video = run(words, video, time, rotation, mask)
        shift, scale = self.modulation(time).unsqueeze(1).chunk(2, dim=-1)
        video = self.patch_out(torch.addcmul(shift, self.norm(video), 1 + scale))  # (B, N, Z patch^2)
        x = unpatchify(video.view(len(video), *grid, -1), self.config.patch)
        for level, before in zip(reversed(levels), reversed(passed), strict=True):
            x = level.leave(before + x, time)
        predicted = x.permute(0, 4, 1, 2, 3)  # (B, Z, t, h, w)
        return predicted if self.config.predicts == "velocity" else towards(latents, predicted, t)

    def losses(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        assert batch.latents is not None and batch.text is not None
        clean = batch.latents
        noise = torch.randn_like(clean)
        spread = logit_normal if self.config.times == "logit-normal" else uniform
        t = spread(len(clean), self.config.shift, clean.device)
        noisy = self.path.add_noise(clean, noise, t)
        velocity = self.velocity(noisy, t, batch.text)
        target = noise - clean if self.config.predicts == "velocity" else towards(noisy, clean, t)
        errors = (velocity.float() - target).square().mean((1, 2, 3, 4))  # (B,)
        weights = (t / t.clamp_min(self.config.least_time)).square() if self.config.least_time else 1.0
        return {"loss": (errors * weights).mean()}

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
        patch = self.patch
        if h % patch or w % patch:
            raise TheseusError(
                f"the latents' sides must be multiples of the patch of {patch}: {w}x{h}",
                hint=f"{w - w % patch}x{h - h % patch} latents would do",
            )
        return t, h // patch, w // patch


def modulated(x: Tensor, modulation: Tensor) -> Tensor:
    """(B, t, h, w, D) moved and stretched by the two halves of (B, 2 D)."""
    shift, scale = modulation.view(len(x), 1, 1, 1, -1).chunk(2, dim=-1)
    return torch.addcmul(shift, x, 1 + scale)


def towards(noisy: Tensor, clean: Tensor, t: Tensor) -> Tensor:
    """The velocity at times (B,) of the straight path from a clean clip through a noisy one."""
    return (noisy - clean) / t.clamp_min(LEAST_TIME).view(-1, *[1] * (clean.ndim - 1))


def masked_mean(words: Tensor, mask: Tensor) -> Tensor:
    """(B, L, E) and (B, L) to (B, E): the mean of what the mask lets through, zero where that is nothing."""
    weights = mask.unsqueeze(-1).to(words.dtype)
    return (words * weights).sum(1) / weights.sum(1).clamp_min(1)


def patchify(x: Tensor, patch: int) -> Tensor:
    """(B, t, h, w, D) -> (B, t, h / patch, w / patch, patch^2 D)."""
    b, t, h, w, d = x.shape
    x = x.reshape(b, t, h // patch, patch, w // patch, patch, d)
    return x.transpose(3, 4).reshape(b, t, h // patch, w // patch, patch**2 * d)


def unpatchify(x: Tensor, patch: int) -> Tensor:
    """The inverse of `patchify`."""
    b, t, h, w, d = x.shape
    x = x.reshape(b, t, h, w, patch, patch, d // patch**2)
    return x.transpose(3, 4).reshape(b, t, h * patch, w * patch, d // patch**2)
