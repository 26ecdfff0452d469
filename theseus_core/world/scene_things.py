"""Scenes of one thing that moves: a balloon, a sailing boat, a ball, a pendulum, a windmill, a lighthouse."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from theseus_core.world import canvas
from theseus_core.world.scene_land import backdrop, clouds, haze_of, hill, light_of, sky, water
from theseus_core.world.scene_stage import Stage, blend, lit, over, rgb, smoothstep

Asked = Mapping[str, str]

PAINTS = {
    "red": ("#d8262c", "#ffd9c8"),
    "orange": ("#f07a1a", "#fff0d0"),
    "yellow": ("#f2c41c", "#ffffff"),
    "green": ("#2f9e48", "#f0f4c8"),
    "blue": ("#2a62d0", "#e8f0ff"),
    "purple": ("#8038b8", "#f4dcff"),
    "pink": ("#e85a9c", "#fff0f6"),
}
FURTHER = 0.7  # how near things stand that have a landscape behind them


def balloon(stage: Stage, asked: Asked) -> Tensor:
    time = asked["time"]
    light = 0.75 * light_of(time) + 0.25
    picture = backdrop(stage, asked["setting"], time, 0.4, 0.74)
    main, second = (rgb(code, light) for code in PAINTS[asked["colour"]])
    t, drift = stage.seconds, stage.between("drift", 0.03, 0.08) * stage.side("drift side")
    cx = stage.between("balloon x", -0.12, 0.12) + drift * (t - 1.0) + 0.008 * torch.sin(2 * t)
    cy = stage.between("balloon y", 0.42, 0.48) - 0.2 * stage.progress
    x, y = stage.x(FURTHER) - cx, stage.y(FURTHER) - cy
    radius = 0.21
    taper = radius * (1 - 0.78 * smoothstep(0.02, 0.3, y))
    level = torch.where(y < 0, (radius**2 - y**2).clamp(min=1e-6).sqrt(), taper)
    inside = torch.maximum(x.abs() - level, torch.maximum(-radius - y, y - 0.27))
    around = torch.asin((x / level).clamp(-0.999, 0.999))  # a longitude: gores narrow towards the edge
    gores = smoothstep(-0.15, 0.15, torch.sin(around * 5.0 + 0.8))
    shade = (0.62 + 0.42 * torch.cos(around + 0.6)) * (1.06 - 0.7 * (y + 0.05).clamp(0, 0.3))
    envelope = blend(main, second, gores.unsqueeze(1)) * shade.unsqueeze(1)
    band = stage.cover((y - 0.03).abs() - 0.018)
    picture = over(picture, over(envelope, main * 0.8 * shade.unsqueeze(1), band), stage.cover(inside, 0.01))
    for side in (-1.0, 1.0):
        rope = stage.line(cx + side * 0.04, cy + 0.26, cx + side * 0.03, cy + 0.345, 0.006, FURTHER)
        picture = over(picture, rgb("#3a2a1c", light), rope)
    basket = canvas.box(x, y - 0.365, 0.036, 0.027, 0.008)
    weave = 0.85 + 0.15 * torch.sin(220 * x) * torch.sin(220 * y)
    picture = over(picture, rgb("#8a5a2c", light) * weave.unsqueeze(1), stage.cover(basket))
    return lit(picture, rgb("#ffc860"), 0.8 * stage.glow(cx, cy + 0.285, 0.014, FURTHER))


def sailing_boat(stage: Stage, asked: Asked) -> Tensor:
    time, horizon = asked["time"], 0.5
    light, t = 0.8 * light_of(time) + 0.2, stage.seconds
    picture = clouds(stage, sky(stage, time, horizon), time, 0.35, 0.015, horizon)
    picture = water(stage, picture, time, horizon, 1.6)
    sign = 1 if asked["direction"] == "right" else -1
    cx = stage.between("boat x", -0.05, 0.05) + sign * 0.44 * (stage.progress - 0.5)
    cy = 0.66 + 0.011 * torch.sin(2.8 * t + stage.between("bob", 0, 6.28))
    picture = _mirrored(stage, picture, cx, light, PAINTS[asked["colour"]][0])
    lean = 0.06 * torch.sin(2.1 * t) + 0.05 * sign
    x, y = canvas.turned((stage.x(FURTHER) - cx) * sign, stage.y(FURTHER) - cy, lean * sign)
    # x now points to the bow
    picture = over(picture, rgb("#4a2f1e", light), stage.cover(canvas.box(x, y + 0.19, 0.006, 0.2)))
    main_sail = torch.maximum(torch.maximum(-x - 0.17 * smoothstep(-0.4, -0.03, y), x + 0.012), torch.maximum(-0.37 - y, y + 0.04))
    jib = torch.maximum(torch.maximum(x - 0.155 * smoothstep(-0.36, -0.02, y), 0.014 - x), torch.maximum(-0.34 - y, y + 0.05))
    shade = 1.0 - 0.9 * x.abs() + 0.2 * y
    sail = rgb(PAINTS[asked["colour"]][0], light) if asked["colour"] in PAINTS else rgb("#fbf7ec", light)
    picture = over(picture, sail * shade.unsqueeze(1), stage.cover(main_sail))
    picture = over(picture, rgb("#fbf7ec", light) * shade.unsqueeze(1), stage.cover(jib))
    hull = torch.maximum(torch.maximum(y - 0.055, -y), (x + 0.02).abs() - 0.2 + 1.1 * y.clamp(min=0) ** 1.1 * 0.9)
    planks = 0.9 + 0.1 * torch.sin(160 * y)
    picture = over(picture, rgb("#7a3f22", light) * planks.unsqueeze(1), stage.cover(hull))
    picture = over(picture, rgb("#f0e6d0", light), stage.cover(hull) * stage.cover((y - 0.008).abs() - 0.008))
    spray = stage.fractal("spray", (stage.x(FURTHER) - cx) * 1.2 + sign * 0.2 * t, stage.y(FURTHER) * 2, 16, 3)
    foam = torch.exp(-(((stage.y(FURTHER) - cy - 0.058) / 0.012) ** 2)) * smoothstep(0.27, 0.15, (stage.x(FURTHER) - cx).abs())
    return over(picture, rgb("#ffffff") * (0.7 * light + 0.3), (foam * (0.6 + 0.3 * spray)).clamp(0, 0.9))


def _mirrored(stage: Stage, picture: Tensor, cx: Tensor, light: Tensor, code: str) -> Tensor:
    """The boat's broken reflection."""
    x, y = stage.x(FURTHER) - cx, stage.y(FURTHER)
    down = (y - 0.7).clamp(min=0)
    waver = 0.02 * torch.sin(70 * y - 5 * stage.seconds) + 0.01 * torch.sin(41 * y + 4 * stage.seconds)
    mask = smoothstep(0.17, 0.1, (x + waver).abs() + 0.45 * down) * (down > 0) * smoothstep(0.26, 0.0, down)
    return over(picture, blend(rgb(code, light), rgb("#2c3c4c", light), 0.45), 0.5 * mask)


def bouncing_ball(stage: Stage, asked: Asked) -> Tensor:
    main, _ = (rgb(code) for code in PAINTS[asked["colour"]])
    x, y = stage.x(0.3), stage.y(0.3)
    warm = stage.between("wall", 0, 1).unsqueeze(1)
    wall = blend(rgb("#cfd8dc"), rgb("#e8dcc4"), warm)
    picture = wall * (1.02 - 0.2 * y - 0.12 * x.abs()).unsqueeze(1)
    board = torch.sin(22 * stage.x(0.8) / (stage.y(0.8) - 0.05).clamp(min=0.2))
    floor = blend(rgb("#a8794e"), rgb("#c79a68"), (0.5 + 0.35 * torch.tanh(3 * board)).unsqueeze(1)) * (
        1.12 - 0.35 * (1 - stage.y(0.8))
    ).unsqueeze(1)
    picture = over(picture, floor, stage.cover(0.7 - stage.y(0.8)))
    picture = over(picture, rgb("#f2ece0"), stage.cover((stage.y(0.8) - 0.69).abs() - 0.012))
    period, t = stage.between("period", 0.8, 0.9), stage.seconds
    phase = (0.5 + t / period) % 1  # it is let go at the top
    height = 4 * phase * (1 - phase)  # parabolas
    radius, ground = stage.between("radius", 0.115, 0.135), 0.88
    cx = stage.between("ball x", -0.06, 0.06) + 0.36 * (stage.progress - 0.5)
    squash = 1 - 0.24 * smoothstep(0.16, 0.0, height)
    cy = ground - radius * squash - stage.between("bounce", 0.45, 0.55) * height
    shadow = canvas.ellipse(stage.x() - cx, stage.y() - ground, radius * (1 + 0.4 * height), radius * 0.28)
    picture = over(picture, rgb("#3a2a1c"), (0.6 - 0.38 * height) * stage.cover(shadow, 0.05))
    return _ball(stage, picture, cx, cy, radius / squash**0.5, radius * squash, main)


def _ball(stage: Stage, picture: Tensor, cx: Tensor, cy: Tensor, wide: Tensor, high: Tensor, colour: Tensor) -> Tensor:
    """A shining ball, lit from the upper left."""
    x, y = (stage.x() - cx) / wide, (stage.y() - cy) / high
    bulge = (1 - x * x - y * y).clamp(min=0).sqrt()
    light = (0.35 + 0.75 * (0.55 * bulge - 0.5 * x * 0.8 - 0.6 * y * 0.8 + 0.1)).clamp(0.25, 1.15)
    shine = torch.exp(-((x + 0.38) ** 2 + (y + 0.42) ** 2) * 16)
    ball = lit((colour * light.unsqueeze(1)).clamp(0, 1), rgb("#ffffff"), 0.75 * shine)
    return over(picture, ball, stage.cover((torch.hypot(x, y) - 1) * high))


def pendulum(stage: Stage, asked: Asked) -> Tensor:
    main, _ = (rgb(code) for code in PAINTS[asked["colour"]])
    x, y = stage.x(0.6), stage.y(0.6)
    stripes = 0.985 + 0.02 * torch.sin(52 * x)
    wall = blend(rgb("#5c6b74"), rgb("#74644f"), stage.between("wall", 0, 1).unsqueeze(1))
    picture = wall * (stripes * (1.25 - 0.55 * y - 0.3 * x.abs())).unsqueeze(1)
    px, py, length = stage.between("pivot x", -0.03, 0.03), 0.1, stage.between("rod", 0.56, 0.61)
    period = stage.between("period", 1.38, 1.46)  # it is let go on the left
    angle = -stage.between("swing", 0.5, 0.58) * torch.cos(2 * math.pi * stage.seconds / period)
    cx, cy = px + length * torch.sin(angle), py + length * torch.cos(angle)
    shadow = stage.line(px + 0.04, py + 0.04, cx + 0.04, cy + 0.04, 0.02)
    picture = over(picture, rgb("#1c1a18"), 0.35 * torch.maximum(shadow, stage.disc(cx + 0.04, cy + 0.04, 0.135, soft=0.03)))
    picture = over(picture, rgb("#2c2018"), stage.cover(canvas.box(stage.x() - px, stage.y() - 0.045, 0.2, 0.04, 0.01)))
    picture = over(picture, rgb("#d8d0c0"), stage.line(px, py, cx, cy, 0.02))
    picture = over(picture, rgb("#b89448"), stage.disc(px, py, 0.024))
    radius = torch.full_like(cx, 0.13)
    return _ball(stage, picture, cx, cy, radius, radius, main)


def windmill(stage: Stage, asked: Asked) -> Tensor:
    time = asked["time"]
    light = 0.85 * light_of(time) + 0.1
    picture = backdrop(stage, asked["setting"], time, 0.1, 0.68)
    cx = stage.between("mill x", -0.05, 0.05)
    x, y = stage.x(0.8) - cx, stage.y(0.8)
    tower = torch.maximum((x.abs() - 0.075 - 0.13 * (y - 0.4)), torch.maximum(0.4 - y, y - 0.9))
    side = (0.95 - 2.2 * x).clamp(0.45, 1.2)
    bricks = 1 + 0.04 * torch.sign(torch.sin(170 * y))
    picture = over(picture, rgb("#1c2416", light), 0.45 * stage.cover(canvas.ellipse(x, y - 0.9, 0.23, 0.025), 0.03))
    picture = over(picture, rgb("#e2d4bc", light) * (side * bricks).unsqueeze(1), stage.cover(tower))
    cap = torch.maximum(torch.hypot(x, (y - 0.41) * 1.1) - 0.1, y - 0.41)
    picture = over(picture, rgb("#7c2f24", light) * side.unsqueeze(1), stage.cover(cap))
    picture = over(picture, rgb("#4c3020", light), stage.cover(canvas.box(x, y - 0.845, 0.032, 0.055)))
    for height in (0.52, 0.66):
        picture = over(
            picture, rgb("#38485a", light) if time == "day" else rgb("#ffd070"), stage.cover(canvas.box(x, y - height, 0.02, 0.027))
        )
    speed = stage.between("speed", 0.97, 1.03) * (2.6 if asked["strength"] == "fast" else 1.1)
    turn = stage.between("turn", -0.1, 0.1) + speed * stage.side("way") * stage.seconds  # it starts near an upright cross
    hub_y = y - 0.39
    for blade in range(4):
        along, across = canvas.turned(x, hub_y, turn + blade * math.pi / 2)
        spar = canvas.box(along - 0.18, across, 0.185, 0.009)
        cloth = canvas.box(along - 0.22, across - 0.05, 0.145, 0.055)
        ribs = 0.9 + 0.1 * torch.tanh(4 * torch.sin(150 * along))
        picture = over(picture, rgb("#fffcf2", light + 0.15) * ribs.unsqueeze(1), stage.cover(cloth))
        picture = over(picture, rgb("#4c3322", light), stage.cover(spar))
    return over(picture, rgb("#33241a", light), stage.cover(torch.hypot(x, hub_y) - 0.024))


def lighthouse(stage: Stage, asked: Asked) -> Tensor:
    time, horizon = asked["time"], 0.64
    light = light_of(time)
    picture = clouds(stage, sky(stage, time, horizon), time, 0.3, 0.01, horizon)
    picture = water(stage, picture, time, horizon)
    cx, lamp = stage.between("tower x", -0.12, 0.12), 0.27
    x, y = stage.x(FURTHER) - cx, stage.y(FURTHER)
    period = 2.0 if asked["strength"] == "fast" else 3.2
    angle = 2 * math.pi * (stage.seconds / period + stage.between("phase", 0, 1))
    for way in (0.0, math.pi):  # two beams that go round: seen from the side they lengthen, and shorten
        picture = lit(picture, rgb("#fff2c0"), _beam(x, y - lamp, angle + way) * (0.8 if time == "night" else 0.65))
    rocks = 0.78 + 0.9 * (x.abs() - 0.16).clamp(min=0) ** 1.3 - 0.02 * stage.profile("rocks", stage.x(FURTHER) * 0.8, 8, 4)
    picture = hill(stage, picture, rocks, rgb("#6a625c", light), FURTHER, 0.2, 0.4)
    tower = torch.maximum(x.abs() - 0.045 - 0.09 * (y - lamp), torch.maximum(lamp + 0.05 - y, y - 0.8))
    stripes = smoothstep(-0.1, 0.1, torch.sin((y - lamp - 0.05) * 2 * math.pi / 0.19))
    side = (0.95 - 3 * x).clamp(0.45, 1.25)
    paint = blend(rgb("#f4efe6"), rgb("#c4282c"), stripes.unsqueeze(1)) * (0.7 * light + 0.22)
    picture = over(picture, paint * side.unsqueeze(1), stage.cover(tower))
    picture = over(picture, rgb("#20242c"), stage.cover(canvas.box(x, y - lamp - 0.045, 0.065, 0.008)))
    picture = over(picture, rgb("#ffe9a0"), stage.cover(canvas.box(x, y - lamp, 0.034, 0.036)))
    picture = over(
        picture, rgb("#a02428", 0.7 * light + 0.22), stage.cover(torch.maximum(x.abs() - (y - lamp + 0.1) * 0.75, y - lamp + 0.036))
    )
    facing = torch.cos(angle) ** 8
    return lit(picture, haze_of("day"), ((0.45 + 0.5 * facing) * stage.glow(cx, lamp, 0.05 + 0.03 * facing, FURTHER)).clamp(0, 1))


def _beam(x: Tensor, y: Tensor, angle: Tensor) -> Tensor:
    """A cone of light from the origin towards a point that circles in the horizontal plane."""
    reach = 1.3 * torch.sin(angle)
    along = x * torch.sign(reach)
    length = reach.abs().clamp(min=0.05)
    width = 0.012 + 0.13 * along.clamp(min=0)
    return (
        torch.exp(-((y / width) ** 2)) * smoothstep(0.0, 0.03, along) * smoothstep(1.0, 0.1, along / length) * (reach.abs() > 0.05)
    )
