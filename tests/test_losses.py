"""PSNR and SSIM against their definitions written out in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from theseus_core.losses import psnr, ssim


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    a = torch.rand(2, 3, 2, 24, 20) * 2 - 1
    return a, (a + 0.2 * torch.randn_like(a)).clamp(-1, 1)


def test_psnr_is_that_of_the_pixels(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    a, b = ((x.numpy() + 1) / 2 for x in pair)
    for i, found in enumerate(psnr(*pair)):
        assert found.item() == pytest.approx(10 * np.log10(1 / np.mean((a[i] - b[i]) ** 2)), abs=1e-3)


def test_psnr_of_equals_is_the_top_and_what_lies_outside_is_clamped() -> None:
    a = torch.ones(1, 3, 1, 8, 8)
    assert psnr(a, a).item() == pytest.approx(100)
    assert psnr(a * 5, a).item() == pytest.approx(100)


def test_ssim_is_as_exact_within_a_training_of_half_precision(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    bright = [0.98 + 0.02 * x for x in pair]  # where a mean of squares and the square of a mean are nearest
    with torch.autocast("cpu", torch.bfloat16):
        inside = ssim(*bright)
    torch.testing.assert_close(inside, ssim(*bright))


def test_ssim_by_hand(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    """One window after the other, as the paper writes it."""
    a, b = ((x[0, 1, 1].double().numpy() + 1) / 2 for x in pair)
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    weights = np.outer(line, line) / line.sum() ** 2
    values = []
    for y in range(24 - 10):
        for x in range(20 - 10):
            p, q = a[y : y + 11, x : x + 11], b[y : y + 11, x : x + 11]
            mp, mq = (weights * p).sum(), (weights * q).sum()
            vp, vq, c = (weights * (p - mp) ** 2).sum(), (weights * (q - mq) ** 2).sum(), (weights * (p - mp) * (q - mq)).sum()
            values.append((2 * mp * mq + 1e-4) * (2 * c + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    one = [x[:1, 1:2, 1:2] for x in pair]
    assert ssim(*one).item() == pytest.approx(np.mean(values), abs=1e-4)
    assert ssim(pair[0], pair[0]).tolist() == pytest.approx([1, 1])
