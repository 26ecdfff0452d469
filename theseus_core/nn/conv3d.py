"""3D convolution over whole clips, which sees what was and what will be. Layout is channels last, (B, t, h, w, D)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from theseus_core.nn.hourglass import modulated


class Conv3d(nn.Conv3d):
    """A 3x3x3 convolution of (B, t, h, w, channels) that keeps the size; beyond the edges is zero."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)


class ConvBlock3d(nn.Module):
    """`x + mix(gelu(conv(norm(x))))` on (B, t, h, w, D), the norm moved and stretched by the time.

    Args:
        width: D.
    """

    def __init__(self, width: int, time_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.modulation = nn.Linear(time_width, 2 * width)
        self.conv = Conv3d(width, width)
        self.mix = nn.Linear(width, width)
        for last in (self.modulation, self.mix):  # a block starts as the identity
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        y = self.conv(modulated(self.norm(x), self.modulation(time)))
        out: Tensor = x + self.mix(F.gelu(y, approximate="tanh"))
        return out
