"""Fits `theseus_core/world/scene_looks.json`: how each scene looks to the judge.

    python -m benchmarks.scene_looks --clips 120
    python -m benchmarks.scene_looks --clips 120 --only windmill      # which is drawn otherwise now; the axes stay

Every clip is measured three times: as it is drawn; through H.264 or softened; and as a small model might have made it, soft by a
chance amount in space and time, restless, and compressed or not.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

from theseus_core import world
from theseus_core.data.clip import Clip
from theseus_core.render.video import read, write
from theseus_core.world import scene_looks, scenes
from theseus_core.world.description import Description
from theseus_core.world.scene_looks import Look, Looks
from theseus_core.world.scene_measures import measures

FRAMES, SIZE = 17, 128
IMPOSTORS = ("noise", "blobs of colour", "shapes", "a still picture")
AXES = len(scenes.SCENES) + len(IMPOSTORS) - 1  # more would carry no difference between them
ALONE = 0.4  # how far measures count as independent of each other, and of the scenes' own spread
ROOM = 2.0  # how much further than nearly all of a scene's own clips a clip may lie


def clip_of(kind: str, number: int) -> Description:
    random = Random(f"{kind} {number}")
    return Description(kind, scenes.sample(kind, random), random.getrandbits(62))


def drawn(clip: Description) -> Tensor:
    """(3, T, H, W) in [0, 1], in 8 bits."""
    return (scenes.render([clip], FRAMES, SIZE, SIZE, torch.device("cpu"))[0] * 255).round() / 255


def compressed(video: Tensor) -> Tensor:
    frames = (video * 255).round().byte().permute(1, 2, 3, 0).contiguous().numpy()
    with tempfile.TemporaryDirectory() as folder:
        path = write(Clip(frames, 8.0), Path(folder) / "clip.mp4")
        return torch.from_numpy(read(path, len(frames)).frames.copy()).permute(3, 0, 1, 2).float() / 255


def softened(video: Tensor, factor: float) -> Tensor:
    """With the detail of a clip smaller by a factor, and the light ringing of cubic interpolation."""
    small = F.interpolate(video.transpose(0, 1), round(SIZE / factor), mode="area")
    return F.interpolate(small, SIZE, mode="bicubic").transpose(0, 1).clamp(0, 1)


def worn(video: Tensor, random: Random) -> Tensor:
    """As a small model might have made it: soft in space and in time, restless and grainy, by chance amounts."""
    generator = torch.Generator().manual_seed(random.getrandbits(40))
    video = softened(video, random.uniform(1.5, 3.4))
    share = random.choice((0, 0.08, 0.16))
    before, after = torch.cat((video[:, :1], video[:, :-1]), 1), torch.cat((video[:, 1:], video[:, -1:]), 1)
    video = (1 - 2 * share) * video + share * (before + after)
    restless = F.interpolate(torch.randn(FRAMES, 3, 32, 32, generator=generator), SIZE, mode="bilinear").transpose(0, 1)
    grain = torch.randn(video.shape, generator=generator)
    return (video + random.uniform(0, 0.025) * restless + random.uniform(0, 0.015) * grain).clamp(0, 1)


def ways(video: Tensor, number: int) -> list[Tensor]:
    """A clip as it is drawn and in two other states, which change from one number to the next."""
    other = compressed(video) if number % 2 else softened(video, 2 + number % 4 * 0.4)
    old = worn(video, Random(number))
    return [video, other, compressed(old) if number % 3 == 0 else old]


def impostor(kind: str, random: Random) -> Tensor:
    """What is no scene: (3, T, H, W) in [0, 1]."""
    generator = torch.Generator().manual_seed(random.getrandbits(40))
    if kind == "a still picture":
        frame = drawn(clip_of(random.choice(list(scenes.SCENES)), random.getrandbits(40)))[:, 8:9]
        grain = random.choice((0, 0.005, 0.02)) * torch.randn(3, FRAMES, SIZE, SIZE, generator=generator)
        return softened((frame + grain).clamp(0, 1), random.uniform(1, 3))
    if kind == "shapes":
        return softened(world.render([world.sample(random.getrandbits(40))], FRAMES, SIZE, SIZE)[0] / 2 + 0.5, random.uniform(1, 3))
    channels, middle, strength = random.choice((1, 3)), random.uniform(0.2, 0.8), random.uniform(0.1, 1.0)
    if kind == "noise":
        field = torch.randn(1, channels, FRAMES, SIZE, SIZE, generator=generator)
        size, lasting = random.choice((1, 3, 7, 15)), random.choice((1, 3))
        field = F.avg_pool3d(field, (lasting, size, size), 1, (lasting // 2, size // 2, size // 2))
    else:
        cells = random.randint(3, 12)
        field = torch.randn(1, channels, random.randint(2, 9), cells, cells, generator=generator)
        field = F.interpolate(field, (FRAMES, SIZE, SIZE), mode="trilinear")
    return (middle + strength * field[0] / field.std()).clamp(0, 1).expand(3, -1, -1, -1)


def measured(kind: str, count: int) -> list[dict[str, float]]:
    """What is measured in clips of a scene in all their states, or in as many impostors."""
    if kind in IMPOSTORS:
        random = Random(kind)
        return [measures(impostor(kind, random) * 2 - 1) for _ in range(3 * count)]
    return [measures(video * 2 - 1) for number in range(count) for video in ways(drawn(clip_of(kind, number)), number)]


def fitted(names: tuple[str, ...], clips: Mapping[str, Tensor]) -> Looks:
    """The looks of scenes and impostors.

    Args:
        names: of the F measures.
        clips: for each of them, what was measured of its clips, (clips, F).
    """
    together = torch.cat(list(clips.values())).double()
    mean, deviation = together.mean(0), together.std(0) + 1e-6
    standard = {kind: (rows.double() - mean) / deviation for kind, rows in clips.items()}
    axes = _axes(standard)
    return Looks(names, mean, deviation, axes, {kind: _look(rows @ axes) for kind, rows in standard.items()})


def refitted(looks: Looks, clips: Mapping[str, Tensor]) -> Looks:
    """Looks with those of some scenes fitted anew to what was measured of their clips, (clips, F) in the order of `looks`."""
    return replace(looks, known={**looks.known, **{kind: _look(looks.place(rows)) for kind, rows in clips.items()}})


def _axes(standard: Mapping[str, Tensor]) -> Tensor:
    """The directions (F, D) in which the scenes' middles are furthest apart against the spread within the scenes."""
    middles = torch.stack([rows.mean(0) for rows in standard.values()])
    within = torch.cat([rows - rows.mean(0) for rows in standard.values()])
    root = torch.linalg.cholesky(_shrunk(within.T @ within / len(within)))
    apart = torch.linalg.solve_triangular(root, (middles - middles.mean(0)).T, upper=False)
    directions: Tensor = torch.linalg.svd(apart, full_matrices=False).U[:, :AXES]
    axes: Tensor = torch.linalg.solve_triangular(root.T, directions, upper=True)
    return axes


def _look(places: Tensor) -> Look:
    root = torch.linalg.cholesky(_shrunk(torch.cov(places.T)))
    whitening = torch.linalg.solve_triangular(root, torch.eye(len(root), dtype=root.dtype), upper=False)
    look = Look(places.mean(0), whitening, 0.0)
    return Look(look.middle, whitening, ROOM * float(look.distance(places).quantile(0.99)))


def _shrunk(covariance: Tensor) -> Tensor:
    """Drawn towards a multiple of one, as a covariance of many measures in few clips must be (Ledoit and Wolf 2004)."""
    even = covariance.diagonal().mean() * torch.eye(len(covariance), dtype=covariance.dtype)
    return torch.lerp(covariance, even, ALONE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=120, help="of every scene")
    parser.add_argument("--only", nargs="+", choices=(*scenes.SCENES, *IMPOSTORS), help="fit these anew, in the axes of all")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names: tuple[str, ...] = ()
    clips = {}
    for kind in arguments.only or (*scenes.SCENES, *IMPOSTORS):
        rows = measured(kind, arguments.clips)
        names = tuple(rows[0])
        clips[kind] = torch.tensor([list(row.values()) for row in rows])
        print(f"measured {arguments.clips} clips: {kind}", flush=True)
    before = scene_looks.read()
    if arguments.only and names != before.measures:
        raise SystemExit("other things are measured than the axes are of: fit all scenes, without --only")
    scene_looks.write(refitted(before, clips) if arguments.only else fitted(names, clips))
    print(f"written: {scene_looks.PATH}")


if __name__ == "__main__":
    main()
