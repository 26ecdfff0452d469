"""Causal 3D convolution that is exact when run in chunks: what a chunk needs of the past is kept in a cache.

Layout inside these layers is channels last, (B, t, h, w, D): linear layers, norms and depth-wise convolution
all read it without a copy.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

Cache = dict[nn.Module, Tensor]  # for each causal layer the last frames it saw


class CausalConv(nn.Module):
    """Depth-wise causal convolution, factorised: `time_kernel` taps in time, then `space_kernel` squared in space.

    Depth-wise conv3d is bound by memory on a CPU (its backward runs at a few GFLOP/s); the two factors are four
    times faster and leave the mixing of channels to the matrix products around them.

    Args:
        width: D, the number of channels.
        time_kernel: taps in time; the output at frame t sees frames t - time_kernel + 1 .. t.
        space_kernel: odd side of the kernel in space.
    """

    def __init__(self, width: int, time_kernel: int = 3, space_kernel: int = 3) -> None:
        super().__init__()
        self.past = time_kernel - 1
        self.time = nn.Parameter(nn.init.normal_(torch.empty(time_kernel, width), std=time_kernel**-0.5))
        self.space = nn.Conv2d(width, width, space_kernel, padding=space_kernel // 2, groups=width)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """(B, t, h, w, D) to the same shape; with a cache, `x` continues what the cache saw."""
        b, t, h, w, d = x.shape
        before = None if cache is None else cache.get(self)
        if before is None:
            before = x.new_zeros(b, self.past, h, w, d)
        seen = torch.cat([before, x], dim=1)  # (B, past + t, h, w, D)
        if cache is not None:
            cache[self] = seen[:, seen.shape[1] - self.past :]
        x = _taps(seen, self.time.to(x.dtype), t)
        x = self.space(x.reshape(b * t, h, w, d).permute(0, 3, 1, 2))  # (B t, D, h, w)
        return x.permute(0, 2, 3, 1).reshape(b, t, h, w, d)


def _taps(seen: Tensor, taps: Tensor, frames: int) -> Tensor:
    total = seen[:, :frames] * taps[0]
    for i in range(1, len(taps)):
        total = torch.addcmul(total, seen[:, i : i + frames], taps[i])
    return total


class GatedMLP(nn.Module):
    """SwiGLU (Shazeer 2020): `down(silu(gate(x)) * up(x))`, the gate and up projections as one matrix."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, dim=-1)
        out: Tensor = self.down(F.silu(gate) * value)
        return out


class ConvBlock(nn.Module):
    """`x + conv(norm(x))`, then `x + mlp(norm(x))`, on (B, t, h, w, D)."""

    def __init__(self, width: int, expansion: float, time_kernel: int = 3) -> None:
        super().__init__()
        self.conv_norm = nn.LayerNorm(width, bias=False)
        self.conv = CausalConv(width, time_kernel)
        self.mlp_norm = nn.LayerNorm(width, bias=False)
        self.mlp = GatedMLP(width, int(width * expansion))
        for last in (self.mlp.down.weight, *self.conv.space.parameters()):
            nn.init.zeros_(last)  # a block starts as the identity

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        x = x + self.conv(self.conv_norm(x), cache)
        x = x + self.mlp(self.mlp_norm(x))
        return x


class Trunk(nn.Module):
    """A stack of blocks. No norm follows: the linear path from patches to latents and back stays open."""

    gradient_checkpointing = False

    def __init__(self, width: int, blocks: int, expansion: float, time_kernel: int = 3) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ConvBlock(width, expansion, time_kernel) for _ in range(blocks))

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        for block in self.blocks:
            if self.gradient_checkpointing and cache is None and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x, cache)
        return x
