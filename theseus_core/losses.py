"""Measures of likeness between clips, as losses and as figures; none needs downloaded weights."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from theseus_core.device import full_precision


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each clip, over all its values.

    Args:
        a, b: (B, C, T, H, W) in [-1, 1]; values outside are clamped, as they are when a file is written.

    Returns:
        (B,) float; identical clips give the 100 dB that an error of 1e-10 has.
    """
    error = (a.float().clamp(-1, 1) - b.float().clamp(-1, 1)).square().mean(dim=(1, 2, 3, 4)) / 4  # in units of [0, 1]
    return -10 * torch.log10(error.clamp_min(1e-10))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of each clip: the mean over frames and channels (Wang et al. 2004).

    The window is the paper's Gaussian of 11 pixels and sigma 1.5, without padding; smaller frames take a smaller window.

    Args:
        a, b: (B, C, T, H, W) in [-1, 1].

    Returns:
        (B,) float in [-1, 1].
    """
    b_, c, t, h, w = a.shape
    x, y = ((v.float().clamp(-1, 1).transpose(1, 2).reshape(b_ * t, c, h, w) + 1) / 2 for v in (a, b))
    size = min(11, h, w)
    line = torch.exp(-((torch.arange(size, device=a.device) - (size - 1) / 2) ** 2) / (2 * 1.5**2))
    line = line / line.sum()

    def blur(v: Tensor) -> Tensor:
        v = F.conv2d(v, line.view(1, 1, 1, -1).expand(c, 1, 1, size), groups=c)
        return F.conv2d(v, line.view(1, 1, -1, 1).expand(c, 1, size, 1), groups=c)

    with full_precision(a.device):  # in half precision the variances, as differences, can be below zero
        mean_x, mean_y = blur(x), blur(y)
        var_x, var_y, cov = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2, blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    index = (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return index.reshape(b_, -1).mean(dim=1)
