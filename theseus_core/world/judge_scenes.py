"""Whether a clip shows a scene: by the properties that define the scene, measured from pixels alone.

A clip shows a scene where three things hold. It has the properties that a person would name (`scene_properties`): it moves, what
is in the middle of a waterfall flows down, a sunset gets darker, a pendulum comes back; their bounds are wide. It looks more like
this scene than like any other, or like noise, blobs of colour, shapes or a still picture (`scene_looks`). And it does not lie much
further from the scene's own clips than one does that is right but soft, compressed and a little restless.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from theseus_core.world import scene_looks
from theseus_core.world.scene_measures import measures
from theseus_core.world.scene_properties import ALWAYS, PROPERTIES


def judge(video: Tensor) -> dict[str, float]:
    """The share of every scene's properties that a clip (3, T, H, W) in [-1, 1] has: 1 where it shows the scene.

    Args:
        video: of about 17 frames; in far fewer what is periodic has no time to come back.
    """
    measured = measures(video)
    place, nearest = _looks(measured)
    shares = {}
    for name in PROPERTIES:
        held = [holds for holds, _ in _properties(measured, place, nearest, name)]
        shares[name] = sum(held) / len(held)
    return shares


def is_scene(video: Tensor, name: str) -> bool:
    """Whether a clip (3, T, H, W) in [-1, 1] has every property of a scene."""
    return not missing(video, name)


def missing(video: Tensor, name: str) -> list[str]:
    """The properties of a scene that a clip lacks, with what was measured and what would be right."""
    measured = measures(video)
    return [lack for holds, lack in _properties(measured, *_looks(measured), name) if not holds]


def _looks(measured: Mapping[str, float]) -> tuple[Tensor, str]:
    """Where a clip lies among the looks of scenes, and the nearest one."""
    looks = scene_looks.read()
    place = looks.of(measured)
    return place, looks.nearest(place)


def _properties(measured: Mapping[str, float], place: Tensor, nearest: str, name: str) -> Iterator[tuple[bool, str]]:
    """Whether a clip has each property of a scene, and what to say where it has not."""
    for key, (low, high) in (ALWAYS | PROPERTIES[name]).items():
        yield low <= measured[key] <= high, f"{key}: {measured[key]:.3g} is not within {low:.3g} and {high:.3g}"
    yield nearest == name, f"looks most like: {nearest}"
    look = scene_looks.read().known[name]
    distance = float(look.distance(place))
    yield distance <= look.reach, f"distance from its clips: {distance:.3g} is not below {look.reach:.3g}"
