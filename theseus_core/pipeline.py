"""From words to a clip: the text encoder, the generator and the tokenizer, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from theseus_core import offload as offloading
from theseus_core.config import merge, validate
from theseus_core.contracts import Progress, Text
from theseus_core.data.clip import Clip
from theseus_core.device import autocast, dtype_name, pick_device, pick_dtype
from theseus_core.errors import TheseusError
from theseus_core.model_folder import (
    CodeSettings,
    Parts,
    Settings,
    find_model,
    load_model,
    load_tokenizer,
    save_model,
    save_tokenizer,
)
from theseus_core.quantize import Quantized, check_mode
from theseus_core.quantize import quantize as quantize_layers

__all__ = ["Settings", "TextToVideo", "load_tokenizer", "save_model", "save_tokenizer", "starting_noise", "to_frames", "to_video"]

DECODED_AT_ONCE = 16  # latent frames of a long video, for the sake of memory; the result is the same
P = TypeVar("P", bound=nn.Module)


class TextToVideo:
    """A model in memory, ready to generate.

    Attributes:
        tokenizer, text_encoder, generator: the parts, in evaluation mode.
        defaults: the size, rate and sampling that the model was made for.
        knows: groups of prompts that it was trained on, if that was kept.
        device, dtype: where it computes, and in what precision (by autocast: the weights stay in fp32).
        quantized: what quantization made of the generator and of the text encoder; empty where it was not asked for.
    """

    quantized: Sequence[Quantized] = ()

    def __init__(self, parts: Parts, device: torch.device, dtype: torch.dtype, offload: str = "none") -> None:
        self.tokenizer, self.text_encoder, self.generator = parts.tokenizer, parts.text_encoder, parts.generator
        self.defaults, self.knows = parts.defaults, parts.knows
        self.device, self.dtype, self.offload = device, dtype, offload
        offloading.place([self.text_encoder, self.generator, self.tokenizer], self.generator, device, offload)

    @classmethod
    def load(
        cls,
        path_or_name: str | Path,
        device: str = "auto",
        dtype: str = "auto",
        quantize: str = "none",
        offload: str = "none",
        compile: bool = False,
    ) -> Self:
        """Read a model.

        Args:
            path_or_name: a run, a model folder, the name of a bundled model, or of one on a hub.
            quantize: none, int8, nf4 or fp4: the linear layers of generator and text encoder in fewer bits.
            offload: none, model or layer: what stays in main memory while it is not at work.
            compile: compile the generator's blocks at their first use.

        Raises:
            TheseusError: there is no such model, it is damaged, or this machine cannot do what is asked for.
        """
        where = pick_device(device)
        precision = pick_dtype(dtype, where)
        check_mode(quantize, where)
        offloading.check(offload, where, compile, quantize)
        parts = load_model(find_model(path_or_name))
        reports = []
        if quantize != "none":
            reports = [quantize_layers(part, quantize, where, precision) for part in (parts.generator, parts.text_encoder)]
        if compile:
            offloading.compile_units(parts.generator)
        loaded = cls(parts, where, precision, offload)
        loaded.quantized = reports
        return loaded

    def settings(self, **changes: Any) -> Settings:
        """The model's defaults with the changes that are not None, checked against what the model can do.

        Raises:
            TheseusError: a size or a number of frames that the model cannot make; the hint names the nearest that it can.
        """
        settings = validate(
            Settings, merge(self.defaults.model_dump(), {key: value for key, value in changes.items() if value is not None})
        )
        self.tokenizer.check_size(settings.frames, settings.height, settings.width, self.generator.patch)
        self._refuse_what_has_no_effect(settings, changes.get("steps"))
        return settings

    def _refuse_what_has_no_effect(self, settings: Settings, steps: int | None) -> None:
        foreign = [name for name in _of_codes(settings) if name not in self.generator.takes]
        if foreign:
            raise TheseusError(f"this model draws no codes, and takes no: --{foreign[0].replace('_', '-')}", hint="leave it out")
        if settings.sampler in self.generator.stepless and steps not in (None, self.defaults.steps):
            hint = "leave --steps out, or choose another --sampler"
            raise TheseusError(
                f"{settings.sampler} takes a step for each code, and cannot be asked for: --steps {steps}", hint=hint
            )

    def can_be_given(self, count: int, frames: int) -> int:
        """How many of `count` first frames a video of so many can continue: at least one latent is left to make.

        Raises:
            TheseusError: none, or the model continues no clips.
        """
        if "given" not in self.generator.takes:
            hint = "a model that writes codes does: theseus train transformer --family autoregressive"
            raise TheseusError("this model makes videos of words alone, and takes no: --first-frames", hint=hint)
        every = self.tokenizer.time_factor
        most = min(count, frames - every)
        if most < 1:
            raise TheseusError(f"there is nothing to continue in a video of so few frames: {frames}", hint=f"--frames {1 + every}")
        return most - (most - 1) % every

    def generate(
        self,
        prompt: str,
        seed: int = 0,
        frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        fps: float | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        sampler: str | None = None,
        negative_prompt: str = "",
        latents: Tensor | None = None,
        progress: Progress | None = None,
        *,
        first_frames: NDArray[np.uint8] | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> Clip:
        """Make one clip; what is None is taken from `defaults`. See `sample` for the rest.

        Args:
            first_frames: (T', H, W, 3) uint8, what the clip begins with.
        """
        video = self.sample(
            [prompt],
            latents=latents,
            steps=steps,
            guidance_scale=guidance_scale,
            sampler=sampler,
            seed=seed,
            negative_prompt=negative_prompt,
            frames=frames,
            height=height,
            width=width,
            progress=progress,
            first_frames=None if first_frames is None else to_video(first_frames)[None],
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
        )
        return Clip(to_frames(video[0]), fps=self.settings(fps=fps).fps, caption=prompt)

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str],
        latents: Tensor | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        sampler: str | None = None,
        seed: int | Sequence[int] = 0,
        *,
        negative_prompt: str = "",
        frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        progress: Progress | None = None,
        first_frames: Tensor | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> Tensor:
        """Make a video of each prompt.

        Args:
            latents: the starting noise (B, Z, t, h, w), which then decides the size; else it is drawn from the seed.
            seed: one for all prompts, or one for each. A video depends on its own prompt and seed alone, not on its batch.
            negative_prompt: what guidance leads away from.
            progress: called with (done, total) after each step.
            first_frames: (1 or B, 3, T', H, W), what the videos begin with; T' as `can_be_given` says.
            temperature, top_k, top_p: how codes are drawn; see `CodeSettings`.

        Returns:
            (B, C, T, H, W) float in [-1, 1], on the CPU.

        Raises:
            TheseusError: a size that the model cannot make, a sampler it does not have, or a result that is not a number.
        """
        if isinstance(prompts, str) or not prompts:
            raise TheseusError(f"not a list of prompts: {prompts!r}", hint='for example ["a waterfall"]')
        settings = self.settings(
            steps=steps,
            guidance_scale=guidance_scale,
            sampler=sampler,
            frames=frames,
            height=height,
            width=width,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
        )
        if negative_prompt and settings.guidance_scale == 1:
            raise TheseusError(f"a negative prompt has an effect only with guidance: {negative_prompt}", hint="--guidance above 1")
        if latents is not None and (frames or height or width):
            raise TheseusError(f"latents decide the size, and cannot be asked for another: {frames} x {height} x {width}")
        noise = self._noise(settings, seed, len(prompts)) if latents is None else self._checked(latents, len(prompts))
        with autocast(self.device, self.dtype):
            more: dict[str, Any] = _of_codes(settings)
            if first_frames is not None:
                more["given"] = self._given(first_frames, noise)
            text, negative = self._encode(list(prompts), negative_prompt)
            made = self._at_work(self.generator).sample(
                noise.to(self.device),
                text,
                negative,
                steps=settings.steps,
                guidance_scale=settings.guidance_scale,
                sampler=settings.sampler,
                progress=progress,
                **more,
            )
            chunk = DECODED_AT_ONCE if made.shape[2] > DECODED_AT_ONCE else None
            video = self._at_work(self.tokenizer).decode(made, chunk=chunk).float().cpu()
        self._refuse_what_is_no_number(video)
        return video.clamp(-1, 1)

    def _refuse_what_is_no_number(self, video: Tensor) -> None:
        if not video.isfinite().all():
            raise TheseusError(
                f"the model gave values that are not numbers, computing in: {dtype_name(self.dtype)}",
                hint="try --dtype fp32 or a lower --guidance; if it stays, the training has diverged",
            )

    def _noise(self, settings: Settings, seed: int | Sequence[int], count: int) -> Tensor:
        seeds = [int(each) for each in seed] if isinstance(seed, Sequence) else [int(seed)] * count
        if len(seeds) != count:
            raise TheseusError(f"there must be one seed, or one for each of {count} prompts, not: {len(seeds)}")
        return starting_noise(self.tokenizer.latent_shape(settings.frames, settings.height, settings.width), seeds)

    def _checked(self, latents: Tensor, count: int) -> Tensor:
        shape, patch = tuple(latents.shape), self.generator.patch
        if len(shape) != 5 or shape[:2] != (count, self.tokenizer.latent_channels) or shape[3] % patch or shape[4] % patch:
            want = f"({count}, {self.tokenizer.latent_channels}, t, h, w)" + (
                f", h and w multiples of {patch}" if patch > 1 else ""
            )
            raise TheseusError(f"latents of a wrong shape: {shape}", hint=f"this model and these prompts take {want}")
        return latents.float()

    def _given(self, first_frames: Tensor, noise: Tensor) -> Tensor:
        """The latents (B, Z, t', h, w) of the first frames."""
        count, factor = first_frames.shape[2], self.tokenizer.time_factor
        if self.can_be_given(count, 1 + (noise.shape[2] - 1) * factor) != count:
            raise TheseusError(f"a video of {noise.shape[2]} latent frames cannot begin with so many frames: {count}")
        given = self._at_work(self.tokenizer).encode(first_frames.to(self.device))
        if given.shape[3:] != noise.shape[3:]:
            raise TheseusError(f"the first frames are of another size than the video: {tuple(first_frames.shape[3:])}")
        return given.expand(len(noise), -1, -1, -1, -1)

    def _encode(self, prompts: list[str], negative_prompt: str) -> tuple[Text, Text]:
        encoder = self._at_work(self.text_encoder)
        text = encoder(encoder.tokenize(prompts).to(self.device))
        return text, encoder(encoder.tokenize([negative_prompt] * len(prompts)).to(self.device))

    def _at_work(self, part: P) -> P:
        if self.offload == "model":
            offloading.bring_alone(part, [self.text_encoder, self.generator, self.tokenizer], self.device)
        return part


def _of_codes(settings: Settings) -> dict[str, Any]:
    """Those of the settings of codes that are given."""
    return {name: value for name in CodeSettings.model_fields if (value := getattr(settings, name)) is not None}


def starting_noise(shape: tuple[int, ...], seeds: Sequence[int]) -> Tensor:
    """Standard normal noise (B, *shape), each sample from its own seed alone, drawn on the CPU: the same on every machine."""
    return torch.stack([torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed)) for seed in seeds])


def to_frames(video: Tensor) -> NDArray[np.uint8]:
    """(C, T, H, W) in [-1, 1] -> (T, H, W, C) uint8, as a `Clip` holds them."""
    pixels = (video.float().clamp(-1, 1) + 1) * 127.5
    frames: NDArray[np.uint8] = pixels.round().to(torch.uint8).permute(1, 2, 3, 0).contiguous().cpu().numpy()
    return frames


def to_video(frames: NDArray[np.uint8]) -> Tensor:
    """(T, H, W, C) uint8 -> (C, T, H, W) float in [-1, 1]; the inverse of `to_frames`."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(3, 0, 1, 2).float() / 127.5 - 1
