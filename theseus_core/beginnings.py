"""What a video begins from: noise, which decides its size, and an image, a video or first frames where the generator takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from theseus_core.contracts import Generator, VideoTokenizer
from theseus_core.errors import TheseusError

STRENGTH = 0.8  # the share of the steps that change a video, as diffusers has it


def check_given(generator: Generator, image: bool, video: bool, first_frames: bool = False, strength: float | None = None) -> None:
    """Refuse what a generator takes none of, the lack of an image that it needs, and a strength of nothing.

    Raises:
        TheseusError: saying what would do.
    """
    if image and "image" not in generator.takes:
        hint = "a model that continues images does, such as THUDM/CogVideoX-5b-I2V"
        raise TheseusError("this model makes videos of words, and takes no: --image", hint=hint)
    if video and "start" not in generator.takes:
        hint = "a model that makes videos of words does, such as THUDM/CogVideoX-5b"
        raise TheseusError("this model cannot begin from a video, and takes no: --video", hint=hint)
    if first_frames and "given" not in generator.takes:
        hint = "a model that writes codes does: theseus train transformer --family autoregressive"
        raise TheseusError("this model continues no clips, and takes no: --first-frames", hint=hint)
    if "image" in generator.takes and not image:
        raise TheseusError("this model continues an image, and needs one: --image", hint="--image FILE, the first frame")
    if strength is not None and not video:
        raise TheseusError(f"a strength has an effect only on a video: {strength:g}", hint="--video FILE")


def can_be_given(tokenizer: VideoTokenizer, count: int, frames: int) -> int:
    """How many of `count` first frames a video of so many can continue: at least one latent is left to make.

    Raises:
        TheseusError: none.
    """
    every = tokenizer.time_factor
    most = min(count, frames - every)
    if most < 1:
        raise TheseusError(f"there is nothing to continue in a video of so few frames: {frames}", hint=f"--frames {1 + every}")
    return most - (most - 1) % every


def long_enough(tokenizer: VideoTokenizer, count: int, at_once: int) -> int:
    """The frames of a video that goes on from so many: those that are made at once, or else half of these beyond what is given.

    Raises:
        TheseusError: the model makes single frames.
    """
    every = tokenizer.time_factor
    new = at_once - can_be_given(tokenizer, (at_once + 1) // 2, at_once)
    return max(at_once, count - (count - 1) % every + new)


@dataclass(frozen=True)
class Window:
    """A part of a video that is made at once.

    Attributes:
        start: its first frame.
        frames: how many it has.
        known: how many of these, the first, are there already.
    """

    start: int
    frames: int
    known: int


def windows(tokenizer: VideoTokenizer, generator: Generator, frames: int, at_once: int, given: int = 0) -> list[Window]:
    """In which parts a video is made: as one, or, of more frames than a generator that continues clips was trained on, in windows
    of so many, which begin with half a window, or more, of what is there by then.

    Args:
        at_once: the frames that it was trained on.
        given: first frames that are there.
    """
    if frames <= at_once or "given" not in generator.takes or at_once <= tokenizer.time_factor:
        return [Window(0, frames, given)]
    half, there = can_be_given(tokenizer, (at_once + 1) // 2, at_once), given
    found: list[Window] = []
    while there < frames:
        start = min(max(0, there - half), frames - at_once)
        found.append(Window(start, at_once, there - start))
        there = start + at_once
    return found


def check_one_or_each(given: Tensor, count: int) -> None:
    """Refuse an image (B, C, H, W) or a video (B, C, T, H, W) that is not one for all prompts, or one for each, of three colours.

    Raises:
        TheseusError: saying what it is.
    """
    if len(given) not in (1, count) or given.shape[1] != 3:
        raise TheseusError(f"there must be one image or video, or one for each of {count} prompts, not: {tuple(given.shape)}")


def check_first_frames(tokenizer: VideoTokenizer, count: int, frames: int) -> None:
    """Refuse so many first frames as a video cannot begin with.

    Raises:
        TheseusError: the hint names the nearest number that it can.
    """
    if (most := can_be_given(tokenizer, count, frames)) != count:
        hint = f"it can with {most}" if count < frames else f"it can with {most}, and one of more frames with more"
        raise TheseusError(f"a video of {frames} frames cannot begin with so many frames: {count}", hint=hint)


def check_latents(latents: Tensor, count: int, tokenizer: VideoTokenizer, generator: Generator) -> None:
    """Refuse starting noise that is not (count, Z, t, h, w) in whole patches.

    Raises:
        TheseusError: the hint says what would do.
    """
    shape, patch, several = tuple(latents.shape), generator.patch, generator.patch_frames
    fits = len(shape) == 5 and shape[:2] == (count, tokenizer.latent_channels)
    if not fits or shape[2] % several or shape[3] % patch or shape[4] % patch:
        want = [f"({count}, {tokenizer.latent_channels}, t, h, w)"]
        want += [f"h and w multiples of {patch}"] if patch > 1 else []
        want += [f"t a multiple of {several}"] if several > 1 else []
        raise TheseusError(f"latents of a wrong shape: {shape}", hint=f"this model and these prompts take {', '.join(want)}")


def complete_size(
    asked: dict[str, int | None], latents: Tensor | None, given: Tensor | None, tokenizer: VideoTokenizer
) -> dict[str, int | None]:
    """The frames, height and width that are asked for, and where nothing is, those of an image or a video, or else of latents.

    Args:
        given: an image (B, C, H, W) or a video (B, C, T, H, W).

    Raises:
        TheseusError: the image or the video has another size than is asked for.
    """
    found: dict[str, int] = {}
    if latents is not None:
        t, h, w = latents.shape[2:]
        scale = tokenizer.space_factor
        found = {"frames": 1 + (t - 1) * tokenizer.time_factor}
        if not tokenizer.sizeless:
            found |= {"height": h * scale, "width": w * scale}
    if given is not None:
        sides = ("height", "width") if given.ndim == 4 else ("frames", "height", "width")
        sized = dict(zip(sides, given.shape[2:], strict=True))
        wrong = [name for name, side in sized.items() if asked[name] not in (None, side)]
        if wrong:
            raise TheseusError(f"what is given has another {wrong[0]}, {sized[wrong[0]]}, than asked for: {asked[wrong[0]]}")
        found |= sized
    return {name: found.get(name) if side is None else side for name, side in asked.items()}


def noise_of(shape: tuple[int, ...], seed: int | Sequence[int], count: int, latents: Tensor | None) -> Tensor:
    """The starting noise (count, *shape): `latents`, else drawn from the seed.

    Raises:
        TheseusError: latents of another size, or neither one seed nor `count` of them.
    """
    if latents is not None:
        if latents.shape != (count, *shape):
            raise TheseusError(f"latents decide the size, and {tuple(latents.shape)} are not those asked for: {(count, *shape)}")
        return latents.float()
    seeds = [int(each) for each in seed] if isinstance(seed, Sequence) else [int(seed)] * count
    if len(seeds) != count:
        raise TheseusError(f"there must be one seed, or one for each of {count} prompts, not: {len(seeds)}")
    return starting_noise(shape, seeds)


def starting_noise(shape: tuple[int, ...], seeds: Sequence[int]) -> Tensor:
    """Standard normal noise (B, *shape), each sample from its own seed alone, drawn on the CPU: the same on every machine."""
    return torch.stack([torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed)) for seed in seeds])
