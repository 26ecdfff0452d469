"""The scenes of the procedural world: their names, what can be chosen of each, and how clips of them are drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from theseus_core.world import scene_captions, scene_fire, scene_sky, scene_things, scene_water, scene_weather
from theseus_core.world.description import Description, Group, seeds, shows
from theseus_core.world.scene_land import SETTINGS, TIMES
from theseus_core.world.scene_stage import CAMERAS, Stage


@dataclass(frozen=True)
class Scene:
    """How a kind of clip is drawn.

    Attributes:
        draw: (stage, attributes) to a picture.
        options: the values of every attribute, the camera's moves among them.
    """

    draw: Callable[[Stage, Mapping[str, str]], Tensor]
    options: Mapping[str, tuple[str, ...]]


def _scene(draw: Callable[[Stage, Mapping[str, str]], Tensor], **options: tuple[str, ...]) -> Scene:
    return Scene(draw, {**options, "camera": options.get("camera", CAMERAS)})


SIDES = ("left", "right")
FORCE = ("weak", "strong")
NUMBER = ("few", "many")
PAINTS = tuple(scene_things.PAINTS)
WILD = ("forest", "mountains", "desert")

SCENES: dict[str, Scene] = {
    "waterfall": _scene(scene_water.waterfall, setting=WILD, time=TIMES, strength=FORCE),
    "river": _scene(scene_water.river, setting=WILD, time=TIMES, strength=("narrow", "wide")),
    "ocean waves": _scene(scene_water.ocean_waves, time=TIMES, strength=FORCE),
    "bubbles": _scene(scene_water.bubbles, colour=("blue", "green", "purple"), strength=NUMBER),
    "drifting clouds": _scene(scene_sky.drifting_clouds, setting=SETTINGS, time=("day", "dusk"), strength=NUMBER, direction=SIDES),
    "sunrise": _scene(scene_sky.sunrise, setting=SETTINGS),
    "sunset": _scene(scene_sky.sunset, setting=SETTINGS),
    "moon rising": _scene(scene_sky.moon_rising, setting=SETTINGS),
    "starry night": _scene(scene_sky.starry_night, setting=SETTINGS, strength=NUMBER),
    "shooting star": _scene(scene_sky.shooting_star, setting=SETTINGS, direction=SIDES),
    "aurora": _scene(scene_sky.aurora, setting=SETTINGS, strength=FORCE, colour=tuple(scene_sky.AURORAS)),
    "rain": _scene(scene_weather.rain, setting=SETTINGS, time=TIMES, strength=FORCE),
    "snow": _scene(scene_weather.snow, setting=("forest", "mountains", "city"), time=TIMES, strength=FORCE),
    "lightning storm": _scene(scene_weather.lightning, setting=SETTINGS),
    "falling leaves": _scene(scene_weather.falling_leaves, time=("day", "dusk"), strength=NUMBER),
    "grass in the wind": _scene(scene_weather.grass, setting=("forest", "mountains", "beach"), time=TIMES, strength=FORCE),
    "flower opening": _scene(scene_weather.flower, colour=tuple(scene_weather.FLOWERS)),
    "campfire": _scene(scene_fire.campfire, setting=WILD, time=("dusk", "night"), strength=("small", "big")),
    "candle": _scene(scene_fire.candle, colour=("white", "red", "blue", "green")),
    "smoke from a chimney": _scene(
        scene_fire.chimney_smoke, setting=("forest", "mountains"), time=TIMES, strength=("thin", "thick")
    ),
    "fireworks": _scene(scene_fire.fireworks, setting=SETTINGS, colour=tuple(scene_fire.ROCKETS), strength=NUMBER),
    "volcano": _scene(scene_fire.volcano, time=TIMES, strength=FORCE),
    "hot-air balloon": _scene(scene_things.balloon, setting=SETTINGS, time=("day", "dusk"), colour=PAINTS),
    "sailing boat": _scene(scene_things.sailing_boat, time=TIMES, colour=PAINTS, direction=SIDES),
    "bouncing ball": _scene(scene_things.bouncing_ball, colour=PAINTS),
    "pendulum": _scene(scene_things.pendulum, colour=PAINTS),
    "windmill": _scene(scene_things.windmill, setting=WILD, time=TIMES, strength=("slow", "fast")),
    "lighthouse": _scene(scene_things.lighthouse, time=("dusk", "night"), strength=("slow", "fast")),
}


def sample(kind: str, random: Random) -> dict[str, str]:
    """The attributes of a random clip of a scene."""
    return {name: random.choice(values) for name, values in SCENES[kind].options.items()}


def possible(kind: str, attributes: dict[str, str]) -> bool:
    """Whether these are all the attributes of a scene, each with a value that it may have."""
    options = SCENES[kind].options
    return attributes.keys() == options.keys() and all(value in options[name] for name, value in attributes.items())


def render(descriptions: Sequence[Description], frames: int, height: int, width: int, device: torch.device) -> Tensor:
    """Draw clips of scenes: (B, 3, T, H, W), colours from 0 to 1. Clips with the same attributes are drawn together."""
    video = torch.empty(len(descriptions), 3, frames, height, width, device=device)
    alike: dict[tuple[object, ...], list[int]] = {}
    for place, clip in enumerate(descriptions):
        alike.setdefault((clip.kind, *sorted(clip.attributes.items())), []).append(place)
    for places in alike.values():
        first = descriptions[places[0]]
        stage = Stage(seeds([descriptions[place] for place in places], device), frames, height, width, first.attributes["camera"])
        with device:  # colours are made on it
            video[places] = SCENES[first.kind].draw(stage, first.attributes).clamp(0, 1)
    return video


def parse(text: str) -> Description | None:
    """What a text asks for; None where it names no scene."""
    return scene_captions.parse(text, {name: scene.options for name, scene in SCENES.items()})


GROUP = Group(tuple(SCENES), sample, render, scene_captions.caption, parse, shows, possible)
