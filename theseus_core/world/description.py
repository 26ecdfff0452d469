"""What a clip of the world shows, in words, and what a group of kinds has to offer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

import torch
from torch import Tensor


@dataclass(frozen=True)
class Description:
    """A clip of the world.

    Attributes:
        kind: "shapes", or the name of a scene.
        attributes: what words can say of it, as the kind names it: {"shape": "circle", "motion": "up-right", ...}. A description
            that was read from a text has only those which the text mentions.
        seed: decides the rest: places, sizes, shades, textures.
    """

    kind: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True)
class Group:
    """Kinds of clips that are drawn, described and read by the same functions.

    Attributes:
        kinds: their names.
        sample: the attributes of a random clip of a kind.
        render: (descriptions, frames, height, width, device) to pictures (B, 3, T, H, W), colours from 0 to 1.
        caption: a sentence that is true of a description; which one, and how much it says, is left to chance.
        parse: what a text asks for, None where it speaks of nothing that the group knows.
        shows: whether a clip (first) is one that a text (second) asks for.
        possible: whether `sample` may give these attributes for a kind.
    """

    kinds: tuple[str, ...]
    sample: Callable[[str, Random], dict[str, str]]
    render: Callable[[Sequence[Description], int, int, int, torch.device], Tensor]
    caption: Callable[[Description, Random], str]
    parse: Callable[[str], Description | None]
    shows: Callable[[Description, Description], bool]
    possible: Callable[[str, dict[str, str]], bool]


def shows(clip: Description, asked: Description) -> bool:
    """Whether a clip is of the kind and has every attribute that is asked for."""
    return clip.kind == asked.kind and asked.attributes.items() <= clip.attributes.items()


def seeds(descriptions: Sequence[Description], device: torch.device) -> Tensor:
    """(B,) int64, for `canvas.uniform`."""
    return torch.tensor([description.seed for description in descriptions], dtype=torch.int64, device=device)
