"""From pixels to tracks: the background of a clip, and what stands out from it, followed from frame to frame."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor
from torch.nn import functional as F

from theseus_core.world import canvas

STANDS_OUT = 0.2  # distance in colour from the background, of 1.73 from black to white
SMALLEST, LARGEST = 0.002, 0.5  # of the frame; what is smaller is no thing, and where more stands out there is no background
MOST = 4  # parts of a frame that are looked at


@dataclass(frozen=True)
class Track:
    """One thing, followed through the clip. Places go from -1 to 1 over the frame, sizes are in halves of the shorter side.

    Attributes:
        cover: (T, H, W), from 0 to 1, how much of each pixel it covers.
        x, y: (T,), of its middle.
        size: (T,), the root of its area.
        colour: (3,), from 0 to 1.
    """

    cover: Tensor
    x: Tensor
    y: Tensor
    size: Tensor
    colour: Tensor


def background(video: Tensor) -> Tensor:
    """(3, H, W): the even gradient that most of the edge of the frame (3, T, H, W) is of, over all frames."""
    picture = video.median(1).values
    _, height, width = picture.shape
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    plane = torch.stack([torch.ones_like(x), x, y], -1).reshape(-1, 3)  # (H W, 3)
    pixels = picture.flatten(1).T  # (H W, 3)
    near = torch.maximum(x.abs(), y.abs()).flatten() > 0.9
    for share in (0.7, 0.9, 0.9):
        solution: Tensor = torch.linalg.lstsq(plane[near], pixels[near]).solution
        away = (pixels - plane @ solution).norm(dim=1)
        near = away <= torch.quantile(away[near], share).clamp(min=0.03)
    return (plane @ solution).T.view(3, height, width)


def follow(video: Tensor, ground: Tensor) -> list[Track]:
    """The things that stand out from the background in nearly every frame of a clip (3, T, H, W), the largest first."""
    away = (video - ground.unsqueeze(1)).norm(dim=0)  # (T, H, W)
    if (away > STANDS_OUT).float().mean() > LARGEST:
        return []
    labels, ids = _parts(away)
    counts = (ids > 0).sum(1)
    number = int(counts.mode().values)
    if number == 0 or number >= MOST or (counts == number).float().mean() < 0.85:
        return []
    tracks = [_track(video, ground, away, mask) for mask in _linked(labels, ids[:, :number])]
    return sorted(tracks, key=lambda track: -float(track.size.mean()))


def _parts(away: Tensor) -> tuple[Tensor, Tensor]:
    """Connected parts of each frame: their numbers (T, H, W), 0 for the background, and those of the largest (T, MOST) in order."""
    inside = (away > STANDS_OUT).float().unsqueeze(1)  # (T, 1, H, W)
    joined = F.max_pool2d(inside, 3, 1, 1)  # a codec leaves halos around a thing: they belong to it
    places = torch.arange(1, inside[0].numel() + 1).view(1, *inside.shape[1:]).float()
    labels, before = places * joined, torch.zeros_like(inside)
    while not torch.equal(labels, before):  # the highest number of a part floods all of it
        before = labels
        for _ in range(4):
            labels = F.max_pool2d(labels, 3, 1, 1) * joined
    labels = labels * inside
    counts = torch.zeros(len(away), inside[0].numel() + 1)
    counts.scatter_add_(1, labels.flatten(1).long(), inside.flatten(1))
    areas, ids = counts.topk(MOST, 1)
    return labels.long().squeeze(1), ids * (areas > SMALLEST * inside[0].numel())


def _linked(labels: Tensor, ids: Tensor) -> list[Tensor]:
    """The mask (T, H, W) of each thing: from frame to frame, parts go on in the way that moves them least.

    A frame that lacks a part has an empty mask of it.
    """
    masks = labels.unsqueeze(0) == ids.T.unsqueeze(-1).unsqueeze(-1)  # (O, T, H, W)
    masks &= labels.unsqueeze(0) > 0
    places = _middle(masks.float())  # (O, T, 2)
    orders = [list(order) for order in permutations(range(len(masks)))]
    linked, last = [masks[:, 0]], places[:, 0]
    for frame in range(1, masks.shape[1]):
        best = min(orders, key=lambda order: float((places[order, frame] - last).norm(dim=1).sum()))
        linked.append(masks[best, frame])
        last = places[best, frame]
    return list(torch.stack(linked, 1))


def _middle(weight: Tensor) -> Tensor:
    """(..., H, W) to (..., 2): x and y of the centre of gravity, from -1 to 1 over the frame."""
    height, width = weight.shape[-2:]
    x = (torch.arange(width) + 0.5) * 2 / width - 1
    y = (torch.arange(height) + 0.5) * 2 / height - 1
    total = weight.sum((-2, -1)).clamp(min=1e-6)
    return torch.stack([(weight.sum(-2) * x).sum(-1) / total, (weight.sum(-1) * y).sum(-1) / total], -1)


def _track(video: Tensor, ground: Tensor, away: Tensor, mask: Tensor) -> Track:
    """Measure a thing by how much of each pixel it covers: its edges count in part."""
    clear = mask & (away >= 0.9 * torch.quantile(away[mask], 0.95))  # pixels that it covers whole
    colour = video[:, clear].median(1).values
    around = F.max_pool2d(mask.float(), 5, 1, 2)
    contrast = colour.view(3, 1, 1) - ground  # (3, H, W)
    toward = ((video - ground.unsqueeze(1)) * contrast.unsqueeze(1)).sum(0) / contrast.square().sum(0).clamp(min=1e-3)
    cover = toward.clamp(0, 1) * around
    place = _middle(cover)
    area = cover.sum((-2, -1)) * canvas.pixel(*cover.shape[-2:]) ** 2
    return Track(cover, place[:, 0], place[:, 1], area.sqrt(), colour)
