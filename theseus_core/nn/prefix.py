"""Attention over words and what is written behind them, with room for the keys and values of all that will come.

The words see one another and nothing else, so what they are is computed once for a whole clip. What stands behind sees the words
and either only what is before it (causal), or everything.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from theseus_core.nn.attention import QUERIES_AT_ONCE, Rotation, rotate
from theseus_core.nn.causal import GatedMLP

FEW = 2048  # keys; the scores of more are not kept


class RMSNorm(nn.RMSNorm):
    """The layer of torch, in the precision of what comes: its fused kernel takes one precision alone."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.weight is not None
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class Room:
    """The keys and values of one layer (B, G, `length`, K), allocated once and written in place."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.kept: Tensor | None = None  # (2, B, G, length, K)

    def write(self, start: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put keys and values (B, G, S, K) at `start`; gives those of all places up to their end."""
        end = start + keys.shape[2]
        if self.kept is None:
            b, g, _, k = keys.shape
            self.kept = keys.new_zeros(2, b, g, self.length, k)
        self.kept[0, :, :, start:end], self.kept[1, :, :, start:end] = keys, values
        return self.kept[0, :, :, :end], self.kept[1, :, :, :end]


class PrefixAttention(nn.Module):
    """Multi-head self-attention behind a prefix; queries and keys of each head are normalised before the rotation.

    Args:
        width: D.
        heads: G; K = D / G values a head.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.query_norm = RMSNorm(width // heads, eps=1e-6)
        self.key_norm = RMSNorm(width // heads, eps=1e-6)
        self.out = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.out.weight)  # a block starts as the identity

    def forward(
        self, x: Tensor, turns: tuple[Rotation, Rotation], mask: Tensor, prefix: int, causal: bool, room: Room | None, start: int
    ) -> Tensor:
        """(B, S, D) to the same.

        Args:
            turns: the rotations (S, K) of the queries and of the keys.
            mask: (B, all places) True where a place may be looked at.
            prefix: L, the words.
            room: holds what was before `start`; without it, `x` is everything.
        """
        b, s, d = x.shape
        q, k, v = self.qkv(x).view(b, s, 3, self.heads, d // self.heads).unbind(2)  # each (B, S, G, K)
        q, k = rotate(self.query_norm(q), turns[0]).to(v.dtype), rotate(self.key_norm(k), turns[1]).to(v.dtype)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # (B, G, S, K)
        if room is not None:
            k, v = room.write(start, k, v)
        y = attend_behind(q, k, v, mask[:, : k.shape[2]], prefix, causal)
        out: Tensor = self.out(y.transpose(1, 2).reshape(b, s, d))
        return out


class PrefixBlock(nn.Module):
    """A pre-norm transformer block behind a prefix."""

    gradient_checkpointing = False

    def __init__(self, width: int, heads: int, expansion: float) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(width, eps=1e-6)
        self.attention = PrefixAttention(width, heads)
        self.mlp_norm = RMSNorm(width, eps=1e-6)
        self.mlp = GatedMLP(width, int(width * expansion))
        nn.init.zeros_(self.mlp.down.weight)

    def forward(
        self,
        x: Tensor,
        turns: tuple[Rotation, Rotation],
        mask: Tensor,
        prefix: int,
        causal: bool,
        room: Room | None = None,
        start: int = 0,
    ) -> Tensor:
        """See `PrefixAttention.forward`."""
        x = x + self.attention(self.attention_norm(x), turns, mask, prefix, causal, room, start)
        out: Tensor = x + self.mlp(self.mlp_norm(x))
        return out


def attend_behind(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, prefix: int, causal: bool) -> Tensor:
    """Attention of (B, G, S, K), the last S of all places, to keys and values (B, G, places, K).

    Args:
        mask: (B, places).
    """
    places, ahead = k.shape[2], k.shape[2] - q.shape[2]
    parts = []
    for begin, end in _blocks(ahead, places, prefix):
        within = end <= prefix
        seen = prefix if within else end if causal else places
        visible = mask[:, None, :seen]  # (B, 1, seen)
        if causal and not within and end - begin > 1:
            later = torch.arange(seen, device=q.device) > torch.arange(begin, end, device=q.device)[:, None]
            visible = visible & ~later
        parts.append(_attend(q[:, :, begin - ahead : end - ahead], k[:, :, :seen], v[:, :, :seen], visible))
    return torch.cat(parts, dim=2)


def _blocks(begin: int, end: int, prefix: int) -> Iterator[tuple[int, int]]:
    """The places from `begin` to `end` in blocks that memory has room for, each before the end of the prefix or behind it."""
    while begin < end:
        stop = min(end, begin + QUERIES_AT_ONCE, prefix if begin < prefix else end)
        yield begin, stop
        begin = stop


def _attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """On a CPU two matrix products are faster than the fused kernel, backward included, as long as their scores find room."""
    visible = visible[:, None]  # (B, 1, 1 or S, seen)
    if q.device.type != "cpu" or k.shape[2] > FEW:
        return F.scaled_dot_product_attention(q, k, v, visible)
    scores = ((q * q.shape[-1] ** -0.5) @ k.transpose(2, 3)).masked_fill(~visible, -torch.inf)
    out: Tensor = scores.softmax(dim=-1, dtype=q.dtype) @ v
    return out
