"""From words to a clip: the text encoder, the generator and the tokenizer, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from theseus_core import offload as offloading
from theseus_core.beginnings import (
    STRENGTH,
    Window,
    check_first_frames,
    check_given,
    check_latents,
    check_one_or_each,
    complete_size,
    long_enough,
    noise_of,
    starting_noise,
    windows,
)
from theseus_core.config import merge, validate
from theseus_core.contracts import Progress, Text
from theseus_core.data.clip import Clip
from theseus_core.device import autocast, dtype_name, explained, pick_device, pick_dtype
from theseus_core.diffusion.caching import Cache
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
from theseus_core.nn.lora import merge as merge_differences
from theseus_core.nn.packed import can_pack, pack
from theseus_core.pretrained.lora import Lora, apply, parse_lora
from theseus_core.quantize import Quantized, check_mode, quantize_encoder
from theseus_core.quantize import quantize as quantize_layers

__all__ = ["Settings", "TextToVideo", "load_tokenizer", "save_model", "save_tokenizer", "starting_noise", "to_frames", "to_video"]

PACKED_FROM = 8  # steps from which arranging the weights anew, once, takes less time than it saves in each
DECODED_AT_ONCE = 16  # latent frames of a long video, for the sake of memory; the result is the same
P = TypeVar("P", bound=nn.Module)


class TextToVideo:
    """A model in memory, ready to generate.

    Attributes:
        tokenizer, text_encoder, generator: the parts, in evaluation mode.
        defaults: the size, rate and sampling that the model was made for.
        knows: groups of prompts that it was trained on, if that was kept.
        device, dtype: where it computes, and in what precision (our own models by autocast, their weights staying in fp32;
            released ones have their weights in it).
        tiling: whether large frames are encoded and decoded in tiles.
        quantized: what quantization made of the generator and of the text encoder; empty where it was not asked for.
        loras: the files of low-rank differences that were asked for, each with the number of its keys.
        cached: what the cache did for the last videos; None where none was asked for.
    """

    quantized: Sequence[Quantized] = ()
    loras: Sequence[tuple[Lora, int]] = ()
    cached: Cache | None = None
    _packable = False  # whether the generator's layers are still to be packed, as soon as that pays

    def __init__(self, parts: Parts, device: torch.device, dtype: torch.dtype, offload: str = "none", tiling: bool = False) -> None:
        self.tokenizer, self.text_encoder, self.generator = parts.tokenizer, parts.text_encoder, parts.generator
        self.defaults, self.knows = parts.defaults, parts.knows
        self.device, self.dtype, self.offload, self.tiling = device, dtype, offload, tiling
        self._texts: dict[str, Text] = {}  # by prompt, of an encoder that is not trained along
        self._half = any(weight.dtype == dtype for weight in self.generator.parameters())  # as released, and not by autocast
        if tiling and self.tokenizer.tile is None:
            raise TheseusError("this model's tokenizer takes frames whole, and has no: --tiling")
        if tiling:
            self.tokenizer.set_tiling(True)
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
        tiling: bool = False,
        lora: Sequence[str] = (),
    ) -> Self:
        """Read a model.

        Args:
            path_or_name: a run, a model folder, the name of a bundled model, or of one on a hub.
            quantize: none, int8, nf4 or fp4: the linear layers of generator and text encoder in fewer bits.
            offload: none, model or layer: what stays in main memory while it is not at work.
            compile: compile the generator's blocks at their first use.
            tiling: encode and decode large frames in tiles, for less memory; a little else comes out.
            lora: files of low-rank differences, `FILE` or `FILE:0.8`: added to the weights, or beside them where quantized.

        Raises:
            TheseusError: there is no such model, it is damaged, or this machine cannot do what is asked for.
        """
        where = pick_device(device)
        precision = pick_dtype(dtype, where)
        check_mode(quantize, where)
        offloading.check(offload, where, compile, quantize)
        loras = [parse_lora(each) for each in lora]
        parts = load_model(find_model(path_or_name), precision, merged=quantize == "none")
        reports = []
        if quantize != "none":
            how = (quantize, where, precision)
            reports = [quantize_layers(parts.generator, *how), quantize_encoder(parts.text_encoder, *how)]
        matched = [(each, apply(parts.generator, each)) for each in loras]
        merge_differences(parts.generator)
        offloading.check_blocks(parts.generator, offload, compile)
        if compile:
            offloading.compile_units(parts.generator)
        loaded = cls(parts, where, precision, offload, tiling)
        loaded._packable = quantize == "none" and not compile and can_pack(where)
        loaded.quantized, loaded.loras = reports, matched
        return loaded

    def settings(self, **changes: Any) -> Settings:
        """The model's defaults with the changes that are not None, checked against what the model can do.

        Raises:
            TheseusError: a size or a number of frames that the model cannot make, whose hint names the nearest that it can; or
                something that has no effect on it.
        """
        settings = self._with(**changes)
        self.tokenizer.check_size(settings.frames, settings.height, settings.width, self.generator.patch)
        self._refuse_what_has_no_effect(settings, changes.get("steps"))
        return settings

    def _with(self, **changes: Any) -> Settings:
        return validate(
            Settings, merge(self.defaults.model_dump(), {key: value for key, value in changes.items() if value is not None})
        )

    def _refuse_what_has_no_effect(self, settings: Settings, steps: int | None) -> None:
        tile, takes = self.tokenizer.tile, self.generator.takes
        if self.tiling and tile is not None and settings.height <= tile[0] and settings.width <= tile[1]:
            hint = f"leave --tiling out, a tile is {tile[1]}x{tile[0]}"
            raise TheseusError(f"tiling has no effect on frames of: {settings.width}x{settings.height}", hint=hint)
        if settings.dynamic_guidance and ("dynamic_guidance" not in takes or settings.guidance_scale == 1):
            why = "without guidance nothing can rise" if settings.guidance_scale == 1 else "this model has no dynamic guidance"
            raise TheseusError(f"{why}: guidance {settings.guidance_scale:g}", hint="leave --dynamic-guidance out")
        if settings.cache and "cache" not in takes:
            raise TheseusError(f"this model has no steps to leave out: cache {settings.cache:g}", hint="leave --cache out")
        if foreign := [name for name in _of_codes(settings) if name not in takes]:
            raise TheseusError(f"this model draws no codes, and takes no: --{foreign[0].replace('_', '-')}", hint="leave it out")
        if settings.sampler in self.generator.stepless and steps not in (None, self.defaults.steps):
            others = [name for name in self.generator.samplers if name not in self.generator.stepless]
            message = f"{settings.sampler} takes as many steps as it needs, and cannot be asked for: --steps {steps}"
            raise TheseusError(message, hint="leave --steps out" + (", or choose another --sampler" if others else ""))
        if settings.guidance_scale != 1 and not self.generator.guided:
            raise TheseusError(
                f"this model knows no guidance, and cannot be asked for: --guidance {settings.guidance_scale:g}",
                hint="leave --guidance out: it always follows the words as it learned to",
            )

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
        image: Tensor | None = None,
        video: Tensor | None = None,
        strength: float | None = None,
        first_frames: Tensor | None = None,
        dynamic_guidance: bool | None = None,
        cache: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seconds: float | None = None,
        progress: Progress | None = None,
    ) -> Clip:
        """Make one clip; what is None is taken from `defaults`. See `sample` for the rest.

        Args:
            seconds: how long the clip is, whatever number of frames the model makes at once: what is beyond is cut off.
        """
        rate = self._with(fps=fps).fps
        kept, enough = (None, None) if seconds is None else self.frames_of(seconds, rate)
        made = self.sample(
            [prompt],
            latents=latents,
            steps=steps,
            guidance_scale=guidance_scale,
            sampler=sampler,
            seed=seed,
            negative_prompt=negative_prompt,
            frames=frames if frames is not None else enough,
            height=height,
            width=width,
            image=image,
            video=video,
            strength=strength,
            first_frames=first_frames,
            dynamic_guidance=dynamic_guidance,
            cache=cache,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            progress=progress,
        )
        if kept is not None and kept > made.shape[2]:
            raise TheseusError(f"so many seconds are {kept} frames at {rate:g} a second, and there are only: {made.shape[2]}")
        return Clip(to_frames(made[0][:, :kept]), fps=rate, caption=prompt)

    def frames_of(self, seconds: float, fps: float | None = None) -> tuple[int, int]:
        """How many frames so many seconds are, to the nearest, and the least number that the model can make them with.

        Args:
            fps: frames a second; None for the model's.

        Raises:
            TheseusError: they are less than half a frame.
        """
        rate = self._with(fps=fps).fps
        if not 0.5 < seconds * rate < 1e6:
            raise TheseusError(f"no clip is so many seconds long: {seconds:g}", hint=f"one frame is {1 / rate:.3g} s")
        kept = round(seconds * rate)
        return kept, kept + -(kept - 1) % self.tokenizer.time_factor

    @torch.no_grad()
    @explained("a smaller --size, fewer --frames, --tiling or --quantize; --dry-run says beforehand what it takes")
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
        image: Tensor | None = None,
        video: Tensor | None = None,
        strength: float | None = None,
        first_frames: Tensor | None = None,
        dynamic_guidance: bool | None = None,
        cache: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Make a video of each prompt.

        Args:
            latents: the starting noise (B, Z, t, h, w), which then decides the size; else it is drawn from the seed.
                Where the generator takes several latent frames at once, what fills up the first of them is part of it.
            seed: one for all prompts, or one for each. A video depends on its own prompt and seed alone, not on its batch.
            negative_prompt: what guidance leads away from.
            image: the first frame (1 or B, C, H, W) in [-1, 1], for models that continue one.
            video: (1 or B, C, T, H, W) in [-1, 1] to begin from, noised as far as `strength` says.
            strength: the share of the steps that change the video, in (0, 1]; None for 0.8.
            first_frames: (1 or B, C, T', H, W) in [-1, 1] that the videos begin with, for models that continue a clip; T' as
                `beginnings.can_be_given` says. The videos then have `beginnings.long_enough` frames unless others are asked for.
                More frames than those of `defaults` such a model makes in `beginnings.windows`.
            dynamic_guidance: guidance grows with the steps, from none.
            cache: the error that a step may have where the generator is not evaluated, see `diffusion.caching`; 0.02 halves the
                time of 50 steps. `cached` then says what was left out.
            temperature, top_k, top_p: how codes are drawn; see `CodeSettings`.
            progress: called with (done, total) after each step; in windows, with the frames that are there, and all.

        Returns:
            (B, C, T, H, W) float in [-1, 1], on the CPU.

        Raises:
            TheseusError: a size that the model cannot make, a sampler it does not have, something given that it does not take, or
                a result that is not a number.
        """
        if isinstance(prompts, str) or not prompts:
            raise TheseusError(f"not a list of prompts: {prompts!r}", hint='for example ["a waterfall"]')
        check_given(self.generator, image is not None, video is not None, first_frames is not None, strength)
        if latents is not None:
            check_latents(latents, len(prompts), self.tokenizer, self.generator)
        if first_frames is not None and frames is None and latents is None:
            frames = long_enough(self.tokenizer, first_frames.shape[2], self.defaults.frames)
        asked = {"frames": frames, "height": height, "width": width}
        given = image if first_frames is None else first_frames[:, :, 0]
        size = complete_size(asked, latents, video if given is None else given, self.tokenizer)
        settings = self.settings(
            steps=steps,
            guidance_scale=guidance_scale,
            sampler=sampler,
            dynamic_guidance=dynamic_guidance,
            cache=cache,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            **size,
        )
        if negative_prompt and settings.guidance_scale == 1:
            raise TheseusError(f"a negative prompt has an effect only with guidance: {negative_prompt}", hint="--guidance above 1")
        if first_frames is not None:
            check_one_or_each(first_frames, len(prompts))
            check_first_frames(self.tokenizer, first_frames.shape[2], settings.frames)
        z, t, h, w = self.tokenizer.latent_shape(settings.frames, settings.height, settings.width)
        spare = -t % self.generator.patch_frames  # frames in front that fill up a patch
        noise = noise_of((z, t + spare, h, w), seed, len(prompts), latents)
        text, negative = self._encode(list(prompts), negative_prompt)
        extra = self._beginnings(image, video, strength, spare, len(prompts)) | self._ways(settings)
        if self._packable and settings.steps * extra.get("strength", 1.0) >= PACKED_FROM:
            pack(self.generator)
            self._packable = False
        given = None if first_frames is None else first_frames.float().cpu().expand(len(prompts), -1, -1, -1, -1)
        return self._in_windows(noise, text, negative, settings, spare, given, extra, progress)

    def _in_windows(
        self,
        noise: Tensor,
        text: Text,
        negative: Text,
        settings: Settings,
        spare: int,
        made: Tensor | None,
        extra: dict[str, Any],
        progress: Progress | None,
    ) -> Tensor:
        """Go on from what is made, (B, C, T', H, W), as `beginnings.windows` says, to (B, C, T, H, W)."""
        size, every = (settings.height, settings.width), self.tokenizer.time_factor
        plan = windows(self.tokenizer, self.generator, settings.frames, self.defaults.frames, 0 if made is None else made.shape[2])
        written: Tensor | None = None
        for window in plan:
            start, known = window.start // every, -(-window.known // every)
            if made is not None and (written is None or every > 1):  # else each frame has the latents that it was written with
                written = self._latents(made[:, :, window.start :])
            before = {} if written is None else {"given": written[:, :, -known:]}
            own = noise[:, :, start : start + self.tokenizer.latent_shape(window.frames, *size)[1] + spare]
            tell = progress if len(plan) == 1 else _in_frames(progress, window, settings.frames)
            written = self._write(own, text, negative, settings, extra | before, tell)[:, :, spare:]
            part = self._decoded(written, size)
            made = part if made is None else torch.cat([made, part[:, :, window.known :]], dim=2)
        assert made is not None
        return made

    def _write(
        self, noise: Tensor, text: Text, negative: Text, settings: Settings, extra: dict[str, Any], progress: Progress | None
    ) -> Tensor:
        """What the generator makes of noise (B, Z, t, h, w) and words: latents of that shape."""
        with self._computing():
            return self._at_work(self.generator).sample(
                noise.to(self.device),
                text,
                negative,
                steps=settings.steps,
                guidance_scale=settings.guidance_scale,
                sampler=settings.sampler,
                progress=progress,
                **extra,
            )

    def _decoded(self, latents: Tensor, size: tuple[int, int]) -> Tensor:
        """Frames of `size` in [-1, 1], on the CPU."""
        chunk = DECODED_AT_ONCE if self.tokenizer.exact_in_chunks and latents.shape[2] > DECODED_AT_ONCE else None
        with self._computing():
            decoded = self._at_work(self.tokenizer).decode(latents, chunk=chunk, size=size).float().cpu()
        self._refuse_what_is_no_number(decoded)
        return decoded.clamp(-1, 1)

    def _computing(self) -> AbstractContextManager[object]:
        return nullcontext() if self._half else autocast(self.device, self.dtype)

    def _refuse_what_is_no_number(self, video: Tensor) -> None:
        if not video.isfinite().all():
            raise TheseusError(
                f"the model gave values that are not numbers, computing in: {dtype_name(self.dtype)}",
                hint="try --dtype fp32 or a lower --guidance; if it stays, the training has diverged",
            )

    def _beginnings(
        self, image: Tensor | None, video: Tensor | None, strength: float | None, spare: int, count: int
    ) -> dict[str, Any]:
        """What the generator is given beside words and noise: latents of the first frame, or of a video."""
        given = video if image is None else image.unsqueeze(2)  # (1 or B, C, T, H, W)
        if given is None:
            return {}
        check_one_or_each(given, count)
        found = self._latents(given).expand(count, -1, -1, -1, -1).float()
        if image is not None:
            return {"image": found * self.tokenizer.image_scale}
        found = torch.cat([found[:, :, :1].expand(-1, -1, spare, -1, -1), found], dim=2)  # (B, Z, t, h, w)
        return {"start": found, "strength": STRENGTH if strength is None else strength}

    def _latents(self, video: Tensor) -> Tensor:
        """Of (B, C, T, H, W), on the device."""
        chunk = DECODED_AT_ONCE if self.tokenizer.exact_in_chunks else None
        with self._computing():
            return self._at_work(self.tokenizer).encode(video.to(self.device), chunk=chunk)

    def _ways(self, settings: Settings) -> dict[str, Any]:
        """Those of the settings that not every generator takes, where they are given."""
        extra = _of_codes(settings)
        if settings.dynamic_guidance:
            extra["dynamic_guidance"] = True
        self.cached = Cache(settings.cache) if settings.cache else None
        if self.cached is not None:
            extra["cache"] = self.cached
        return extra

    def remember(self, prompts: Sequence[str]) -> None:
        """Encode these prompts now, in place of those encoded before, and let the text encoder give its memory back.

        An encoder that was trained along is small, and encodes when it is asked.
        """
        if self.text_encoder.trained_along:
            return
        encoder = self._at_work(self.text_encoder)
        with torch.no_grad(), self._computing():
            self._texts = {prompt: encoder(encoder.tokenize([prompt]).to(self.device)) for prompt in dict.fromkeys(prompts)}
        encoder.free()

    def _encode(self, prompts: list[str], negative_prompt: str) -> tuple[Text, Text]:
        """The prompts, and as often what to lead away from."""
        if self.text_encoder.trained_along:
            encoder = self._at_work(self.text_encoder)
            with self._computing():
                text = encoder(encoder.tokenize(prompts).to(self.device))
                return text, encoder(encoder.tokenize([negative_prompt] * len(prompts)).to(self.device))
        if not {negative_prompt, *prompts} <= self._texts.keys():
            self.remember([negative_prompt, *prompts])
        text, negative = _joined([self._texts[prompt] for prompt in prompts]), self._texts[negative_prompt]
        return text, _joined([negative] * len(prompts))

    def _at_work(self, part: P) -> P:
        if self.offload == "model":
            offloading.bring_alone(part, [self.text_encoder, self.generator, self.tokenizer], self.device)
        return part


def _of_codes(settings: Settings) -> dict[str, Any]:
    """Those of the settings of codes that are given."""
    return {name: value for name in CodeSettings.model_fields if (value := getattr(settings, name)) is not None}


def _in_frames(progress: Progress | None, window: Window, frames: int) -> Progress | None:
    """The progress of a window as that of a video of so many frames."""
    if progress is None:
        return None
    first, new = window.start + window.known, window.frames - window.known
    return lambda done, total: progress(first + new * done // total, frames)


def _joined(texts: Sequence[Text]) -> Text:
    """Texts of one prompt each as a batch, less their ids."""
    embeddings = [text.embeddings for text in texts if text.embeddings is not None]
    return Text(mask=torch.cat([text.mask for text in texts]), embeddings=torch.cat(embeddings))


def to_frames(video: Tensor) -> NDArray[np.uint8]:
    """(C, T, H, W) in [-1, 1] -> (T, H, W, C) uint8, as a `Clip` holds them."""
    pixels = (video.float().clamp(-1, 1) + 1) * 127.5
    frames: NDArray[np.uint8] = pixels.round().to(torch.uint8).permute(1, 2, 3, 0).contiguous().cpu().numpy()
    return frames


def to_video(frames: NDArray[np.uint8]) -> Tensor:
    """(T, H, W, C) uint8 -> (C, T, H, W) float in [-1, 1]; the inverse of `to_frames`."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(3, 0, 1, 2).float() / 127.5 - 1
