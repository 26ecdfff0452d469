"""Attention from video tokens to words."""

from __future__ import annotations

from torch import Tensor, nn

from theseus_core.nn.attention import attend
from theseus_core.nn.prefix import RMSNorm


class CrossAttention(nn.Module):
    """Multi-head attention of (B, S, D) to words (B, L, D); queries and keys of each head are normalised.

    Args:
        width: D.
        heads: G; K = D / G values a head.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.query_norm = RMSNorm(width // heads, eps=1e-6)
        self.key_norm = RMSNorm(width // heads, eps=1e-6)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, words: Tensor, mask: Tensor | None) -> Tensor:
        """(B, S, D) to the same; `mask` (B, L) is True where a word may be looked at, None where all may."""
        (b, s, d), k = x.shape, x.shape[2] // self.heads
        q = self.query_norm(self.query(x).view(b, s, self.heads, k))  # (B, S, G, K)
        keys, values = self.key_value(words).view(b, -1, 2, self.heads, k).unbind(2)  # each (B, L, G, K)
        keys = self.key_norm(keys)
        y = attend(q.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), mask)  # (B, G, S, K)
        out: Tensor = self.out(y.transpose(1, 2).reshape(b, s, d))
        return out
