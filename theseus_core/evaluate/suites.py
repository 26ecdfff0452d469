"""The prompts that a model is tried with: drawn from the procedural world by a seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from theseus_core import world
from theseus_core.errors import TheseusError, nearest
from theseus_core.model_folder import describe, find_model
from theseus_core.world.description import Description, shows

SUITES = {"shapes": "shapes", "scenes": "nature"}  # by the names of the world's groups
STATED = {"shapes": {"shape", "colour", "motion"}, "scenes": set[str]()}  # what every prompt of a suite says
ATTEMPTS = 100_000  # the rarest shape, colour and motion together are one clip in some thousands

Fits = Callable[[Description], bool]


@dataclass(frozen=True)
class Prompt:
    """Words to try a model with.

    Attributes:
        name: of its video file.
        text: the prompt.
        asked: what the text says, and no more.
        clip: a clip of the world that the text is true of.
        seed: of the noise.
        held_out: whether it asks for what the model was never shown.
    """

    name: str
    text: str
    asked: Description
    clip: Description
    seed: int
    held_out: bool = False


@dataclass(frozen=True)
class Suite:
    """Prompts, and what they were drawn by.

    Attributes:
        name: "shapes" or "scenes".
        hold_out: what the prompts with `held_out` ask for, and the others never.
        objects: shapes in a clip, 1 or 2; None for either.
    """

    name: str
    seed: int
    hold_out: tuple[str, ...]
    objects: int | None
    prompts: tuple[Prompt, ...]


def draw_suite(name: str, clips: int = 200, seed: int = 0, hold_out: Sequence[str] = (), objects: int | None = None) -> Suite:
    """Draw a suite; the same arguments give the same prompts, and more clips the same ones and others after them.

    Args:
        name: "shapes" or "scenes".
        clips: prompts for what may be seen in training, and as many for what is held out, if anything is; of scenes each kind
            equally often, so up to one more of each kind.
        hold_out: what a training never shows, in words.
        objects: shapes in a clip, 1 or 2; None for as many as the world shows.

    Raises:
        TheseusError: no such suite, or what is held out is nothing that the suite could show.
    """
    if name not in SUITES:
        raise TheseusError(f"no such suite: {name}", hint=nearest(name, sorted(SUITES)))
    if name != "shapes" and objects:
        raise TheseusError(f"only of shapes a number can be asked for: {objects}", hint="leave out --objects")
    held = [(text, world.wanted(text)) for text in hold_out]
    for text, asked in held:
        if asked.kind not in _kinds(name):
            raise TheseusError(f"nothing that the suite {name} shows is: {text}", hint="name another suite, or hold out another")
    prompts = [*_seen(name, clips, seed, [asked for _, asked in held], objects), *_held_out(name, clips, seed, held, objects)]
    return Suite(name, seed, tuple(hold_out), objects, tuple(prompts))


def held_out_of(model: str, suite: str) -> list[str]:
    """What the training of a model never showed, as far as the model says so and the suite could show it."""
    tree: Any = describe(find_model(model))
    for key in ("made_by", "settings", "world", "hold_out"):
        tree = tree.get(key) if isinstance(tree, dict) else None
    return [text for text in tree or () if world.wanted(text).kind in _kinds(suite)]


def _kinds(suite: str) -> tuple[str, ...]:
    return world.GROUPS[SUITES[suite]].kinds


def _seen(suite: str, clips: int, seed: int, held: Sequence[Description], objects: int | None) -> Iterator[Prompt]:
    group = world.GROUPS[SUITES[suite]]
    kinds = [kind for kind in group.kinds if not any(asked.kind == kind and not asked.attributes for asked in held)]
    if not kinds:
        raise TheseusError(f"everything is held out of the suite: {suite}", hint="hold out less")

    def fits(clip: Description) -> bool:
        return _has(clip, objects) and not any(asked.kind == clip.kind and group.shows(clip, asked) for asked in held)

    for number in range(-(-clips // len(kinds)) * len(kinds)):
        random = Random(f"seen {suite} {seed} {number}")
        clip = _draw(suite, kinds[number % len(kinds)], random, fits, "what is not held out")
        yield Prompt(f"seen-{number:04d}", *_said(suite, clip, random), clip, seed + number)


def _held_out(suite: str, clips: int, seed: int, held: Sequence[tuple[str, Description]], objects: int | None) -> Iterator[Prompt]:
    for number in range(clips if held else 0):
        text, asked = held[number % len(held)]

        def fits(clip: Description, asked: Description = asked) -> bool:
            return _has(clip, objects) and shows(clip, asked)

        random = Random(f"held out {suite} {seed} {number}")
        clip = _draw(suite, asked.kind, random, fits, text)
        yield Prompt(f"held-out-{number:04d}", *_said(suite, clip, random, asked), clip, seed + number, held_out=True)


def _draw(suite: str, kind: str, random: Random, fits: Fits, what: str) -> Description:
    sample = world.GROUPS[SUITES[suite]].sample
    for _ in range(ATTEMPTS):
        clip = Description(kind, sample(kind, random), random.getrandbits(62))
        if fits(clip):
            return clip
    raise TheseusError(f"none of {ATTEMPTS:,} clips of {kind} shows: {what}", hint="hold out something less particular")


def _has(clip: Description, objects: int | None) -> bool:
    return objects is None or objects == (2 if "relation" in clip.attributes else 1)


def _said(suite: str, clip: Description, random: Random, held: Description | None = None) -> tuple[str, Description]:
    """A caption that says all that the suite wants said, and what is held out, with what it says."""
    for _ in range(ATTEMPTS):
        text = world.caption(clip, random.getrandbits(40))
        asked = world.parse(text)
        if asked is None or not shows(clip, asked):
            continue
        if asked.attributes.keys() >= STATED[suite] and (held is None or shows(asked, held)):
            return text, asked
    raise TheseusError(f"no caption of {clip.kind} says: {held}", hint="hold out something that captions say")
