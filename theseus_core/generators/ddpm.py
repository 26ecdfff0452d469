"""A diffusion model with convolutions around a transformer that looks at space and at time in turn, and reads a frozen CLIP.

A 3D-convolution encoder sees the noisy clip; blocks attend within each frame, then along time at each place (Bertasius et al.
2021; Ho et al. 2022, Video Diffusion Models), and each of them to the words; adaptive layer norms tell the time (Peebles and Xie
2022). Trained on numbered noise levels (Ho et al. 2020) with any of the usual predictions, in latents or in pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from theseus_core.config import Config as BaseConfig
from theseus_core.contracts import Batch, Consumes, Generator, Progress, Text
from theseus_core.diffusion.caching import Cache
from theseus_core.diffusion.discrete import LEAST_SIGNAL, Betas, DiscretePath
from theseus_core.diffusion.guidance import guided, rising
from theseus_core.diffusion.rehearsal import at_once, evaluations
from theseus_core.diffusion.samplers import IN_LOG_SNR, SAMPLERS
from theseus_core.diffusion.schedule import uniform
from theseus_core.errors import TheseusError, nearest
from theseus_core.nn.attention import Attention, Rotation, rotary_3d
from theseus_core.nn.conv3d import Conv3d, ConvBlock3d
from theseus_core.nn.cross import CrossAttention
from theseus_core.nn.embeddings import TimeEmbedding, masked_mean, sincos_3d
from theseus_core.nn.packed import linear_gelu
from theseus_core.nn.patches import patchify, unpatchify
from theseus_core.nn.spectrum import from_spectrum, spectrum

Size = tuple[int, int, int]  # tokens along time, height and width


class Config(BaseConfig):
    """Configuration of `ddpm`."""

    consumes: Literal["latents", "pixels"] = Field("latents", description="what is made: latents of an autoencoder, or pixels")
    latent_channels: int = Field(16, ge=1, description="Z, as the tokenizer gives them")
    text_width: int = Field(256, ge=1, description="E, as the text encoder gives it")
    stride: int = Field(1, ge=1, description="side of the square of latents, or pixels, that is one place of the convolutions")
    encoder_width: int = Field(128, ge=1, description="channels of the convolutions")
    encoder_blocks: int = Field(2, ge=1, description="convolution blocks before the transformer, and as many behind it")
    patch: int = Field(2, ge=1, description="side of the square of the convolutions' places that one token stands for")
    patch_frames: int = Field(1, ge=1, description="latent frames, or frames, that one token stands for")
    width: int = Field(384, ge=16, description="D, width of the blocks")
    layers: int = Field(6, ge=1, description="pairs of blocks: one attends within each frame, one along time")
    heads: int = Field(6, ge=1, description="G, attention heads; width / heads must be a multiple of 16")
    time_width: int = Field(128, ge=2, description="width of the embedded time, which steers every norm")
    pooled_text: bool = Field(True, description="the mean of the words steers every norm too, as the time does")
    frequencies: bool = Field(
        False,
        description="tokens stand for frequencies of a clip's time, not for its frames: what stays or moves evenly is in a few",
    )
    sines: bool = Field(
        False,
        validate_default=True,
        description="beside each frequency's cosines stand its sines, so that what goes round is all in one token",
    )
    prediction: Literal["v", "epsilon", "clean"] = Field(
        "v", description="what the network gives: alpha * noise - sigma * clean, the noise, or the clean clip"
    )
    schedule: Literal["cosine", "linear"] = Field("cosine", description="how the noise grows over the thousand levels")
    zero_terminal_snr: bool = Field(
        True, validate_default=True, description="the last level is pure noise, as sampling begins; not with prediction epsilon"
    )
    snr_shift: float = Field(
        1.0, gt=0, description="the ratio of signal to noise is divided by this at every level: larger clips need more noise"
    )
    min_snr_gamma: float = Field(
        5.0, ge=0, description="errors of the clean clip count by the ratio of signal to noise, at most by this; 0 for no weights"
    )
    least_snr: float = Field(
        0.0, ge=0, validate_default=True, description="and at least by this: where all is noise, what the words say counts too"
    )

    @field_validator("heads")
    @classmethod
    def _heads_divide(cls, heads: int, info: ValidationInfo) -> int:
        if info.data.get("width", 0) % (16 * heads):
            raise PydanticCustomError("uneven", "width must be a multiple of 16 * heads, {width}", {"width": info.data["width"]})
        return heads

    @field_validator("sines")
    @classmethod
    def _beside_cosines(cls, on: bool, info: ValidationInfo) -> bool:
        if on and not info.data.get("frequencies"):
            raise PydanticCustomError("no_cosines", "sines stand beside cosines: with them frequencies must be on")
        return on

    @field_validator("least_snr")
    @classmethod
    def _below_the_most(cls, least: float, info: ValidationInfo) -> float:
        most = info.data.get("min_snr_gamma", 0)
        if least > most:
            raise PydanticCustomError("no_weights", "must not be more than min_snr_gamma, {most}", {"most": most})
        return least

    @field_validator("zero_terminal_snr")
    @classmethod
    def _signal_where_it_is_needed(cls, on: bool, info: ValidationInfo) -> bool:
        if on and info.data.get("prediction") == "epsilon":
            raise PydanticCustomError("no_signal", "all is noise at the last level, where epsilon says nothing of the clip")
        return on

    def betas(self) -> Betas:
        """The noise levels."""
        predicts: dict[str, Literal["v_prediction", "epsilon", "sample"]] = {"v": "v_prediction", "clean": "sample"}
        return Betas(
            curve=self.schedule,
            start=1e-4,
            end=0.02,
            snr_shift=self.snr_shift,
            zero_terminal_snr=self.zero_terminal_snr,
            predicts=predicts.get(self.prediction, "epsilon"),
        )


PRESETS: dict[str, dict[str, object]] = {
    "debug": {
        "latent_channels": 4,
        "text_width": 32,
        "encoder_width": 16,
        "encoder_blocks": 1,
        "width": 32,
        "layers": 1,
        "heads": 2,
        "time_width": 32,
    },
    "tiny": {"encoder_width": 96, "encoder_blocks": 1, "width": 256, "layers": 4, "heads": 4},
    "small": {},
    "base": {"encoder_width": 256, "width": 768, "layers": 12, "heads": 12, "time_width": 256},
    "pixels": {"consumes": "pixels", "latent_channels": 3, "stride": 4, "patch": 2},
}
RUN: dict[str, object] = {"sampling": {"sampler": "ddim"}}


class Block(nn.Module):
    """Attention within frames or along time, attention to the words, an MLP: each behind a steered norm and a gate.

    Args:
        along_time: each place attends to itself in other frames; else each frame to itself.
    """

    gradient_checkpointing = False

    def __init__(self, width: int, heads: int, time_width: int, along_time: bool) -> None:
        super().__init__()
        self.along_time = along_time
        self.modulation = nn.Linear(time_width, 9 * width)
        nn.init.zeros_(self.modulation.weight)  # adaLN-zero: a block starts as the identity
        nn.init.zeros_(self.modulation.bias)
        self.attention = Attention(width, heads)
        self.to_words = CrossAttention(width, heads)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, words: Tensor, mask: Tensor | None, time: Tensor, rotation: Rotation) -> Tensor:
        """(B, t, h w, D) to the same; words (B, L, D), their mask (B, L), and the time (B, time width)."""
        steer = self.modulation(time)[:, None, None].chunk(9, dim=-1)  # 9 of (B, 1, 1, D)
        x = torch.addcmul(x, steer[2], self._attend(_steered(x, *steer[:2]), rotation))
        y = self.to_words(_steered(x, *steer[3:5]).flatten(1, 2), words, mask)  # (B, N, D)
        x = torch.addcmul(x, steer[5], y.view(x.shape))
        y = self.down(linear_gelu(self.up, _steered(x, *steer[6:8])))
        return torch.addcmul(x, steer[8], y)

    def _attend(self, x: Tensor, rotation: Rotation) -> Tensor:
        rows = x.transpose(1, 2) if self.along_time else x  # (B, h w, t, D) or (B, t, h w, D)
        y: Tensor = self.attention(rows.flatten(0, 1), rotation).view(rows.shape)
        return y.transpose(1, 2) if self.along_time else y


def _steered(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """A layer norm of (B, t, h w, D), moved and stretched by (B, 1, 1, D)."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-5), 1 + scale)


class Model(Generator):
    """The `ddpm` family."""

    config: Config
    consumes: Consumes = "latents"  # or what the configuration says
    samplers = tuple(sorted(SAMPLERS))
    takes = ("dynamic_guidance", "cache")

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.consumes = config.consumes
        self.patch, self.patch_frames = config.stride * config.patch, config.patch_frames
        self.path = DiscretePath(config.betas())
        self.path_in_log_snr = DiscretePath(config.betas(), LEAST_SIGNAL)
        shown = config.latent_channels * (2 if config.sines else 1)
        seen, token = shown * config.stride**2, config.patch_frames * config.patch**2
        self.conv_in = Conv3d(seen, config.encoder_width)
        self.encoder, self.decoder = (
            nn.ModuleList(ConvBlock3d(config.encoder_width, config.time_width) for _ in range(config.encoder_blocks))
            for _ in range(2)
        )
        self.patch_in = nn.Linear(config.encoder_width * token, config.width)
        self.text_in = nn.Linear(config.text_width, config.width)
        self.text_norm = nn.LayerNorm(config.width, eps=1e-5)
        self.time_in = TimeEmbedding(config.width, config.time_width)
        self.pooled_in = nn.Linear(config.text_width, config.time_width) if config.pooled_text else None
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.time_width, along_time)
            for _ in range(config.layers)
            for along_time in (False, True)
        )
        self.modulation = nn.Linear(config.time_width, 2 * config.width)
        self.patch_out = nn.Linear(config.width, config.encoder_width * token)
        self.norm = nn.LayerNorm(config.encoder_width, eps=1e-5)
        self.out = nn.Linear(config.encoder_width, seen)
        for last in (self.modulation, self.out):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def predict(self, noisy: Tensor, t: Tensor, text: Text) -> Tensor:
        """What the path's `target` is, as predicted from a noisy clip (B, Z, t, h, w) at times (B,)."""
        assert text.embeddings is not None
        size, dtype = self._grid(noisy), self.norm.weight.dtype
        if self.config.frequencies:
            noisy = spectrum(noisy.float(), self.config.sines)
        time = self._steer(t, text, dtype)  # (B, time width)
        words = self.text_norm(self.text_in(text.embeddings.to(dtype)))  # (B, L, D)
        x = patchify(noisy.to(dtype).permute(0, 2, 3, 4, 1), self.config.stride)  # (B, t, h / stride, w / stride, Z stride^2)
        x = seen = self._convolved(self.encoder, self.conv_in(x), time)  # (B, t, h / stride, w / stride, encoder width)
        tokens = self.patch_in(patchify(x, self.config.patch, self.patch_frames).flatten(2, 3))  # (B, t', h' w', D)
        tokens = self._through_blocks(tokens, size, words, text.mask, time)
        shift, scale = self.modulation(time)[:, None, None].chunk(2, dim=-1)
        out = self.patch_out(_steered(tokens, shift, scale)).unflatten(2, size[1:])  # (B, t', h', w', encoder width patch^2)
        x = self._convolved(self.decoder, seen + unpatchify(out, self.config.patch, self.patch_frames), time)
        predicted = unpatchify(self.out(self.norm(x)), self.config.stride).permute(0, 4, 1, 2, 3)  # (B, Z, t, h, w)
        return from_spectrum(predicted.float(), self.config.sines) if self.config.frequencies else predicted

    def _steer(self, t: Tensor, text: Text, dtype: torch.dtype) -> Tensor:
        """(B, time width): what moves and stretches what every norm gives."""
        time: Tensor = self.time_in(self.path.clock(t), dtype)
        if self.pooled_in is not None:
            assert text.embeddings is not None
            time = time + self.pooled_in(masked_mean(text.embeddings, text.mask).to(dtype))
        return F.silu(time)

    @staticmethod
    def _convolved(blocks: nn.ModuleList, x: Tensor, time: Tensor) -> Tensor:
        for block in blocks:
            x = block(x, time)
        return x

    def _through_blocks(self, x: Tensor, size: Size, words: Tensor, words_mask: Tensor, time: Tensor) -> Tensor:
        """Tokens (B, t, h w, D) through the transformer, with their positions."""
        t, h, w = size
        width = self.config.width
        x = x + sincos_3d(t, h, w, width, x.device).to(x.dtype).view(t, h * w, width)
        mask = None if words_mask.all() else words_mask
        within = rotary_3d(1, h, w, width // self.config.heads, x.device)
        along = rotary_3d(t, 1, 1, width // self.config.heads, x.device)
        for block in self.blocks:
            run = partial(checkpoint, block, use_reentrant=False) if block.gradient_checkpointing and self.training else block
            x = run(x, words, mask, time, along if block.along_time else within)
        return x

    def losses(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        assert batch.latents is not None and batch.text is not None
        clean = batch.latents
        noise = torch.randn_like(clean)
        t = self.path.snap(uniform(len(clean), 1.0, clean.device))
        predicted = self.predict(self.path.add_noise(clean, noise, t), t, batch.text)
        errors = (predicted.float() - self.path.target(clean, noise, t)).square().mean((1, 2, 3, 4))  # (B,)
        if not self.config.min_snr_gamma:
            return {"loss": errors.mean()}
        weights = self.path.snr_weights(t, self.config.least_snr, self.config.min_snr_gamma)
        return {"loss": (weights * errors).mean(), "mse": errors.detach().mean()}

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
        dynamic_guidance: bool = False,
        cache: Cache | None = None,
    ) -> Tensor:
        """See `Generator.sample` and `Generator.takes`."""
        if sampler not in SAMPLERS:
            raise TheseusError(f"ddpm has no sampler: {sampler}", hint=nearest(sampler, sorted(SAMPLERS)))
        path = self.path_in_log_snr if sampler in IN_LOG_SNR else self.path
        visited = path.times(steps, noise.device)
        scale = rising(guidance_scale, visited) if dynamic_guidance and guidance_scale != 1 else guidance_scale
        predicted = guided(self.predict, text, negative, scale)

        def predict(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            return path.split(x, predicted(x, t).float(), t)

        asked = predict if cache is None else cache.over(predict, path, visited)
        return SAMPLERS[sampler](asked, noise, visited, path, progress)

    def rehearsal(
        self, noise: Tensor, text: Text, *, steps: int, guidance_scale: float, sampler: str
    ) -> list[tuple[int, Callable[[], object]]]:
        seen = evaluations(self, "predict", self.config.latent_channels, steps, guidance_scale, sampler)

        def evaluate(clips: int) -> Tensor:
            return self.predict(*at_once(noise, text, clips))

        return [(count, partial(evaluate, clips)) for clips, count in seen.items()]

    def shard_units(self) -> list[nn.Module]:
        return list(self.blocks)

    def _grid(self, clip: Tensor) -> Size:
        t, h, w = clip.shape[2:]
        if h % self.patch or w % self.patch:
            message = f"both sides must be multiples of stride * patch = {self.patch}, not: {w}x{h}"
            raise TheseusError(message, hint=f"{w - w % self.patch}x{h - h % self.patch} would do")
        if t % self.patch_frames:
            hint = f"{t + -t % self.patch_frames} would do"
            raise TheseusError(f"this model takes {self.patch_frames} {self.consumes} frames at once, not: {t}", hint=hint)
        return t // self.patch_frames, h // self.patch, w // self.patch
