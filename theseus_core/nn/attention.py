"""Attention over (B, S, D) with normalised queries and keys, rotary positions and a mask of what is real."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from theseus_core.device import in_doubles


class Attention(nn.Module):
    """Multi-head self-attention; queries and keys of each head pass a LayerNorm (Henry et al. 2020) before the rotation.

    Args:
        width: D.
        heads: G; K = D / G values a head.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.query_norm = nn.LayerNorm(width // heads, eps=1e-6)
        self.key_norm = nn.LayerNorm(width // heads, eps=1e-6)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, rotation: Rotation | None = None, mask: Tensor | None = None, spare: int = 0) -> Tensor:
        """(B, S, D) to the same; `mask` (B, S) is True where a token may be looked at.

        Args:
            spare: so many tokens at the end are none, and only fill the rows of a matrix; see `spare_rows`.
        """
        b, s, d = x.shape
        qkv = self.qkv(x).view(b, s, 3, self.heads, d // self.heads)[:, : s - spare]
        q, k, v = qkv.unbind(2)  # each (B, S - spare, G, K)
        q, k = self.query_norm(q), self.key_norm(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        y = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask)  # (B, G, S - spare, K)
        y = y.transpose(1, 2).flatten(2)
        out: Tensor = self.out(F.pad(y, (0, 0, 0, spare)) if spare else y)  # (B, S, D)
        return out


ROWS = 4


def spare_rows(x: Tensor, tokens: int) -> int:
    """How many rows of nothing to put behind so many tokens like x, for the sake of speed.

    On a CPU a product of bf16 matrices runs in tiles of rows, and is a fifth slower where the rows do not divide well: 802 do not.
    """
    fast = x.device.type == "cpu" and x.dtype == torch.bfloat16 and not torch.is_grad_enabled()
    return -tokens % ROWS if fast else 0


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(K)) v on (B, G, S, K), keys where `mask` (B, S) is False left out."""
    k, v = k.to(q.dtype), v.to(q.dtype)
    in_loops = mask is None and q.shape[2] >= TOKENS_BY_HEAD and not torch.compiler.is_compiling()  # a compiler would unroll them
    if q.device.type == "cpu" and in_loops and not torch.is_grad_enabled():
        return _attend_by_head(q, k, v)
    if q.device.type == "cpu":
        return torch.cat([_attend_dense(part, k, v, mask) for part in torch.split(q, QUERIES_AT_ONCE, dim=2)], dim=2)
    return F.scaled_dot_product_attention(q, k, v, None if mask is None else mask[:, None, None, :])


QUERIES_AT_ONCE = 512
TOKENS_BY_HEAD = 256  # from here on the products of one head are worth a call of their own
QUERIES_OF_A_HEAD = 1024  # in a call: with fewer the calls cost more, with more the memory does


def _attend_by_head(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention one head and one block of queries at a time: of short clips the scores never leave the cache."""
    b, g, s, d = q.shape
    out = q.new_empty(b, s, g, d).transpose(1, 2)  # heads side by side, as the next layer reads them
    q, k, v = (part.contiguous() for part in (q * d**-0.5, k.transpose(2, 3), v))
    for i in range(b):
        for j in range(g):
            for rows, into in zip(*(torch.split(each[i, j], QUERIES_OF_A_HEAD) for each in (q, out)), strict=True):
                into.copy_((rows @ k[i, j]).softmax(dim=-1) @ v[i, j])
    return out


def _attend_dense(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention as two batched matrix products: on a CPU three times as fast as the fused kernel, backward included."""
    b, g, s, d = q.shape
    bias = q.new_zeros(b * g, 1, k.shape[2])
    if mask is not None:
        bias = bias.view(b, g, 1, -1).masked_fill(~mask[:, None, None, :], -torch.inf).flatten(0, 1)
    q, k, v = (part.reshape(b * g, -1, d) for part in (q * d**-0.5, k, v))
    scores = torch.baddbmm(bias, q, k.transpose(1, 2))  # (B G, S, S)
    return torch.bmm(scores.softmax(dim=-1, dtype=q.dtype), v).view(b, g, s, d)


Rotation = tuple[Tensor, Tensor]  # cosine and sine, (S, K) each


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn pairs of neighbouring values of (B, S, G, K) by the angles of their position (Su et al. 2021)."""
    cos, sin = (part.to(x.dtype).unsqueeze(1) for part in rotation)  # (S, 1, K)
    turned = torch.stack([-x[..., 1::2], x[..., 0::2]], dim=-1).flatten(-2)
    return x * cos + turned * sin


def rotary_3d(t: int, h: int, w: int, width: int, device: torch.device, base: float = 10_000.0) -> Rotation:
    """Rotary tables (t h w, K) of a grid: a quarter of the values turn with time, three eighths with each side, as in CogVideoX.

    Args:
        width: K, a multiple of 16.
    """
    times, rows, columns = (torch.arange(size, device=in_doubles(device), dtype=torch.float64) for size in (t, h, w))
    cos, sin = rotary_at(times, rows, columns, width, base)
    return cos.to(device), sin.to(device)


def rotary_at(times: Tensor, rows: Tensor, columns: Tensor, width: int, base: float = 10_000.0) -> Rotation:
    """`rotary_3d` with the places of the grid along each axis, (t,), (h,) and (w,) in double precision."""
    shape = (len(times), len(rows), len(columns))
    parts = []
    for axis, (places, dim) in enumerate(((times, width // 4), (rows, width * 3 // 8), (columns, width * 3 // 8))):
        frequency = base ** (-torch.arange(0, dim, 2, device=places.device, dtype=torch.float64) / dim)
        angle = (places[:, None] * frequency).repeat_interleave(2, dim=-1)  # (size, dim)
        along = [1, 1, 1, dim]
        along[axis] = len(places)
        parts.append(angle.view(along).expand(*shape, dim))
    angles = torch.cat(parts, dim=-1).reshape(-1, width)
    return angles.cos().float(), angles.sin().float()


def unrotated(count: int, rotation: Rotation) -> Rotation:
    """The tables with `count` positions before them that are not turned: text tokens in a joint sequence."""
    cos, sin = rotation
    return torch.cat([cos.new_ones(count, cos.shape[1]), cos]), torch.cat([sin.new_zeros(count, sin.shape[1]), sin])
