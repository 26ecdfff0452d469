"""Frames as weights of eigenpictures: the best of all linear codecs, at any size, each frame by itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from theseus_core.contracts import Batch
from theseus_core.errors import TheseusError
from theseus_core.registry import build
from theseus_core.tokenizers.eigenframes import Model

Z, SIDE = 12, 16  # of the preset "debug"


def clips(count: int, size: int = 2 * SIDE, strengths: int = 6) -> Tensor:
    """(n, 3, 5, H, W): a picture and chance amounts of a few others, each weaker than the one before."""
    draw = torch.Generator().manual_seed(1)
    pictures = torch.randn(strengths, 3, SIDE, SIDE, generator=draw)
    amounts = torch.randn(count, 5, strengths, generator=draw) * 0.5 ** torch.arange(strengths)
    frames = 0.1 + 0.2 * torch.einsum("bts,schw->bcthw", amounts, pictures)
    return frames.repeat_interleave(size // SIDE, 3).repeat_interleave(size // SIDE, 4)


@pytest.fixture(scope="module")
def fitted() -> Model:
    torch.manual_seed(0)
    model = build("tokenizers", "eigenframes", "debug")
    assert isinstance(model, Model)
    model.initialize(clips(40).split(4))
    model.calibrate(clips(40).split(4))
    return model.eval()


def test_the_pictures_are_those_of_a_singular_value_decomposition(fitted: Model) -> None:
    frames = clips(40, SIDE).transpose(1, 2).flatten(0, 1).flatten(1)
    torch.testing.assert_close(fitted.average, frames.mean(0), atol=1e-5, rtol=0)
    expected = torch.linalg.svd(frames - frames.mean(0), full_matrices=False).Vh[:6]
    cosine = (expected * fitted.pictures[:6]).sum(1).abs()
    torch.testing.assert_close(cosine, torch.ones(6), atol=1e-3, rtol=0)
    torch.testing.assert_close(fitted.pictures @ fitted.pictures.T, torch.eye(Z), atol=1e-5, rtol=0)


@torch.no_grad()
def test_what_the_pictures_span_comes_back_and_stronger_ones_come_first(fitted: Model) -> None:
    video = clips(3, SIDE)
    latents = fitted.encode(video)
    assert latents.shape == (3, *fitted.latent_shape(5, 32, 32)) == (3, Z, 5, 1, 1)
    small = (latents[..., 0, 0].mT * fitted.std + fitted.mean) @ fitted.pictures + fitted.average
    torch.testing.assert_close(small, video.transpose(1, 2).flatten(2), atol=1e-4, rtol=0)
    untrained = torch.nn.functional.interpolate(video, (5, 2 * SIDE, 2 * SIDE), mode="trilinear")
    torch.testing.assert_close(fitted.decode(latents, size=(2 * SIDE, 2 * SIDE)), untrained, atol=1e-4, rtol=0)
    deviations = fitted.encode(clips(40)).std((0, 2)).flatten()
    assert (deviations[:5] > deviations[1:6]).all()  # weaker ones stay weaker, less so than they are
    assert float(deviations.square().mean()) == pytest.approx(1, abs=0.1)


@torch.no_grad()
def test_a_size_of_any_kind_and_frames_by_themselves(fitted: Model) -> None:
    video = clips(1)
    wide = torch.nn.functional.interpolate(video, (5, 48, 96))
    latents = fitted.encode(wide)
    assert latents.shape == (1, Z, 5, 1, 1)
    drawn = fitted.decode(latents, size=(48, 96))
    assert drawn.shape == (1, 3, 5, 48, 96)
    torch.testing.assert_close(drawn, fitted.decode(latents, chunk=2, size=(48, 96)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(fitted.encode(wide[:, :, 3:]), latents[:, :, 3:], atol=1e-3, rtol=0)
    with pytest.raises(TheseusError, match=r"latents must be \(B, 12, t, 1, 1\), not: \(1, 3, 5, 1, 1\)"):
        fitted.decode(torch.zeros(1, 3, 5, 1, 1), size=(32, 32))


def test_more_pictures_than_values_are_refused() -> None:
    with pytest.raises(TheseusError, match="800 components of 768 values"):
        build("tokenizers", "eigenframes", "debug", {"components": 800})


def test_it_learns_to_draw_sharper_than_interpolation() -> None:
    """Frames have edges between the pixels of the thumbnails; interpolation knows none."""
    torch.manual_seed(0)
    model = build("tokenizers", "eigenframes", "debug", {"noise": 0.0})
    video = clips(4)
    model.initialize([video])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    errors = []
    for _ in range(60):
        losses = model.losses(Batch(video=video), "train")
        optimizer.zero_grad()
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        errors.append(losses["mse"].item())
    assert errors[-1] < 0.3 * errors[0]


@torch.no_grad()
def test_cells_are_sums_of_the_same_pictures_and_join_to_frames() -> None:
    torch.manual_seed(0)
    model = build("tokenizers", "eigenframes", "debug", {"cells": 2, "components": 3 * 8 * 8}).eval()
    video = clips(40, SIDE)
    model.initialize(video.split(4))
    model.calibrate(video.split(4))
    latents = model.encode(video[:2])
    assert latents.shape == (2, *model.latent_shape(5, 64, 64)) == (2, 192, 5, 2, 2)
    untrained = torch.nn.functional.interpolate(video[:2], (5, 32, 32), mode="trilinear")
    torch.testing.assert_close(model.decode(latents, size=(32, 32)), untrained, atol=1e-4, rtol=0)  # of all components all is left
    corner = torch.zeros_like(latents)
    corner[..., 1, 0] = 1
    drawn = (model.decode(latents + corner, size=(32, 32)) - model.decode(latents, size=(32, 32))).abs().amax((0, 1, 2))
    assert drawn[18:, :14].min() > 1e-3  # below, to the left
    assert drawn[:14].max() < 1e-4 and drawn[:, 18:].max() < 1e-4
    with pytest.raises(TheseusError, match="3 cells do not divide a side of 16 pixels"):
        build("tokenizers", "eigenframes", "debug", {"cells": 3})


def test_patches_are_of_its_cells_whatever_the_size_of_the_frame(fitted: Model) -> None:
    fitted.check_size(17, 66, 50, fitted.grid)
    with pytest.raises(TheseusError, match="do not divide into patches of: 3") as caught:
        fitted.check_size(17, 64, 64, 3)
    assert caught.value.hint == "model.patch=1 would do"
