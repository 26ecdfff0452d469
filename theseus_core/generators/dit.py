"""A diffusion transformer over text and video in one sequence, after CogVideoX (Yang et al. 2024).

Full 3D attention, expert adaptive layer norm (text and video modulated apart, attention and MLP shared), 3D rotary
positions. Trained from scratch on the straight path of rectified flow, predicting the velocity, or the clean clip (Li and He
2025), which is the easier of the two where a token holds more values than the network is wide.

With `betas` and `grid` it is the released CogVideoX itself, for which `pretrained.transformer` reads the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, cast

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from theseus_core.config import Config as BaseConfig
from theseus_core.contracts import Batch, Consumes, Generator, Progress, Text
from theseus_core.diffusion.caching import Cache
from theseus_core.diffusion.discrete import Betas, DiscretePath
from theseus_core.diffusion.guidance import guided, rising
from theseus_core.diffusion.rehearsal import at_once, evaluations
from theseus_core.diffusion.samplers import SAMPLERS
from theseus_core.diffusion.schedule import RectifiedFlow, logit_normal, times, uniform
from theseus_core.errors import TheseusError, nearest
from theseus_core.nn import grid as released
from theseus_core.nn.attention import Attention, Rotation, rotary_3d, spare_rows, unrotated
from theseus_core.nn.embeddings import TimeEmbedding, masked_mean, sincos_3d
from theseus_core.nn.grid import Grid, Size
from theseus_core.nn.hourglass import Level
from theseus_core.nn.packed import linear_gelu
from theseus_core.nn.patches import patchify, unpatchify
from theseus_core.nn.spectrum import from_spectrum, spectrum


class Config(BaseConfig):
    """Configuration of `dit`."""

    latent_channels: int = Field(16, ge=1, description="Z, as the tokenizer gives them")
    image_channels: int = Field(0, ge=0, description="channels of the latents of a given image, which stand beside the noisy ones")
    text_width: int = Field(256, ge=1, description="E, as the text encoder gives it")
    width: int = Field(384, ge=16, description="D, width of the blocks")
    layers: int = Field(12, ge=1, description="number of blocks")
    heads: int = Field(6, ge=1, description="G, attention heads; width / heads must be a multiple of 16")
    time_width: int = Field(128, ge=2, description="width of the embedded time, which steers every norm")
    patch: int = Field(2, ge=1, description="side of the square of latents, or of the last level, that one token stands for")
    patch_frames: int = Field(1, ge=1, description="latent frames that one token stands for")
    levels: tuple[tuple[PositiveInt, PositiveInt], ...] = Field(
        (),
        description="(width, blocks) of convolutions before the transformer, and as many behind it: "
        "at the latents' own resolution, then at half of it, and so on",
    )
    positions: Literal["rotary", "sincos", "both", "learned"] = Field(
        "both", description="rotary (relative, in attention), sincos (absolute, added to the tokens), both, or rotary and learned"
    )
    grid: Grid | None = Field(None, description="positions as the released CogVideoX counts them; else one by one")
    frequencies: bool = Field(
        False,
        description="tokens stand for frequencies of a clip's time, not for its frames: what stays or moves evenly is in a few",
    )
    sines: bool = Field(
        False,
        description="beside each frequency's cosines stand its sines, so that what goes round is all in one token",
    )
    predicts: Literal["velocity", "clean"] = Field("velocity", description="what the network gives; the loss is on the velocity")
    pooled_text: bool = Field(True, description="the mean of the words steers every norm too, as the time does")
    offset: float | None = Field(None, description="a number that steers every norm too, always the same: 2 in CogVideoX1.5-5B-I2V")
    norms_at_end: Literal[1, 2] = Field(1, description="layer norms before the last projection; CogVideoX has two")
    betas: Betas | None = Field(None, description="the noise levels of CogVideoX, in place of the straight path")
    dynamic_guidance: bool = Field(False, description="guidance grows with every step, from none to its full strength")
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
        if self.positions != "sincos" and self.width % (16 * self.heads):
            raise ValueError(f"width must be a multiple of 16 * heads = {16 * self.heads}, got {self.width}")
        if self.width % 16 or self.width % self.heads:
            raise ValueError(f"width must be a multiple of 16 and of heads = {self.heads}, got {self.width}")
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        if self.positions == "learned" and self.grid is None:
            raise ValueError("learned positions need a grid, which says how many there are")
        if self.frequencies and (self.image_channels or self.patch_frames > 1):
            raise ValueError("frequencies have no first frame: image_channels must be 0, and patch_frames 1")
        if self.sines and not self.frequencies:
            raise ValueError("sines stand beside cosines: with them frequencies must be on")
        if self.image_channels not in (0, self.latent_channels):
            raise ValueError(f"image_channels must be 0, or those of the latents, {self.latent_channels}")
        if self.offset is not None and self.time_width % 2:
            raise ValueError(f"offset needs an even time_width, got {self.time_width}")
        if self.levels and self.image_channels:
            raise ValueError("levels do not take an image: image_channels must be 0")
        if self.betas and (self.predicts, self.shift, self.least_time) != ("velocity", 1.0, 0.0):
            raise ValueError(
                "predicts, shift and least_time are for the straight path: betas say what is predicted, and their shift"
            )
        return self


LEAST_TIME = 0.05  # a clean prediction's error counts by 1 / t^2 in the velocity: down to here, where noise is next to nothing

_COGVIDEOX: dict[str, object] = {"text_width": 4096, "time_width": 512, "pooled_text": False, "norms_at_end": 2, "times": "uniform"}
_COGVIDEOX_5B = {**_COGVIDEOX, "width": 3072, "layers": 42, "heads": 48, "positions": "rotary", "betas": {"snr_shift": 1.0}}

PRESETS: dict[str, dict[str, object]] = {
    "debug": {"latent_channels": 4, "text_width": 32, "width": 64, "layers": 2, "heads": 2, "time_width": 32},
    "tiny": {"width": 256, "layers": 6, "heads": 4},
    "small": {},
    "base": {"width": 768, "heads": 12, "time_width": 256},
    "cogvideox-2b": {**_COGVIDEOX, "width": 1920, "layers": 30, "heads": 30, "positions": "sincos", "grid": {}, "betas": {}},
    "cogvideox-5b": {**_COGVIDEOX_5B, "grid": {}},
    "cogvideox-5b-i2v": {**_COGVIDEOX_5B, "grid": {}, "positions": "learned", "image_channels": 16},
    "cogvideox1.5-5b": {
        **_COGVIDEOX_5B,
        "patch_frames": 2,
        "grid": {"frames": 21, "height": 96, "width": 170, "text_tokens": 224, "squeeze": False},
    },
    "cogvideox1.5-5b-i2v": {
        **_COGVIDEOX_5B,
        "patch_frames": 2,
        "grid": {"frames": 21, "height": 300, "width": 300, "text_tokens": 226, "squeeze": False},
        "image_channels": 16,
        "offset": 2.0,
    },
}


class ExpertNorm(nn.Module):
    """Adaptive layer norm with an expert for text and one for video: shift, scale and gate of each from the time."""

    def __init__(self, width: int, time_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.modulation = nn.Linear(time_width, 6 * width)
        nn.init.zeros_(self.modulation.weight)  # adaLN-zero: a block starts as the identity
        nn.init.zeros_(self.modulation.bias)

    def forward(self, text: Tensor, video: Tensor, time: Tensor, spare: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """(B, L, D), (B, N, D) to the joint, modulated sequence (B, L + N + spare, D), and (B, 1, D) gates of text and video."""
        shift, scale, gate, text_shift, text_scale, text_gate = self.modulation(time).unsqueeze(1).chunk(6, dim=-1)
        joint = torch.cat(
            [
                torch.addcmul(text_shift, self.norm(text), 1 + text_scale),
                torch.addcmul(shift, self.norm(video), 1 + scale),
                *([video.new_zeros(len(video), spare, video.shape[2])] if spare else []),
            ],
            dim=1,
        )  # (B, L + N + spare, D)
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

    def forward(
        self, text: Tensor, video: Tensor, time: Tensor, rotation: Rotation | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        length, tokens = text.shape[1], text.shape[1] + video.shape[1]
        spare = spare_rows(text, tokens)
        joint, text_gate, gate = self.attention_norm(text, video, time, spare)  # (B, L + N + spare, D)
        out = self.attention(joint, rotation, mask, spare)
        text, video = torch.addcmul(text, text_gate, out[:, :length]), torch.addcmul(video, gate, out[:, length:tokens])
        joint, text_gate, gate = self.mlp_norm(text, video, time, spare)
        out = self.down(linear_gelu(self.up, joint))
        return torch.addcmul(text, text_gate, out[:, :length]), torch.addcmul(video, gate, out[:, length:tokens])


class Model(Generator):
    """The `dit` family."""

    config: Config
    consumes: Consumes = "latents"
    samplers = tuple(sorted(SAMPLERS))

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.path = DiscretePath(config.betas) if config.betas else RectifiedFlow()
        self.levels = nn.ModuleList()
        shown = config.latent_channels * (2 if config.sines else 1)
        channels = shown + config.image_channels
        for i, (width, blocks) in enumerate(config.levels):
            self.levels.append(Level(channels, width, config.time_width, blocks, patch=2 if i else 1))
            channels = width
        self.patch = config.patch * 2 ** max(0, len(config.levels) - 1)
        self.patch_frames = config.patch_frames
        self.takes = ("image" if config.image_channels else "start", "dynamic_guidance", "cache")
        token = config.patch_frames * config.patch**2  # latents that a token stands for
        self.patch_in = nn.Linear(channels * token, config.width)
        self.text_in = nn.Linear(config.text_width, config.width)
        self.time_in = TimeEmbedding(config.width, config.time_width)
        self.pooled_in = nn.Linear(config.text_width, config.time_width) if config.pooled_text else None
        self.offset_in = None if config.offset is None else TimeEmbedding(config.time_width, config.time_width)
        self.blocks = nn.ModuleList(Block(config.width, config.heads, config.time_width) for _ in range(config.layers))
        self.first_norm = nn.LayerNorm(config.width, eps=1e-5) if config.norms_at_end == 2 else None
        self.norm = nn.LayerNorm(config.width, eps=1e-5)
        self.modulation = nn.Linear(config.time_width, 2 * config.width)
        self.patch_out = nn.Linear(config.width, (channels if config.levels else shown) * token)
        if config.positions == "learned":
            assert config.grid is not None
            self.register_buffer("places", released.starting_table(config.grid, config.patch, config.width))  # (L + N, D)
        for last in (self.modulation, self.levels[0].last if self.levels else self.patch_out):
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def velocity(self, latents: Tensor, t: Tensor, text: Text, image: Tensor | None = None) -> Tensor:
        """What the path's `target` is, as predicted from noisy latents (B, Z, t, h, w) at times (B,): on the straight path the
        velocity `noise - clean`.

        Args:
            image: (B, image channels, t, h, w), for models that continue an image; see `image_latents`.
        """
        assert text.embeddings is not None
        size, dtype = self._grid(latents), self.norm.weight.dtype
        time = self._steer(t, text, dtype)  # (B, time width)
        words = self.text_in(text.embeddings.to(dtype))  # (B, L, D)
        seen = latents if image is None else torch.cat([latents, image], dim=1)
        if self.config.frequencies:
            seen = spectrum(seen.float(), self.config.sines)
        x = seen.to(dtype).permute(0, 2, 3, 4, 1)  # (B, t, h, w, Z)
        levels, passed = cast("list[Level]", list(self.levels)), []
        for level in levels:
            x = level.enter(x, time)
            passed.append(x)
        video = self.patch_in(patchify(x, self.config.patch, self.patch_frames).flatten(1, 3))  # (B, N, D)
        words, video = self._placed(words, video, size)
        mask = None if text.mask.all() else F.pad(text.mask, (0, video.shape[1]), value=True)  # (B, L + N)
        rotation = self._rotation(words.shape[1], size, latents.device)
        for block in self.blocks:
            run = partial(checkpoint, block, use_reentrant=False) if block.gradient_checkpointing and self.training else block
            words, video = run(words, video, time, rotation, mask)
        if self.first_norm is not None:
            video = self.first_norm(video)
        shift, scale = self.modulation(time).unsqueeze(1).chunk(2, dim=-1)
        video = self.patch_out(torch.addcmul(shift, self.norm(video), 1 + scale))  # (B, N, Z patch^2)
        x = unpatchify(video.view(len(video), *size, -1), self.config.patch, self.patch_frames)
        for level, before in zip(reversed(levels), reversed(passed), strict=True):
            x = level.leave(before + x, time)
        predicted = x.permute(0, 4, 1, 2, 3)  # (B, Z, t, h, w)
        if self.config.frequencies:
            predicted = from_spectrum(predicted.float(), self.config.sines)
        return predicted if self.config.predicts == "velocity" else towards(latents, predicted, t)

    def _steer(self, t: Tensor, text: Text, dtype: torch.dtype) -> Tensor:
        """(B, time width): what moves and stretches the tokens in every norm."""
        time: Tensor = self.time_in(self.path.clock(t), dtype)
        if self.pooled_in is not None:
            assert text.embeddings is not None
            time = time + self.pooled_in(masked_mean(text.embeddings, text.mask).to(dtype))
        if self.offset_in is not None:
            time = time + self.offset_in(torch.tensor([self.config.offset], device=t.device), dtype)
        return F.silu(time)

    def _placed(self, words: Tensor, video: Tensor, size: Size) -> tuple[Tensor, Tensor]:
        """Words (B, L, D) and video (B, N, D) with the absolute positions added."""
        grid, width = self.config.grid, self.config.width
        if self.config.positions == "learned":
            return released.placed(words, video, cast(Tensor, self.places), cast(Grid, grid), size, self.config.patch)
        if self.config.positions == "rotary":
            return words, video
        table = released.sincos(grid, size, width, video.device) if grid else sincos_3d(*size, width, video.device)
        return words, video + table.to(video.dtype)

    def losses(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        assert batch.latents is not None and batch.text is not None
        clean = batch.latents
        noise = torch.randn_like(clean)
        spread = logit_normal if self.config.times == "logit-normal" else uniform
        t = self.path.snap(spread(len(clean), self.config.shift, clean.device))
        noisy = self.path.add_noise(clean, noise, t)
        image = image_latents(clean[:, :, :1] * batch.image_scale, clean.shape[2]) if self.config.image_channels else None
        velocity = self.velocity(noisy, t, batch.text, image)
        target = self.path.target(clean, noise, t) if self.config.predicts == "velocity" else towards(noisy, clean, t)
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
        image: Tensor | None = None,
        start: Tensor | None = None,
        strength: float = 1.0,
        dynamic_guidance: bool = False,
        cache: Cache | None = None,
    ) -> Tensor:
        """See `Generator.sample` and `Generator.takes`.

        Args:
            image: latents (B, image channels, 1, h, w) of the first frame, or those of all frames; see `image_latents`.
        """
        if sampler not in SAMPLERS:
            raise TheseusError(f"dit has no sampler: {sampler}", hint=nearest(sampler, sorted(SAMPLERS)))
        self._check_image(image)
        if image is not None and image.shape[2] == 1:
            image = image_latents(image, noise.shape[2])
        visited = self._times(steps, noise.device)
        dynamic = (dynamic_guidance or self.config.dynamic_guidance) and guidance_scale != 1
        scale = rising(guidance_scale, visited) if dynamic else guidance_scale
        if start is not None:
            visited = visited[steps - changing(steps, strength) :]
            noise = self.path.add_noise(start, noise, visited[:1])

        def of_image(x: Tensor, t: Tensor, words: Text) -> Tensor:
            return self.velocity(x, t, words, None if image is None else image.repeat(len(x) // len(image), 1, 1, 1, 1))

        velocity = guided(of_image, text, negative, scale, self.config.guidance_interval)

        def predict(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            return self.path.split(x, velocity(x, t).float(), t)

        edges = [edge for edge in self.config.guidance_interval if 0 < edge < 1]
        asked = predict if cache is None else cache.over(predict, self.path, visited, edges)
        return SAMPLERS[sampler](asked, noise, visited, self.path, progress)

    def rehearsal(
        self, noise: Tensor, text: Text, *, steps: int, guidance_scale: float, sampler: str
    ) -> list[tuple[int, Callable[[], object]]]:
        c = self.config
        image = torch.zeros(1, c.image_channels, 1, self.patch, self.patch) if c.image_channels else None
        seen = evaluations(self, "velocity", c.latent_channels, steps, guidance_scale, sampler, image=image)

        def evaluate(clips: int) -> Tensor:
            beside = noise.new_empty(clips, c.image_channels, *noise.shape[2:]) if c.image_channels else None
            return self.velocity(*at_once(noise, text, clips), beside)

        return [(count, partial(evaluate, clips)) for clips, count in seen.items()]

    def _times(self, steps: int, device: torch.device) -> Tensor:
        return self.path.times(steps, device) if isinstance(self.path, DiscretePath) else times(steps, self.config.shift, device)

    def shard_units(self) -> list[nn.Module]:
        return list(self.blocks)

    def _rotation(self, text_tokens: int, size: Size, device: torch.device) -> Rotation | None:
        grid, width = self.config.grid, self.config.width // self.config.heads
        if self.config.positions == "sincos":
            return None
        table = released.rotary(grid, size, self.config.patch, width, device) if grid else rotary_3d(*size, width, device)
        return unrotated(text_tokens, table)

    def _grid(self, latents: Tensor) -> Size:
        t, h, w = latents.shape[2:]
        patch, frames = self.patch, self.patch_frames
        if h % patch or w % patch:
            raise TheseusError(
                f"the latents' sides must be multiples of the patch of {patch}: {w}x{h}",
                hint=f"{w - w % patch}x{h - h % patch} latents would do",
            )
        if t % frames:
            raise TheseusError(f"this model takes {frames} latent frames at once, not: {t}", hint=f"{t + -t % frames} would do")
        return t // frames, h // patch, w // patch

    def _check_image(self, image: Tensor | None) -> None:
        channels = 0 if image is None else image.shape[1]
        if channels != self.config.image_channels:
            hint = "it continues an image, and needs one" if self.config.image_channels else "it makes videos of words alone"
            raise TheseusError(
                f"this model takes an image's latents of {self.config.image_channels} channels, not: {channels}", hint=hint
            )


def changing(steps: int, strength: float) -> int:
    """How many of the steps are taken from a video that is given, the last ones, as diffusers counts them.

    Raises:
        TheseusError: none, or more than there are.
    """
    if not 0 < strength <= 1 or int(steps * strength) < 1:
        raise TheseusError(f"this strength leaves the video as it is, or is above 1: {strength:g}", hint=f"{1 / steps:.2g} to 1")
    return int(steps * strength)


def image_latents(first: Tensor, frames: int) -> Tensor:
    """(B, Z, 1, h, w) of an image to (B, Z, frames, h, w): it stands at the first of them, and nothing at the others.

    Also where the first only fills up a patch and is dropped: the 1.5 is run so by diffusers.
    """
    nothing = first.new_zeros(1).expand(len(first), first.shape[1], frames - 1, *first.shape[3:])
    return torch.cat([first, nothing], dim=2)


def towards(noisy: Tensor, clean: Tensor, t: Tensor) -> Tensor:
    """The velocity at times (B,) of the straight path from a clean clip through a noisy one."""
    return (noisy - clean) / t.clamp_min(LEAST_TIME).view(-1, *[1] * (clean.ndim - 1))
