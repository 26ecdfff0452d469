"""The procedural world: captioned clips drawn from nothing but a seed, as many as a training asks for.

`sample` decides what a clip shows, `render` draws it, `caption` says it, and `parse` reads a text back. To read the code in order:
`description`, `canvas`, then a group of kinds: `shapes` with its `grammar` and its `judge_shapes`, or `scenes`, which stand on
`scene_stage` and `scene_land`, with `scene_captions` and `judge_scenes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import torch
from torch import Tensor

from theseus_core.device import full_precision
from theseus_core.errors import TheseusError, nearest
from theseus_core.world import scenes, shapes
from theseus_core.world.description import Description, Group

__all__ = ["GROUPS", "Description", "caption", "kinds_of", "parse", "render", "sample", "wanted"]

GROUPS: dict[str, Group] = {  # asked in this order what a text means: plain words (star, ring) come last
    "nature": scenes.GROUP,
    "shapes": shapes.GROUP,
}
AT_ONCE = 4  # clips drawn together on a CPU: more only spill over its caches
ATTEMPTS, PATIENCE = 2000, 1000  # after so many what is asked for is no longer left to chance


def kinds_of(names: Sequence[str]) -> tuple[str, ...]:
    """Kinds of clips by their own names or by their group's, each once.

    Raises:
        TheseusError: there is no such kind or group.
    """
    known: dict[str, tuple[str, ...]] = {kind: (kind,) for group in GROUPS.values() for kind in group.kinds}
    known |= {name: group.kinds for name, group in GROUPS.items()}
    for name in names:
        if name not in known:
            raise TheseusError(f"no such scenes: {name}", hint=nearest(name, sorted(known)))
    return tuple(dict.fromkeys(kind for name in names for kind in known[name]))


def wanted(text: str) -> Description:
    """What a text asks for.

    Raises:
        TheseusError: nothing that the world knows.
    """
    found = parse(text)
    if found is None:
        raise TheseusError(f"the world has nothing like: {text}", hint="for example: circle moving up-right")
    return found


def sample(
    seed: int,
    kinds: Sequence[str] = ("shapes",),
    hold_out: Sequence[Description] = (),
    only: Sequence[Description] = (),
) -> Description:
    """A random clip, a function of the arguments alone.

    Args:
        kinds: what to choose from, each kind as often as any other; where `only` is given, of those that it names.
        hold_out: no clip that shows one of these is ever drawn.
        only: where there are any, every clip shows one of these.

    Raises:
        TheseusError: nothing is left.
    """
    some = [kind for kind in kinds if not only or any(asked.kind == kind for asked in only)]
    for attempt in range(ATTEMPTS if some else 0):
        random = Random(f"sample {seed} {attempt}")
        kind = random.choice(some)
        attributes = _group(kind).sample(kind, random)
        if only and attempt >= PATIENCE:
            attributes |= random.choice([asked.attributes for asked in only if asked.kind == kind])
            if not _group(kind).possible(kind, attributes):
                continue
        clip = Description(kind, attributes, random.getrandbits(62))
        if not _shows(clip, hold_out) and (not only or _shows(clip, only)):
            return clip
    raise TheseusError(f"nothing is left of: {', '.join(kinds)}", hint="hold out less, or ask for what these scenes show")


def render(descriptions: Sequence[Description], frames: int, height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Draw clips: (B, 3, T, H, W) float in [-1, 1]. A clip is the same whatever else is in the batch."""
    device = torch.device(device)
    video = torch.empty(len(descriptions), 3, frames, height, width, device=device)
    for group in GROUPS.values():
        places = [place for place, clip in enumerate(descriptions) if clip.kind in group.kinds]
        at_once = AT_ONCE if device.type == "cpu" else len(places)
        for start in range(0, len(places), max(1, at_once)):
            chosen = places[start : start + at_once]
            with full_precision(device):  # a training may be around this, and half precision draws steps
                drawn = group.render([descriptions[place] for place in chosen], frames, height, width, device)
            for place, picture in zip(chosen, drawn, strict=True):  # indexing by places would be several times slower
                torch.sub(picture * 2, 1, out=video[place])
    return video


def caption(description: Description, seed: int) -> str:
    """A sentence about a clip; another seed may word it otherwise, or say more or less."""
    return _group(description.kind).caption(description, Random(f"caption {seed}"))


def parse(text: str) -> Description | None:
    """What a text asks for, with only the attributes that it mentions; None where it asks for nothing of this world."""
    return next((reading for group in GROUPS.values() if (reading := group.parse(text)) is not None), None)


def _shows(clip: Description, any_of: Sequence[Description]) -> bool:
    return any(asked.kind == clip.kind and _group(clip.kind).shows(clip, asked) for asked in any_of)


def _group(kind: str) -> Group:
    return next(group for group in GROUPS.values() if kind in group.kinds)
