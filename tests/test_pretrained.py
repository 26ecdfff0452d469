"""Whole released CogVideoX folders: the same videos as diffusers on tiny random weights, and what is said of damaged ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from theseus_core.diffusion import samplers
from theseus_core.pipeline import TextToVideo, to_video

diffusers = pytest.importorskip("diffusers")
from released import FRAMES, HEIGHT, TOKENS, VARIANTS, WIDTH, pipeline, save  # noqa: E402: it needs diffusers

PROMPT, NEGATIVE = "a red circle moves", "a waterfall"
HOW = {"num_inference_steps": 10, "guidance_scale": 6.0, "max_sequence_length": TOKENS, "height": HEIGHT, "width": WIDTH}


@pytest.fixture(scope="session")
def pipes() -> dict[str, Any]:
    return {variant: pipeline(variant) for variant in VARIANTS}


@pytest.fixture(scope="session")
def folders(pipes: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = tmp_path_factory.mktemp("released")
    return {variant: save(pipe, made / variant) for variant, pipe in pipes.items()}


@pytest.fixture(autouse=True)
def means(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let diffusers take the mean of what it encodes, as is done here, and not draw."""
    for name in ("image2video", "video2video"):
        module = getattr(diffusers.pipelines.cogvideo, f"pipeline_cogvideox_{name}")
        monkeypatch.setattr(module, "retrieve_latents", lambda encoded, generator=None: encoded.latent_dist.mode())


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))


def as_tensor(*pictures: Image.Image) -> Tensor:
    """(C, T, H, W)."""
    return to_video(np.stack([np.asarray(each) for each in pictures]))


def turned(x: Tensor) -> Tensor:
    """(B, Z, t, h, w) to the (B, t, Z, h, w) of diffusers, and back."""
    return x.transpose(1, 2)


def fresh_as_theirs(generator: torch.Generator) -> Callable[[Tensor], Callable[[], Tensor]]:
    """New noise as the scheduler of diffusers draws it: in every step but the first and the last twice, the first for nothing."""

    def noise_after(start: Tensor) -> Callable[[], Tensor]:
        calls = [0]

        def fresh() -> Tensor:
            calls[0] += 1
            for _ in range(1 if calls[0] == 1 else 2):
                noise = torch.randn(turned(start).shape, generator=generator)
            return turned(noise)

        return fresh

    return noise_after


def worst(found: Tensor, theirs: Tensor) -> float:
    """The largest difference in [0, 1] of (B, C, T, H, W) in [-1, 1] from the (B, T, C, H, W) in [0, 1] of diffusers."""
    assert found.shape == turned(theirs).shape
    assert theirs.std() > 0.05
    return float(((found + 1) / 2 - turned(theirs)).abs().max())


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_whole_is_that_of_diffusers(
    variant: str, pipes: dict[str, Any], folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    latent_frames = 4 if "1.5" in variant else 3  # of patches of two the first half is thrown away
    noise = torch.randn(1, 4, latent_frames, HEIGHT // 8, WIDTH // 8, generator=torch.Generator().manual_seed(1))
    given = {"image": picture()} if "i2v" in variant else {}
    theirs = pipes[variant](
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        num_frames=FRAMES,
        latents=turned(noise),
        generator=torch.Generator().manual_seed(5),
        output_type="pt",
        **HOW,
        **given,
    ).frames
    monkeypatch.setattr(samplers, "noise_after", fresh_as_theirs(torch.Generator().manual_seed(5)))
    pipe = TextToVideo.load(folders[variant], "cpu", "fp32")
    given = {"image": as_tensor(picture()).transpose(0, 1)} if "i2v" in variant else {}
    found = pipe.sample([PROMPT], noise, steps=10, guidance_scale=6.0, negative_prompt=NEGATIVE, frames=FRAMES, **given)
    assert worst(found, theirs) < 1e-3
