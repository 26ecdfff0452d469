"""A generative adversarial network: one noise vector and the words become a whole clip in a single evaluation.

The generator is a field over x, y and time. Noise and words decide, for each frame, where some movable systems of coordinates
stand, and how what is seen in them is painted; so motion is a smooth function of time, and a clip hangs together. Of
latents that are one place a frame it is a sum of cosines of time instead. The discriminator judges frames, their differences
and the words at once.

Losses after R3GAN (Huang et al. 2024): real and generated clips are compared in pairs, and the gradient of the score with respect
to both kinds of clips is kept near zero; there are no normalisation layers. That words count is learned from a score that
is a product of clip and words (Miyato and Koyama 2018), by telling a clip's own caption from the others of its batch, and by naming
the words of the caption (Huang et al. 2024, SuperClass). The discriminator begins alone, with these two, until it can read clips.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from math import lcm, pi, prod, sqrt
from typing import Any, Literal
from zlib import crc32

import torch
from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
from torch import Tensor, nn
from torch.nn import functional as F

from theseus_core.config import Config as BaseConfig
from theseus_core.contracts import Batch, Consumes, Generator, Progress, Text
from theseus_core.device import full_precision
from theseus_core.errors import TheseusError, nearest
from theseus_core.nn.unnormalised import GAIN, Level, activated, linear
from theseus_core.words import content

FACTS = 5  # of a view in a frame: x and y of its middle, the logarithm of its size, and the cosine and sine of its angle
SIZES = 1.3  # of that logarithm, up or down: a view that may become as small as a pixel is put to use as a speck
RATES = 6  # of the sines and cosines of time, and of the place in the frame


class Config(BaseConfig):
    """Configuration of `gan`."""

    consumes: Literal["latents", "pixels"] = Field("pixels", description="what is made: pixels, or latents of an autoencoder")
    latent_channels: int = Field(3, ge=1, description="Z, the colours")
    text_width: int = Field(256, ge=1, description="E, as the text encoder gives it")
    latent_frames: int = Field(17, ge=1, description="T of the clips that it learns from; it makes clips of any number of frames")
    latent_height: int = Field(64, ge=1, description="H of the clips, which it cannot make in another size")
    latent_width: int = Field(64, ge=1, description="W of the clips")
    noise_width: int = Field(64, ge=1, description="numbers in the noise vector")
    style_width: int = Field(256, ge=8, description="width of what noise and words become")
    words: int = Field(8, ge=1, description="heads that read the words; must divide style_width")
    views: int = Field(4, ge=1, description="movable systems of coordinates")
    waves: int = Field(12, ge=1, description="waves in each of them")
    field_width: int = Field(64, ge=4, description="width of the generator's layers")
    field_layers: int = Field(3, ge=1, description="number of the generator's layers")
    style_layers: int = Field(2, ge=1, description="layers of width style_width that noise and words go through")
    paints: int = Field(2, ge=1, description="side of the square of pixels for which the generator thinks of one place")
    paint_width: int = Field(16, ge=1, description="values of a place that are spread over its pixels, before they become colours")
    judge_width: int = Field(48, ge=4, description="width of the discriminator's first layer; the others are wider")
    every: int = Field(2, ge=1, description="the frames that it learns from: all, every second, ...")
    judge_patch: int = Field(4, ge=1, description="side of the square of pixels that the discriminator reads as one")
    judge_levels: int = Field(2, ge=0, description="times that the discriminator halves space and time")
    judge_layers: int = Field(2, ge=1, description="layers of the discriminator that see the whole clip")
    penalty: float = Field(2.0, ge=0, description="weight of the gradient penalties, of real and of generated clips")
    penalised: float = Field(0.5, gt=0, le=1, description="share of the clips that the penalties are taken of, in every step")
    mismatched: float = Field(1.0, ge=0, description="weight of the discriminator's task to find a clip's caption among others")
    obeyed: float = Field(1.0, ge=0, description="weight of the generator's: that its clips' captions can be found")
    named: float = Field(4.0, ge=0, description="weight, for both, of naming the words of a clip's caption from the clip alone")
    nameable: int = Field(1024, ge=2, description="words that can be told apart by name; a caption's are hashed to so many")
    reading: int = Field(
        2000, ge=0, description="steps in which the discriminator learns from real clips and captions alone, before the two begin"
    )

    @field_validator("words")
    @classmethod
    def _words_divide(cls, words: int, info: ValidationInfo) -> int:
        if info.data.get("style_width", 0) % words:
            raise PydanticCustomError("uneven", "must divide style_width, {width}", {"width": info.data["style_width"]})
        return words


PRESETS: dict[str, dict[str, object]] = {
    "debug": {
        "text_width": 32,
        "latent_frames": 2,
        "latent_height": 4,
        "latent_width": 4,
        "every": 1,
        "noise_width": 8,
        "style_width": 16,
        "words": 2,
        "views": 2,
        "waves": 3,
        "field_width": 8,
        "field_layers": 2,
        "paint_width": 4,
        "judge_width": 8,
        "judge_patch": 1,
        "nameable": 64,
        "reading": 1,
    },
    "small": {},
    "latents": {
        "consumes": "latents",
        "style_width": 512,
        "style_layers": 4,
        "words": 16,
        "paints": 1,
        "every": 1,
        "judge_width": 128,
        "judge_patch": 1,
        "judge_levels": 0,
        "judge_layers": 3,
    },
    "128": {"latent_height": 128, "latent_width": 128, "paints": 4, "judge_patch": 8},
}
RUN: dict[str, object] = {
    "caption_dropout": 0.0,
    "windows": 1,
    "sampling": {"sampler": "one-step", "steps": 1, "guidance_scale": 1.0},
    "train": {
        "optimizer": "adamw",
        "betas": [0.0, 0.99],
        "lr": 6e-4,
        "weight_decay": 0.0,
        "clip": 0.0,
        "batch_size": 16,
        "schedule": "constant",
        "ema": 0.998,
    },
}


def waves(x: Tensor) -> Tensor:
    """(..., K) in [-1, 1] to (..., K * (1 + 2 RATES)): as they are, and sines and cosines of them."""
    angles = x.unsqueeze(-1) * (pi / 2 * torch.arange(1, RATES + 1, device=x.device))
    return torch.cat([x, angles.sin().flatten(-2), angles.cos().flatten(-2)], dim=-1)


def along(count: int, device: torch.device) -> Tensor:
    """The middles of `count` pixels, from -1 to 1."""
    return (torch.arange(count, device=device) + 0.5) * (2 / count) - 1


def instants(frames: int, device: torch.device) -> Tensor:
    """The times of the frames of a whole clip, from -1 to 1."""
    return torch.linspace(-1, 1, frames, device=device)


class Reader(nn.Module):
    """Words to one vector: each of several heads asks its own question of all words."""

    def __init__(self, text_width: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.asked = nn.Linear(text_width, heads, bias=False)
        self.told = linear(text_width, width)

    def forward(self, text: Text) -> Tensor:
        assert text.embeddings is not None
        asked = self.asked(text.embeddings).float().masked_fill(~text.mask[..., None], float("-inf"))  # (B, L, G)
        told = self.told(text.embeddings).unflatten(-1, (self.heads, -1))  # (B, L, G, K)
        read: Tensor = (asked.softmax(dim=1)[..., None] * told).sum(dim=1).flatten(1)  # (B, D)
        return read


def styles(config: Config) -> nn.ModuleList:
    """The layers of `styled`."""
    widths = [config.noise_width + config.style_width, *[config.style_width] * config.style_layers]
    return nn.ModuleList(linear(a, b, GAIN) for a, b in pairwise(widths))


def styled(noise: Tensor, words: Tensor, layers: nn.ModuleList) -> Tensor:
    """Noise (B, noise_width) and words (B, D) to what the two ask for, (B, D)."""
    x = torch.cat([noise, words], dim=1)
    for layer in layers:
        x = activated(layer(x))
    return x


class Series(nn.Module):
    """Noise and words to latents that are one place a frame: a sum of cosines of time, those of `nn.spectrum`."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.frames, self.channels = config.latent_frames, config.latent_channels
        self.reader = Reader(config.text_width, config.style_width, config.words)
        self.style = styles(config)
        self.factors = linear(config.style_width, self.frames * self.channels)

    def forward(self, noise: Tensor, text: Text, times: Tensor) -> Tensor:
        """As in `Painting`: (B, Z, T, 1, 1)."""
        factors = self.factors(styled(noise, self.reader(text), self.style)).float().unflatten(1, (self.frames, self.channels))
        order = torch.arange(self.frames, device=noise.device)[:, None]
        places = 0.5 + (times + 1) / 2 * (self.frames - 1)  # in frames
        waves = torch.cos(pi / self.frames * order * places) / (1 + order)  # slow before fast, as in what moves
        return torch.einsum("kt,bkz->bzt", waves, factors)[..., None, None]


class Painting(nn.Module):
    """Noise and words to a clip."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        width, times = config.style_width, 1 + 2 * RATES
        self.reader = Reader(config.text_width, width, config.words)
        self.style = styles(config)
        self.moments = nn.ModuleList([linear(width + times, width, GAIN), linear(width, width, GAIN)])
        self.placed = linear(width, config.views * FACTS, 0.3)
        self.waves = nn.Parameter(nn.init.normal_(torch.empty(config.views, 2, config.waves), std=3))
        self.phases = nn.Parameter(nn.init.uniform_(torch.empty(config.views, config.waves), 0, 2 * pi))
        seen = config.views * (config.waves + 1) + 2 * (1 + 2 * RATES)
        widths = [seen, *[config.field_width] * config.field_layers]
        self.layers = nn.ModuleList(linear(a, b, GAIN) for a, b in pairwise(widths))
        self.styled = nn.ModuleList(linear(width, 2 * b, 0.3) for b in widths[1:])
        self.spread = linear(config.field_width, config.paint_width, GAIN)
        self.painted = linear(config.paint_width, config.latent_channels, 0.5)

    def forward(self, noise: Tensor, text: Text, times: Tensor) -> Tensor:
        """Noise (B, noise_width) to a clip (B, Z, T, H, W), at T times from -1, where the clip begins, to 1, where it ends."""
        moments = self.moments_of(noise, text, times)  # (B, T, D)
        x = self.seen(moments)  # (B, T, N, views * (waves + 1) + ...)
        for layer, styled in zip(self.layers, self.styled, strict=True):
            scale, shift = styled(moments).unsqueeze(2).chunk(2, dim=-1)
            x = activated(layer(x) * (1 + scale) + shift)
        return self.painted_whole(self.spread(x))

    def moments_of(self, noise: Tensor, text: Text, times: Tensor) -> Tensor:
        """(B, T, D): what is to be seen in each frame."""
        x = styled(noise, self.reader(text), self.style)  # (B, D)
        clock = waves(times[:, None])  # (T, 1 + 2 RATES)
        first, second = self.moments
        x = activated(first(torch.cat([x[:, None].expand(-1, len(times), -1), clock.expand(len(x), -1, -1)], dim=-1)))
        return x + activated(second(x))

    def seen(self, moments: Tensor) -> Tensor:
        """(B, T, N, ...): what each place of each frame is, in the frame and in every view."""
        c = self.config
        y, x = along(c.latent_height // c.paints, moments.device), along(c.latent_width // c.paints, moments.device)
        places = torch.stack([x.repeat(len(y)), y.repeat_interleave(len(x))], dim=-1)  # (N, 2)
        with full_precision(moments.device):
            slopes, starts = self.systems(self.placed(moments.float()).unflatten(-1, (c.views, FACTS)))
            local = places @ slopes.flatten(3) + starts.flatten(2).unsqueeze(2)  # (B, T, N, views * (2 + waves))
            local = local.view(*local.shape[:3], c.views, -1)
            near = torch.exp(-0.5 * local[..., :2].square().sum(dim=-1, keepdim=True))
            views = near * torch.cat([torch.ones_like(near), local[..., 2:].sin()], dim=-1)  # (B, T, N, views, 1 + waves)
        fixed = waves(places).expand(*views.shape[:2], -1, -1)
        return torch.cat([views.flatten(-2), fixed], dim=-1)

    def systems(self, facts: Tensor) -> tuple[Tensor, Tensor]:
        """What is linear in x and y of a place: the place in a view, then the angles of the view's waves there.

        Args:
            facts: (B, T, views, FACTS).

        Returns:
            slopes (B, T, 2, views, 2 + waves) and what is added (B, T, views, 2 + waves).
        """
        middle, turn = facts[..., :2], facts[..., 3:]
        size = torch.exp(0.7 + SIZES * torch.tanh(facts[..., 2] / SIZES))
        cos, sin = ((turn + torch.tensor([1.0, 0.0], device=turn.device)) * size.unsqueeze(-1)).unbind(-1)
        rows = torch.stack([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)], -1)  # (B, T, views, 2 in, 2 out)
        slopes = torch.cat([rows, rows @ self.waves], dim=-1)  # (B, T, views, 2, 2 + waves)
        starts = -(middle.unsqueeze(-2) @ slopes).squeeze(-2) + F.pad(self.phases, (2, 0))
        return slopes.transpose(2, 3), starts

    def painted_whole(self, x: Tensor) -> Tensor:
        """(B, T, N, paint_width) to (B, Z, T, H, W); values change evenly between places, so that an edge may lie anywhere."""
        c, (clips, frames) = self.config, x.shape[:2]
        x = x.view(-1, c.latent_height // c.paints, c.latent_width // c.paints, c.paint_width).permute(0, 3, 1, 2)
        x = F.interpolate(x, scale_factor=c.paints, mode="bilinear")  # (B T, paint_width, H, W)
        colours: Tensor = self.painted(activated(x.permute(0, 2, 3, 1)))  # (B T, H, W, Z)
        return colours.view(clips, frames, *colours.shape[1:]).permute(0, 4, 1, 2, 3)


class Discriminator(nn.Module):
    """How real a clip is, and how well words fit it."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.patch = config.judge_patch
        widths = [config.judge_width * 2**level for level in range(config.judge_levels + 1)]
        self.read = linear(2 * config.latent_channels * config.judge_patch**2, widths[0], GAIN)
        self.levels = nn.ModuleList(Level(a, b) for a, b in pairwise(widths))
        sides = [-(-config.latent_frames // config.every), config.latent_height // self.patch, config.latent_width // self.patch]
        places = prod(-(-side // 2**config.judge_levels) for side in sides)
        widths = [places * widths[-1], *[config.style_width] * config.judge_layers]
        self.whole = nn.ModuleList(linear(a, b, GAIN) for a, b in pairwise(widths))
        self.reader = Reader(config.text_width, config.style_width, config.words)
        self.fits = nn.Linear(config.style_width, config.style_width, bias=False)
        self.names = nn.Linear(config.style_width, config.nameable)
        nn.init.zeros_(self.names.weight)
        nn.init.zeros_(self.names.bias)
        self.real = nn.Linear(config.style_width, 1, bias=False)  # only differences of scores count

    def forward(self, clip: Tensor) -> Tensor:
        """(B, Z, T, H, W) to what there is to say of it (B, D)."""
        changes = F.pad(clip[:, :, 1:] - clip[:, :, :-1], (0, 0, 0, 0, 1, 0))
        x = torch.cat([clip, changes], dim=1)  # (B, 2 Z, T, H, W)
        p = self.patch
        x = x.view(*x.shape[:3], x.shape[3] // p, p, x.shape[4] // p, p).permute(0, 2, 3, 5, 1, 4, 6).flatten(4)
        x = activated(self.read(x))  # (B, T, H / p, W / p, C)
        for level in self.levels:
            x = level(x)
        x = x.flatten(1)
        for layer in self.whole:
            x = activated(layer(x))
        return x

    def score(self, said: Tensor, words: Tensor) -> Tensor:
        """(B,) of clips (B, D) and words (B, D)."""
        score: Tensor = self.real(said)[:, 0] + (said * self.fits(words)).sum(dim=1) / sqrt(said.shape[1])
        return score

    def confusion(self, said: Tensor, words: Tensor, captions: Sequence[str]) -> Tensor:
        """(B,) cross-entropy of finding each clip's own words among those of the whole batch.

        What tells a square from a triangle shows only beside a caption that is else the same; among many there is more often one.
        """
        fits = (said @ self.fits(words).T).float() / sqrt(said.shape[1])  # (B, B), a row for each clip
        if captions:
            fits = fits.masked_fill(repeated(captions).to(fits.device), -torch.inf)
        return F.cross_entropy(fits, torch.arange(len(said), device=said.device), reduction="none")

    def naming(self, said: Tensor, captions: Sequence[str]) -> Tensor:
        """(B,) cross-entropy of naming any one of the words of each clip's caption; zero without captions.

        A caption is found among sixteen by its colour and its motion alone; to name its words, all of them have to be seen.
        """
        if not captions:
            return said.new_zeros(len(said))
        names: Tensor = self.names(said)
        wanted = hashed(captions, names.shape[1]).to(said.device)
        return F.cross_entropy(names.float(), wanted / wanted.sum(dim=1, keepdim=True).clamp_min(1), reduction="none")


class Model(Generator):
    """The `gan` family: pixels (B, 3, T, H, W), or latents (B, Z, t, h, w)."""

    config: Config
    consumes: Consumes = "pixels"  # or what the configuration says
    phases = ("discriminator", "generator")
    derived_twice = True
    samplers: Sequence[str] = ("one-step",)
    stepless: Sequence[str] = ("one-step",)
    guided = False

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.consumes = config.consumes
        if config.judge_patch > min(config.latent_height, config.latent_width):
            there = f"{config.latent_width}x{config.latent_height}"
            hint = "model.judge_patch=1, or the preset of this family for latents: model_preset=latents"
            raise TheseusError(
                f"the discriminator reads squares larger than the {there} that there are: {config.judge_patch}", hint=hint
            )
        self.patch = lcm(config.paints, config.judge_patch)
        extent = config.latent_height * config.latent_width
        self.generator = Painting(config) if extent > 1 else Series(config)
        self.discriminator = Discriminator(config)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))  # done

    steps: Tensor

    def phases_due(self) -> Sequence[str]:
        return self.phases[:1] if self._reading() else self.phases

    def check_steps(self, steps: int) -> None:
        reading = self.config.reading - int(self.steps)
        if steps <= reading:
            hint = f"model.reading={steps // 4} of them, or --steps {2 * reading}"
            raise TheseusError(
                f"the discriminator alone learns for {reading} steps, and the generator would learn nothing: --steps {steps}",
                hint=hint,
            )

    def after_step(self) -> None:
        self.steps += 1

    def _reading(self) -> bool:
        return int(self.steps) < self.config.reading

    def phase_parameters(self, phase: str) -> Iterable[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.named_parameters() if name.startswith(f"{phase}.")]

    def losses(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        assert batch.latents is not None and batch.text is not None
        if phase == "discriminator" and self._reading():
            return self.reading_losses(batch.latents[:, :, :: self.config.every], batch.text, batch.captions)
        noise = torch.randn(len(batch.latents), self.config.noise_width, device=batch.latents.device)
        times = instants(batch.latents.shape[2], noise.device)[:: self.config.every]
        real = batch.latents[:, :, :: self.config.every]
        with torch.set_grad_enabled(torch.is_grad_enabled() and phase == "generator"):
            made = self.generator(noise, batch.text, times).to(real.dtype)
        if phase == "generator":
            return self.generator_losses(real, made, batch.text, batch.captions)
        return self.discriminator_losses(real, made, batch.text, batch.captions)

    def reading_losses(self, real: Tensor, text: Text, captions: Sequence[str]) -> dict[str, Tensor]:
        judge, c = self.discriminator, self.config
        said = judge(real)
        mismatched, named = judge.confusion(said, judge.reader(text), captions).mean(), judge.naming(said, captions).mean()
        return {"loss": c.mismatched * mismatched + c.named * named, "mismatched": mismatched, "named": named}

    def generator_losses(self, real: Tensor, made: Tensor, text: Text, captions: Sequence[str]) -> dict[str, Tensor]:
        judge = self.discriminator
        words = judge.reader(text)
        with torch.no_grad():
            said_of_real = judge(real)
            of_real, found = judge.score(said_of_real, words).float(), judge.confusion(said_of_real, words, captions)
            known = judge.naming(said_of_real, captions)
        said = judge(made)
        pairing = F.softplus(of_real - judge.score(said, words).float()).mean()
        # as well as the real clip is enough: beyond it are patterns that only look like the words to this discriminator
        obeyed = (judge.confusion(said, words, captions) - found).relu().mean()
        named = (judge.naming(said, captions) - known).relu().mean()
        loss = pairing + self.config.obeyed * obeyed + self.config.named * named
        return {"loss": loss, "pairing": pairing, "obeyed": obeyed, "named": named}

    def discriminator_losses(self, real: Tensor, made: Tensor, text: Text, captions: Sequence[str]) -> dict[str, Tensor]:
        judge, c = self.discriminator, self.config
        words = judge.reader(text)
        said_of_real, said_of_made = judge(torch.cat([real, made])).chunk(2)
        of_real, of_made = judge.score(said_of_real, words).float(), judge.score(said_of_made, words).float()
        pairing = F.softplus(of_made - of_real).mean()
        mismatched = judge.confusion(said_of_real, words, captions).mean()
        named = judge.naming(said_of_real, captions).mean()
        r1, r2 = self.penalties(real, made, text)
        loss = pairing + c.mismatched * mismatched + c.named * named + c.penalty / 2 * (r1 + r2)
        gap = (of_real - of_made).mean()
        return {"loss": loss, "pairing": pairing, "mismatched": mismatched, "named": named, "r1": r1, "r2": r2, "gap": gap}

    def penalties(self, real: Tensor, made: Tensor, text: Text) -> tuple[Tensor, Tensor]:
        """R1 and R2, of the first of the clips: the squared norm of the score's gradient, in full precision."""
        count = max(1, round(self.config.penalised * len(real)))
        with full_precision(real.device):
            words = self.discriminator.reader(_first(text, count))
            clips = torch.cat([real[:count], made[:count]]).float().requires_grad_()
            scores = self.discriminator.score(self.discriminator(clips), words.repeat(2, 1))
            return squared_slopes(scores, clips).view(2, count).mean(dim=1).unbind()  # type: ignore[return-value]

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
        """A clip in one evaluation; the noise vector is the first `noise_width` numbers of the noise, in the order of memory.

        Where there are fewer they are repeated.

        Raises:
            TheseusError: no such sampler, or another width or height than it was trained with.
        """
        if sampler not in self.samplers:
            raise TheseusError(f"no such sampler: {sampler}", hint=nearest(sampler, list(self.samplers)))
        assert guidance_scale == 1, "the words are part of the one evaluation, and there is nothing to lead away from"
        self.refuse_other_sizes(*noise.shape[3:])
        numbers = noise.flatten(1)
        enough = -(-self.config.noise_width // numbers.shape[1])  # a frame of latents may be a few numbers
        vector = numbers.repeat(1, enough)[:, : self.config.noise_width]
        made: Tensor = self.generator(vector, text, instants(noise.shape[2], noise.device))
        if progress is not None:
            progress(1, 1)
        return made

    def rehearsal(
        self, noise: Tensor, text: Text, *, steps: int, guidance_scale: float, sampler: str
    ) -> list[tuple[int, Callable[[], object]]]:
        how: dict[str, Any] = {"steps": steps, "guidance_scale": guidance_scale, "sampler": sampler}
        return [(1, lambda: self.sample(noise, text, text, **how))]

    def refuse_other_sizes(self, height: int, width: int) -> None:
        c = self.config
        if (height, width) != (c.latent_height, c.latent_width):
            size, what = f"{c.latent_width}x{c.latent_height}", "frames" if c.consumes == "pixels" else "latents"
            hint = f"--size {size}" if c.consumes == "pixels" else "--size as it was trained with would do"
            raise TheseusError(f"this model makes {what} of {size} alone, not of: {width}x{height}", hint=hint)


def squared_slopes(scores: Tensor, clips: Tensor) -> Tensor:
    """(B,) squared norms of the gradient of each score with respect to its clip; they can be derived once more."""
    (gradient,) = torch.autograd.grad(scores.sum(), clips, create_graph=True)
    return gradient.square().flatten(1).sum(dim=1)


def hashed(captions: Sequence[str], count: int) -> Tensor:
    """(B, count) 1 for each word of a caption that shows something, at the place that it hashes to, and else 0.

    Hashing (Weinberger et al. 2009) takes any words, also those that no text encoder's vocabulary has.
    """
    wanted = torch.zeros(len(captions), count)
    for row, caption in zip(wanted, captions, strict=True):
        for word in content(caption):
            row[crc32(word.encode()) % count] = 1
    return wanted


def repeated(captions: Sequence[str]) -> Tensor:
    """(B, B) where the caption of another clip is the very same, and no wrong answer."""
    same = torch.tensor([[a == b for b in captions] for a in captions])
    return same & ~torch.eye(len(captions), dtype=torch.bool)


def _first(text: Text, count: int) -> Text:
    assert text.embeddings is not None
    return Text(mask=text.mask[:count], embeddings=text.embeddings[:count].float())
