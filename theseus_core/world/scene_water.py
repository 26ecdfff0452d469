"""Scenes of water: a waterfall, a river, waves of the sea, bubbles."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from theseus_core.world.scene_land import backdrop, clouds, haze_of, hill, light_of, sky, spruces
from theseus_core.world.scene_stage import Stage, blend, lit, over, rgb, smoothstep

Asked = Mapping[str, str]

ROCKS = {"forest": ("#3a4438", "#6f7a66"), "mountains": ("#4a4f57", "#8d939b"), "desert": ("#7a4028", "#c9835a")}
GREENS = {"forest": "#3c6b34", "mountains": "#56794a", "desert": "#7d8048"}
POOL = 0.8  # where the falling water arrives


def waterfall(stage: Stage, asked: Asked) -> Tensor:
    setting, time = asked["setting"], asked["time"]
    light = light_of(time)
    strong = asked["strength"] == "strong"
    cx = stage.between("fall x", -0.1, 0.1)
    picture = _cliff(stage, backdrop(stage, setting, time, 0.25, 0.4), cx, setting, light)
    picture = _pool(stage, picture, time, light, cx)
    x, y, t = stage.x(), stage.y(), stage.seconds
    top = 0.2
    fall = (y - top).clamp(min=0)
    half = (0.15 if strong else 0.075) * (1 + 0.35 * fall) * stage.between("fall width", 0.9, 1.1)
    across = (x - cx) / half + 0.05 * stage.fractal("ragged", x * 0.2 + 0.3, y * 0.6 - 0.3 * t, 8, 3)
    down = 0.34 * y - 0.2 * t  # a speed of 0.6 heights a second
    streak = stage.fractal("streak", across * half * 1.8, down, 16, 3, 0.6)
    broad = stage.fractal("broad", across * half * 0.8, down * 0.8, 8, 3)
    body = smoothstep(1.05, 0.8, across.abs()) * smoothstep(top - 0.02, top + 0.02, y) * smoothstep(POOL + 0.05, POOL, y)
    shade = (0.74 + 0.13 * streak + 0.1 * broad - 0.1 * across.abs()).clamp(0.3, 1).unsqueeze(1)
    picture = over(picture, blend(rgb("#5f93b8"), rgb("#ffffff"), shade) * _pale(light), body * 0.96)
    mist = stage.fractal("mist", x * 0.5, y * 0.5 + 0.06 * t, 6, 4)
    cloud = torch.exp(-(((x - cx) / (half * 1.5 + 0.06)) ** 2) - ((y - POOL) / (0.09 if strong else 0.06)) ** 2)
    picture = over(picture, rgb("#f2f8ff") * _pale(light), (cloud * (0.75 + 0.25 * mist)).clamp(0, 1) * 0.9)
    return _bushes(stage, picture, setting, light)


def _pale(light: Tensor) -> Tensor:
    """White water keeps some light even at night, and takes on little of its colour."""
    return 0.2 + 0.35 * light + 0.45 * light.mean()


def _cliff(stage: Stage, picture: Tensor, cx: Tensor, setting: str, light: Tensor) -> Tensor:
    x, y = stage.x(), stage.y()
    dip = torch.exp(-(((x - cx) / 0.2) ** 2))
    edge = 0.15 - 0.035 * stage.profile("cliff top", x * 0.4, 6, 4) + 0.045 * dip
    if setting != "desert":
        rows = edge + 0.015 - spruces(stage, "cliff spruce", x, 0.1, 0.17) * (1 - 0.9 * dip)
        picture = hill(stage, picture, rows, rgb("#2c5530", light), 1.0, 0.12, 0.3)
    dark, bright = ROCKS[setting]
    strata = stage.fractal("strata", x * 0.35, y * (1.3 if setting == "desert" else 0.5), 8, 5, 0.62)
    cracks = stage.fractal("cracks", x * 1.1, y * 0.4, 8, 4, 0.6)
    hollow = 1 - 0.4 * torch.exp(-(((x - cx) / 0.3) ** 2))
    shade = ((0.5 + 0.17 * strata + 0.17 * cracks).clamp(0, 1) * hollow).unsqueeze(1)
    rock = blend(rgb(dark, light), rgb(bright, light), shade)
    moss = smoothstep(0.2, 1.4, stage.fractal("moss", x * 0.6, y * 0.5, 8, 4)) * (0.2 if setting == "desert" else 0.7)
    return over(picture, over(rock, rgb(GREENS[setting], light), moss), stage.cover(edge - y))


def _pool(stage: Stage, picture: Tensor, time: str, light: Tensor, cx: Tensor) -> Tensor:
    x, y, t = stage.x(), stage.y(), stage.seconds
    depth = (y - POOL + 0.01).clamp(min=0)
    away = torch.hypot(x - cx, depth * 2.2)
    rings = torch.sin(60 * away - 9 * t + stage.fractal("pool", x * 0.6, y * 1.6 - 0.15 * t, 8, 3)) * torch.exp(-3 * away)
    colour = blend(rgb("#2f7d96", light), rgb("#123f56", light), smoothstep(0.0, 0.2, depth).unsqueeze(1))
    colour = blend(colour, haze_of(time), (0.12 + 0.14 * rings).clamp(0, 1).unsqueeze(1))
    return over(picture, colour, stage.cover(POOL - 0.01 - 0.012 * stage.profile("shore", x * 0.5, 6, 3) - y))


def _bushes(stage: Stage, picture: Tensor, setting: str, light: Tensor) -> Tensor:
    """Foliage, or boulders in the desert, in both lower corners: what stands nearest."""
    x, y = stage.x(), stage.y()
    lumps = stage.fractal("bush", x * 0.8, y * 0.8, 8, 5, 0.6)
    edge = 1.02 - 0.75 * smoothstep(0.26, 0.75, x.abs() + 0.02 * lumps) - 0.02 * lumps
    code = {"forest": "#2a5a2a", "mountains": "#41633a", "desert": "#8a5234"}[setting]
    shade = (0.85 + 0.22 * lumps - 0.4 * (y - edge)).clamp(0.25, 1.3).unsqueeze(1)
    return over(picture, rgb(code, light) * shade, stage.cover(edge - y, 0.015))


def river(stage: Stage, asked: Asked) -> Tensor:
    setting, time = asked["setting"], asked["time"]
    light, horizon = light_of(time), 0.44
    picture = backdrop(stage, setting, time, 0.3, horizon)
    x, y, t = stage.x(), stage.y(), stage.seconds
    shore = horizon + 0.115
    depth = (y - shore).clamp(min=1e-3)
    turn, bend = stage.side("turn"), stage.between("bend", 0.19, 0.23)
    centre = turn * bend * torch.sin(2.2 - 11 * (0.03 + depth) ** 0.6) * (0.5 + 0.9 * depth)
    half = 0.045 + (0.62 if asked["strength"] == "wide" else 0.38) * depth * (1 + 0.05 * torch.sin(40 * depth**0.5))
    across = (x - centre) / half
    ground = rgb({"desert": "#d9ac6a"}.get(setting, "#5f8f40"), light)
    texture = stage.fractal("bank", x / (depth + 0.25) * 0.16, 0.35 * torch.log(depth + 0.12), 16, 4, 0.6)
    plain = ground * (0.95 + 0.13 * texture - 0.25 * depth).unsqueeze(1)
    picture = over(picture, plain, stage.cover(shore - 0.02 - y, 0.02))
    flow = -0.24 * torch.log(depth + 0.06) + (0.28 if asked["strength"] == "wide" else 0.36) * t * 0.75
    ripple = stage.fractal("ripple", across * 0.12, flow, 8, 4, 0.6) + 0.7 * stage.fractal(
        "wavelet", across * 0.3 + 0.01 * t, 2 * flow, 8, 3
    )
    lifted = 0.65 * light + 0.35  # blue at every hour, or it is taken for a road
    deep = blend(rgb("#6fbbe8", lifted), rgb("#1f6fae", lifted), smoothstep(0.0, 0.5, depth).unsqueeze(1))
    sheen = (0.14 * ripple).clamp(-0.2, 0.45).unsqueeze(1)
    water = blend(deep, haze_of(time), 0.1 + sheen.clamp(min=0)) * (1 + sheen)
    foam = smoothstep(0.75, 0.98, across.abs()) * smoothstep(0.0, 1.6, ripple + 0.4)
    water = over(water, rgb("#ffffff") * _pale(light), 0.55 * foam)
    edge = (across.abs() - 1) * half
    picture = over(picture, ground * 0.55, stage.cover(edge - 0.02 * depth.sqrt(), 0.012) * (y > shore))
    return over(picture, water, stage.cover(edge, 0.008) * stage.cover(shore - y))


def ocean_waves(stage: Stage, asked: Asked) -> Tensor:
    time, strong = asked["time"], asked["strength"] == "strong"
    light, horizon = light_of(time), 0.36
    picture = clouds(stage, sky(stage, time, horizon + 0.08), time, 0.35, 0.02, horizon + 0.06)
    x, y, t = stage.x(0.7), stage.y(0.7), stage.seconds
    depth = (y - horizon).clamp(min=2e-3)
    along = torch.log(depth + 0.05)
    wobble = stage.fractal("wobble", 0.05 * x / (depth + 0.1) + 0.01 * t, 0.06 * along, 6, 3)
    phase = 6.5 * along - 2.6 * t + 1.3 * wobble + stage.between("swell", 0, 6.28)
    crest = torch.exp(torch.sin(phase) - 1) * 2 - 0.9  # long troughs, sharp crests
    face = torch.cos(phase)
    chop = stage.fractal("chop", 0.1 * x / (depth + 0.12), 0.22 * along - 0.1 * t, 16, 4, 0.6)
    height = (0.5 + 0.28 * crest + 0.12 * face + (0.08 if strong else 0.06) * chop).clamp(0, 1)
    deep, bright = rgb("#0d3f63", light), rgb("#3fa5ad", light)
    water = blend(deep, bright, height.unsqueeze(1))
    water = blend(water, haze_of(time), (0.75 * torch.exp(-depth * 14) + 0.16 * (chop - 0.8).clamp(0, 1.5)).unsqueeze(1))
    lace = stage.fractal("lace", 0.22 * x / (depth + 0.12), 0.5 * along - 0.2 * t, 16, 4, 0.65)
    foam = smoothstep(0.75, 1.2, crest + 0.38 * lace + (0.12 if strong else -0.25))
    spill = 0.5 * smoothstep(0.8, 2.0, lace) * smoothstep(-0.4, 0.5, crest) if strong else 0.0
    water = over(water, rgb("#ffffff") * _pale(light), (foam + spill).clamp(0, 1) * smoothstep(0.01, 0.12, depth) * 0.92)
    return over(picture, water, stage.cover(horizon - y))


def bubbles(stage: Stage, asked: Asked) -> Tensor:
    count = 11 if asked["strength"] == "many" else 5
    shallow, deep = {"blue": ("#4cc3ea", "#06305e"), "green": ("#6fdcb4", "#06463f"), "purple": ("#a58bf0", "#23124f")}[
        asked["colour"]
    ]
    x, y, t = stage.x(0.2), stage.y(0.2), stage.seconds
    picture = blend(rgb(shallow), rgb(deep), smoothstep(-0.2, 1.05, y).unsqueeze(1))
    slant = x + 0.35 * y
    rays = stage.profile("rays", slant / (1.6 + y) + 0.012 * t, 8, 3) + stage.profile("rays 2", slant / (1.3 + y) - 0.018 * t, 6, 3)
    picture = lit(picture, rgb("#e8ffff"), (0.14 * rays * (1.1 - y)).clamp(0, 0.5))
    weed = 0.93 - 0.05 * stage.profile("bed", stage.x() * 0.5, 6, 3)
    picture = hill(stage, picture.expand(len(stage.seeds), -1, -1, -1, -1), weed, rgb(deep) * 0.6, 1.0, 0.1)
    small = stage.between("small", 0, 1, 40)
    rise = 0.14 + 0.1 * stage.between("small speed", 0, 1, 40)
    px = stage.between("small x", -0.7, 0.7, 40) * max(1.0, stage.aspect) + 0.012 * torch.sin(5 * t.squeeze(-1) + 20 * small)
    py = 1.1 - (stage.between("small y", 0, 1.2, 40) + rise * t.squeeze(-1)) % 1.2
    picture = lit(picture, rgb("#d8f8ff"), stage.dots(px, py, 0.004 + 0.006 * small, 0.5 + 0 * small, near=0.6).clamp(0, 1))
    across, down = stage.scatter("bubbles", count)
    for number in range(count):
        at = across[..., number : number + 1].unsqueeze(-1), down[..., number : number + 1].unsqueeze(-1)
        picture = _bubble(stage, picture, f"bubble {number}", *at)
    return picture


def _bubble(stage: Stage, picture: Tensor, name: str, across: Tensor, down: Tensor) -> Tensor:
    t = stage.seconds
    radius = stage.between(f"{name} size", 0.075, 0.1)
    cx = (across - 0.5) * 1.1 * max(1.0, stage.aspect) + 0.025 * torch.sin(3.2 * t + stage.between(f"{name} sway", -0.5, 0.5))
    cy = 1.15 - (1.3 * down + 0.28 * t) % 1.3
    x, y = (stage.x(0.8) - cx) / radius, (stage.y(0.8) - cy) / radius
    reach = torch.hypot(x, y)
    inside = stage.cover((reach - 1) * radius)
    rim = inside * smoothstep(0.62, 1.0, reach)
    shine = torch.exp(-((x + 0.4) ** 2 + (y + 0.42) ** 2) * 14) + 0.5 * torch.exp(-((x - 0.35) ** 2 + (y - 0.45) ** 2) * 10)
    return lit(picture, rgb("#e6fbff"), (0.22 * inside + 0.75 * rim + 0.9 * inside * shine).clamp(0, 1))
