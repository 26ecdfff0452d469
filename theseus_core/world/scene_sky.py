"""Scenes of the sky: clouds, the sun and the moon on their way, stars, a shooting star, an aurora."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from theseus_core.world.scene_land import clouds, land, sky, starlight
from theseus_core.world.scene_stage import Stage, blend, lit, over, rgb, smoothstep

Asked = Mapping[str, str]  # a description's attributes

LOW = 0.8  # the horizon where the sky is what the scene is about
AURORAS = {"green": ("#38f59a", "#1c9c8a"), "purple": ("#c25cff", "#6a3cf0"), "green and purple": ("#3df58f", "#b04cf0")}


def drifting_clouds(stage: Stage, asked: Asked) -> Tensor:
    time = asked["time"]
    speed = stage.between("speed", 0.15, 0.2) * (1 if asked["direction"] == "right" else -1)
    amount = 0.7 if asked["strength"] == "many" else 0.42
    picture = clouds(stage, sky(stage, time, LOW), time, amount, speed, LOW)
    return land(stage, picture, asked["setting"], time, LOW)


def sunrise(stage: Stage, asked: Asked) -> Tensor:
    return _sun(stage, asked, stage.progress, ("#ff9a5a", "#ffd9a0"))


def sunset(stage: Stage, asked: Asked) -> Tensor:
    return _sun(stage, asked, 1 - stage.progress, ("#e8432a", "#ff9440"))


def _sun(stage: Stage, asked: Asked, height: Tensor, glow: tuple[str, str]) -> Tensor:
    """The sun between below the horizon (`height` 0) and well above it (1), and the light that goes with it."""
    horizon = 0.66
    cx, cy = stage.between("sun x", -0.2, 0.2), 0.72 - 0.5 * height
    up = smoothstep(0.0, 1.0, height).unsqueeze(1)
    y = stage.y(0.1) / horizon
    top, middle, low = (
        blend(rgb(a), rgb(b), up) for a, b in (("#10163a", "#4b7fc4"), ("#4a2a5c", "#e0a08a"), ("#b0402f", "#ffd08a"))
    )
    picture = blend(blend(top, middle, smoothstep(0.0, 0.7, y).unsqueeze(1)), low, smoothstep(0.5, 1.05, y).unsqueeze(1))
    picture = clouds(stage, picture, "dusk", 0.22, 0.015, horizon)
    picture = lit(picture, blend(rgb(glow[0]), rgb(glow[1]), up), 0.75 * stage.glow(cx, cy, 0.22, 0.1))
    picture = over(picture, blend(rgb(glow[1]), rgb("#fffbe6"), 0.3 + 0.7 * up), stage.disc(cx, cy, 0.085, 0.1, 0.012))
    setting = asked["setting"]
    ground = land(stage, picture, setting, "dusk", horizon)
    solid = smoothstep(0.01, 0.04, (ground - picture).abs().amax(1))  # where land was laid over the sky
    dark = ground * (0.28 + 0.72 * up)
    if setting == "beach":
        dark = lit(dark, rgb(glow[1]), _glitter(stage, cx, horizon) * (0.25 + 0.6 * up.squeeze(1)))
    return over(picture, dark, solid)


def _glitter(stage: Stage, cx: Tensor, horizon: float) -> Tensor:
    """The path of light on water below the sun or the moon, down to the shore."""
    x, y = stage.x(0.6), stage.y(0.6)
    depth = (y - horizon).clamp(min=0)
    sparkle = stage.fractal("glitter", x * 0.9 + 0.03 * stage.seconds, 2.2 * y - 0.12 * stage.seconds, 16, 3)
    path = torch.exp(-(((x - cx) / (0.07 + 0.4 * depth)) ** 2)) * smoothstep(0.0, 0.01, depth) * smoothstep(0.21, 0.17, depth)
    return path * (0.55 + 0.4 * sparkle).clamp(0, 1)


def moon_rising(stage: Stage, asked: Asked) -> Tensor:
    horizon = 0.66
    cx, cy = stage.between("moon x", -0.22, 0.22), 0.68 - 0.46 * stage.progress
    radius = 0.1
    picture = clouds(stage, sky(stage, "night", horizon), "night", 0.12, 0.02, horizon)
    picture = lit(picture, rgb("#8fa4d8"), 0.5 * stage.glow(cx, cy, 0.2, 0.1))
    x, y = stage.x(0.1) - cx, stage.y(0.1) - cy
    seas = smoothstep(-0.2, 1.2, stage.fractal("seas", x * 1.1 + 0.5, y * 1.1 + 0.5, 8, 4))
    face = blend(rgb("#fdfbee"), rgb("#c3c4c9"), 0.55 * seas.unsqueeze(1))
    picture = over(picture, face, stage.disc(cx, cy, radius, 0.1))
    picture = land(stage, picture, asked["setting"], "night", horizon)
    if asked["setting"] == "beach":
        picture = lit(picture, rgb("#d8def0"), 0.8 * _glitter(stage, cx, horizon) * smoothstep(0.1, 0.6, stage.progress))
    return picture


def starry_night(stage: Stage, asked: Asked) -> Tensor:
    many = asked["strength"] == "many"
    picture = sky(stage, "night", LOW, stars=False)
    x, y = stage.x(0.1), stage.y(0.1)
    tilt = stage.between("tilt", 0.5, 0.9) * stage.side("lean")
    band = torch.exp(-(((x * tilt + y - 0.4) / 0.16) ** 2)) if many else torch.zeros((), device=stage.device).view(1, 1, 1, 1)
    dust = 0.5 + 0.35 * stage.fractal("dust", x * 0.7, y * 0.7, 6, 5, 0.6)
    picture = lit(picture, rgb("#8a86c8"), (0.3 * band * dust).clamp(0, 1))
    picture = lit(picture, rgb("#f2f4ff"), starlight(stage, 330 if many else 150, 0.45))
    picture = lit(picture, rgb("#dfe8ff"), _brightest(stage, 18 if many else 10))
    return land(stage, picture, asked["setting"], "night", LOW)


def _brightest(stage: Stage, count: int) -> Tensor:
    """Stars that are large enough to be seen in a small frame, and to be seen to twinkle."""
    across, down = stage.scatter("bright", count)
    px, py = 1.2 * (across - 0.5) * max(1.0, stage.aspect), 0.02 + 0.68 * down
    size = stage.between("bright size", 0.7, 1.0, count)
    phase = stage.between("bright phase", 0, 6.28, count)
    weight = size * (0.55 + 0.45 * torch.sin(phase + 5 * stage.seconds.squeeze(-1)))
    halo = stage.dots(px, py, 0.06 * size, 0.6 * weight, near=0.1)
    return (halo + stage.dots(px, py, 0.025 * size, weight, near=0.1)).clamp(0, 1)


def shooting_star(stage: Stage, asked: Asked) -> Tensor:
    picture = lit(sky(stage, "night", LOW, stars=False), rgb("#dfe6ff"), starlight(stage, 90, 0.1, 3.0))
    sign = 1 if asked["direction"] == "right" else -1
    along = (stage.progress - stage.between("start", 0.05, 0.15)) / 0.7
    length, drop = stage.between("length", 0.85, 1.0), stage.between("drop", 0.25, 0.42)
    start_x, start_y = -0.5 * sign * length, stage.between("height", 0.08, 0.16)

    def at(share: Tensor) -> tuple[Tensor, Tensor]:
        return start_x + sign * length * share, start_y + drop * share

    head, tail = at(along), at((along - 0.32).clamp(min=0))
    x, y = stage.x(0.1), stage.y(0.1)
    run_x, run_y = head[0] - tail[0], head[1] - tail[1]
    place = (((x - tail[0]) * run_x + (y - tail[1]) * run_y) / (run_x**2 + run_y**2 + 1e-6)).clamp(0, 1)
    away = torch.hypot(x - tail[0] - place * run_x, y - tail[1] - place * run_y)
    flying = ((along > 0) & (along < 1.15)) * smoothstep(1.15, 0.95, along)
    streak = torch.exp(-((away / (0.006 + 0.02 * place)) ** 2)) * place**1.3
    picture = lit(picture, rgb("#bcd4ff"), (flying * streak).clamp(0, 1))
    picture = lit(picture, rgb("#ffffff"), (flying * stage.glow(*head, 0.032, 0.1) * 1.2).clamp(0, 1))
    return land(stage, picture, asked["setting"], "night", LOW)


def aurora(stage: Stage, asked: Asked) -> Tensor:
    low, high = (rgb(code) for code in AURORAS[asked["colour"]])
    picture = sky(stage, "night", LOW)
    power = 1.0 if asked["strength"] == "strong" else 0.62
    for number, (foot, tall, weight) in enumerate(((0.5, 0.34, 1.0), (0.38, 0.3, 0.6), (0.62, 0.2, 0.5))):
        x, y, t = stage.x(0.15), stage.y(0.15), stage.seconds
        wave = stage.profile(f"curtain {number}", x * 0.22 + 0.035 * t, 4, 3) + 0.5 * stage.profile(
            f"fold {number}", x * 0.5 - 0.05 * t, 4, 3
        )
        rays = (0.6 + 0.4 * stage.profile(f"rays {number}", x * 0.7 + 0.05 * t + 0.03 * wave, 16, 3)).clamp(min=0)
        bright = smoothstep(-2.6, 0.4, stage.profile(f"bright {number}", x * 0.25 - 0.04 * t, 4, 2))
        up = foot + 0.09 * wave - y  # above the curtain's hem
        glow = torch.exp(-up.clamp(min=0) / (tall * (0.5 + 0.6 * rays))) * smoothstep(-0.035, 0.03, up)
        colour = blend(low, high, smoothstep(0.03, 0.32, up).unsqueeze(1))
        picture = lit(picture, colour, (power * weight * glow * rays * bright).clamp(0, 1))
    ground = land(stage, picture, asked["setting"], "night", LOW)
    return lit(ground, low, 0.06 * power * smoothstep(LOW - 0.05, 1.0, stage.y()))
