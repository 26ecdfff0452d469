"""How scenes look, learned from clips of the world: which scene a clip is most like, and how far it is from that scene's own clips.

Fisher's linear discriminant (1936) finds the few mixtures of measures that tell the scenes apart best; in them every scene is a
normal distribution, and so is what is no scene at all: noise, blobs of colour, shapes, a still picture. All of it is a closed form
of means and covariances, written by `python -m benchmarks.scene_looks`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from theseus_core.files import replacing

PATH = Path(__file__).with_suffix(".json")
DIGITS = 5  # that are written of a number


@dataclass(frozen=True)
class Look:
    """The normal distribution of a scene's clips, in D mixtures of measures.

    Attributes:
        middle: (D,).
        whitening: (D, D), lower triangular: what makes a clip's difference from the middle standard normal.
        reach: the distance within which a clip of the scene lies, with room for clips that a model made.
    """

    middle: Tensor
    whitening: Tensor
    reach: float

    def distance(self, place: Tensor) -> Tensor:
        """Of places (..., D), in standard deviations of all D together."""
        return ((place - self.middle) @ self.whitening.T).square().mean(-1).sqrt()

    def likelihood(self, place: Tensor) -> Tensor:
        """The logarithm of the density at places (..., D), but for a constant."""
        return self.whitening.diagonal().log().sum() - 0.5 * len(self.middle) * self.distance(place).square()


@dataclass(frozen=True)
class Looks:
    """The looks of all scenes, and of what a clip may show instead.

    Attributes:
        measures: the names of the F measures that are mixed.
        mean, deviation: theirs over all scenes, (F,).
        axes: (F, D).
        known: every scene's look, and those of what is none: noise, blobs of colour, shapes, a still picture.
    """

    measures: tuple[str, ...]
    mean: Tensor
    deviation: Tensor
    axes: Tensor
    known: Mapping[str, Look]

    def place(self, measured: Tensor) -> Tensor:
        """Where clips lie, (..., D), by their measures (..., F)."""
        return ((measured.double() - self.mean) / self.deviation) @ self.axes

    def of(self, measured: Mapping[str, float]) -> Tensor:
        """Where one clip lies, (D,)."""
        return self.place(torch.tensor([measured[name] for name in self.measures]))

    def nearest(self, place: Tensor) -> str:
        """What a clip at a place (D,) most likely shows."""
        return max(self.known, key=lambda name: float(self.known[name].likelihood(place)))


@cache
def read() -> Looks:
    """The looks that come with the package."""
    tree = json.loads(PATH.read_text())
    known = {
        name: Look(_tensor(look["middle"]), _triangle(look["whitening"]), look["reach"]) for name, look in tree["known"].items()
    }
    return Looks(tuple(tree["measures"]), _tensor(tree["mean"]), _tensor(tree["deviation"]), _tensor(tree["axes"]), known)


def write(looks: Looks) -> None:
    """Replace the looks that come with the package; `read` knows them in the next process."""
    tree = {
        "measures": looks.measures,
        "mean": _numbers(looks.mean),
        "deviation": _numbers(looks.deviation),
        "axes": [_numbers(row) for row in looks.axes],
        "known": {
            name: {
                "middle": _numbers(look.middle),
                "whitening": [_numbers(row[: place + 1]) for place, row in enumerate(look.whitening)],
                "reach": round(look.reach, 2),
            }
            for name, look in looks.known.items()
        },
    }
    with replacing(PATH) as part:
        part.write_text(json.dumps(tree, separators=(",", ":")) + "\n")


def _tensor(numbers: list[float] | list[list[float]]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def _triangle(rows: list[list[float]]) -> Tensor:
    return _tensor([[*row, *[0.0] * (len(rows) - len(row))] for row in rows])


def _numbers(values: Tensor) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values.tolist()]
