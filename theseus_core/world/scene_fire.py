"""Scenes of fire and smoke: a campfire, a candle, a smoking chimney, fireworks, a volcano."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from theseus_core.world import canvas
from theseus_core.world.canvas import Number
from theseus_core.world.scene_land import backdrop, haze_of, hill, land, light_of, sky
from theseus_core.world.scene_stage import Stage, blend, lit, over, rgb, smoothstep

Asked = Mapping[str, str]

HEAT = ("#8a1404", "#f04a0c", "#ff9a1e", "#ffd95a", "#fff6c8")  # from the edge of a flame to its heart
ROCKETS = {
    "red": ("#ff3b30", "#ff7a5c"),
    "gold": ("#ffc23a", "#ffe9a0"),
    "green": ("#3df06a", "#a8ff9a"),
    "blue": ("#4a7dff", "#8fd0ff"),
    "purple": ("#b44aff", "#f08cff"),
    "colourful": ("#ff4a4a", "#ffd23a", "#4aff7a", "#4a9dff", "#d45aff"),
}


def campfire(stage: Stage, asked: Asked) -> Tensor:
    picture = backdrop(stage, asked["setting"], asked["time"], 0.1, 0.5)
    picture = blend(picture, picture * 0.7, 0.8)
    big = asked["strength"] == "big"
    cx, base = stage.between("fire x", -0.08, 0.08), 0.82
    flicker = 1 + 0.13 * stage.fractal("flicker", 0.9 * stage.seconds, 0.3, 8, 3)
    y = stage.y()
    ground = smoothstep(0.6, 0.72, y)
    picture = lit(
        picture, rgb("#ff8a30"), stage.glow(cx, base + 0.02, 0.3) * (0.3 + 0.5 * ground) * (0.8 if big else 0.6) * flicker
    )
    picture = _hearth(stage, picture, cx, base, flicker)
    picture = flames(stage, picture, cx, base + 0.01, 0.19 if big else 0.135, 0.46 if big else 0.32)
    picture = _log(stage, picture, cx - 0.16, base + 0.075, cx + 0.1, base + 0.015, "#4a2c18")
    picture = _log(stage, picture, cx + 0.16, base + 0.075, cx - 0.1, base + 0.015, "#5a361c")
    return lit(picture, rgb("#ffb050"), _sparks(stage, cx, base, 26 if big else 12))


def flames(stage: Stage, picture: Tensor, cx: Number, base: Number, width: float, height: float, name: str = "flame") -> Tensor:
    """Tongues that climb from a base and tear off; hotter, which is paler, towards the heart."""
    t = stage.seconds
    up = (base - stage.y()) / height
    lean = stage.fractal(f"{name} lean", stage.x() * 0.2, 0.22 * stage.y() + 0.32 * t, 6, 2)
    across = (stage.x() - cx) / width + 0.17 * lean * up.clamp(min=0)
    climb = 0.55 * stage.y() / (height / 0.4) + 0.62 * t
    tongue = stage.fractal(f"{name} tongue", across * 0.13, climb * 0.8, 8, 4, 0.5).clamp(-1.5, 1.2)
    body = 1.05 - across**2 * (1 + 2.4 * up.clamp(min=0)) - 1.05 * up + 0.34 * tongue * (0.35 + up.clamp(0, 1))
    heat = body * smoothstep(-0.08, 0.04, up)
    codes = torch.cat([rgb(code).view(1, 1, 3) for code in HEAT], 1)
    colour = canvas.ramp((heat - 0.1) / 0.95, codes)
    glow = lit(picture, rgb("#ff7a20"), 0.35 * smoothstep(-0.5, 0.3, heat) * smoothstep(-0.2, 0.1, up))
    return over(glow, colour, smoothstep(0.08, 0.28, heat))


def _hearth(stage: Stage, picture: Tensor, cx: Tensor, base: float, flicker: Tensor) -> Tensor:
    """A bed of embers in a ring of stones."""
    x, y = stage.x() - cx, stage.y() - base - 0.06
    picture = over(picture, rgb("#1c120c"), stage.cover(canvas.ellipse(x, y, 0.24, 0.055), 0.02))
    embers = stage.cover(canvas.ellipse(x, y, 0.16, 0.03), 0.04)
    picture = lit(picture, rgb("#ff5a18"), embers * (0.7 * flicker).clamp(0, 1))
    for number in range(9):
        angle = 0.35 * number - 0.12 + 0.05 * stage.between(f"stone {number}", -1, 1)
        px, py = cx + 0.25 * torch.cos(angle), base + 0.06 + 0.06 * torch.sin(angle)
        sx, sy = stage.x() - px, stage.y() - py
        colour = blend(rgb("#8a6a52"), rgb("#2c2624"), smoothstep(-0.03, 0.03, sy).unsqueeze(1))
        picture = over(picture, colour, stage.cover(canvas.ellipse(sx, sy, 0.042, 0.03)))
    return picture


def _log(stage: Stage, picture: Tensor, ax: Number, ay: Number, bx: Number, by: Number, code: str) -> Tensor:
    picture = over(picture, rgb(code), stage.line(ax, ay, bx, by, 0.045))
    return over(picture, rgb("#c8702c"), 0.8 * stage.line(ax, ay - 0.014, bx, by - 0.014, 0.012))


def _sparks(stage: Stage, cx: Tensor, base: float, count: int) -> Tensor:
    t = stage.seconds.squeeze(-1)
    age = (stage.between("spark age", 0, 1, count) + 0.55 * t * stage.between("spark speed", 0.7, 1.3, count)) % 1
    side = stage.between("spark side", -1, 1, count)
    px = cx.squeeze(-1) + side * (0.05 + 0.16 * age) + 0.02 * torch.sin(7 * t + 20 * side)
    py = base - 0.1 - 0.7 * age
    return stage.dots(px, py, 0.006, 1.3 * (1 - age)).clamp(0, 1)


def candle(stage: Stage, asked: Asked) -> Tensor:
    wax = {"white": "#efe6d2", "red": "#b8322c", "blue": "#3c5aa8", "green": "#3f7d4c"}[asked["colour"]]
    t = stage.seconds
    flicker = 1 + 0.1 * stage.fractal("flicker", 0.8 * t, 0.3, 8, 3)
    cx, top = stage.between("candle x", -0.08, 0.08), 0.52
    x, y = stage.x(), stage.y()
    table = smoothstep(0.845, 0.855, y).unsqueeze(1)
    picture = blend(rgb("#2c1c20"), rgb("#4c2f1e"), table) * (0.9 + 0.08 * stage.fractal("wall", x * 0.5, y * 0.5, 4, 4)).unsqueeze(
        1
    )
    picture = lit(picture, rgb("#ff9c48"), (0.55 * stage.glow(cx, top - 0.1, 0.3) * flicker).clamp(0, 0.8))
    picture = over(picture, rgb("#140c0c"), 0.7 * stage.cover(canvas.ellipse(x - cx, y - 0.905, 0.15, 0.03), 0.02))
    shade = (1 - 0.55 * ((x - cx) / 0.09) ** 2) * (1.25 - 1.1 * (y - top))
    body = stage.cover(torch.maximum((x - cx).abs() - 0.085, torch.maximum(top - y + 0.008 * torch.cos(40 * (x - cx)), y - 0.905)))
    picture = over(picture, rgb(wax) * shade.unsqueeze(1).clamp(0.1, 1.3), body)
    picture = lit(picture, rgb("#ffb060"), 0.8 * body * smoothstep(0.16, 0.0, y - top))
    picture = over(picture, rgb("#1c1414"), stage.line(cx, top + 0.01, cx, top - 0.045, 0.01))
    sway = 0.016 * stage.fractal("sway", 0.35 * t, 0.6, 8, 3)
    return flame_drop(stage, picture, cx, top - 0.03, sway, flicker)


def flame_drop(stage: Stage, picture: Tensor, cx: Tensor, base: float, sway: Tensor, flicker: Tensor) -> Tensor:
    """The single drop of a candle's flame."""
    up = (base - stage.y()) / (0.25 * flicker)
    across = (stage.x() - cx - sway * (up.clamp(min=0) * 1.2) ** 2) / 0.05
    width = (4.2 * (up + 0.08).clamp(min=0) * (1 - up).clamp(min=0) ** 1.5).clamp(min=1e-3)
    inside = 1 - (across / width).abs()
    picture = lit(picture, rgb("#ffae50"), (0.8 * stage.glow(cx, base - 0.1, 0.1) * flicker).clamp(0, 0.9))
    colour = blend(rgb("#ff9a2a"), rgb("#fff4c0"), smoothstep(0.0, 0.6, inside).unsqueeze(1))
    colour = blend(rgb("#4a6cff"), colour, smoothstep(-0.06, 0.12, up).unsqueeze(1))
    return over(picture, colour, smoothstep(0.0, 0.25, inside) * (up > -0.08) * (up < 1))


def chimney_smoke(stage: Stage, asked: Asked) -> Tensor:
    time = asked["time"]
    light = light_of(time)
    picture = backdrop(stage, asked["setting"], time, 0.15, 0.6)
    cx = stage.between("house x", -0.1, 0.0)
    picture = _smoke(stage, picture, cx + 0.13, 0.385, light, asked["strength"] == "thick")
    return _house(stage, picture, cx, time, light)


def _smoke(stage: Stage, picture: Tensor, cx: Tensor, top: float, light: Tensor, thick: bool) -> Tensor:
    """A plume that rises, spreads and is carried away by the wind."""
    x, y, t = stage.x(0.9), stage.y(0.9), stage.seconds
    up = (top - y).clamp(min=0)
    wind = stage.between("wind", 0.15, 0.4) * stage.side("wind side")
    curl = stage.fractal("curl", x * 0.5, y * 0.6 + 0.16 * t, 6, 2)
    away = x - cx - wind * up**1.2 - 0.075 * curl * smoothstep(0.0, 0.25, up)
    width = (0.045 if thick else 0.035) + (0.27 if thick else 0.17) * up
    puffs = stage.fractal("puffs", x * 0.8 - 0.3 * wind * t, y * 0.8 + 0.27 * t, 8, 5, 0.55)
    body = torch.exp(-((away / width) ** 2)) * smoothstep(-0.005, 0.015, top - y)
    mask = body * (0.85 + 0.42 * puffs - 0.6 * up) * (1.25 if thick else 0.95)
    shade = (0.72 + 0.14 * puffs + 0.25 * (away / width).clamp(-1, 1)).clamp(0.3, 1).unsqueeze(1)
    return over(picture, rgb("#f2f2f4") * shade * (0.6 * light + 0.4), mask.clamp(0, 0.93))


def _house(stage: Stage, picture: Tensor, cx: Tensor, time: str, light: Tensor) -> Tensor:
    x, y = stage.x(0.9) - cx, stage.y(0.9)
    wall = canvas.box(x, y - 0.71, 0.2, 0.12)
    chimney = canvas.box(x - 0.13, y - 0.47, 0.032, 0.085)
    slope = (x.abs() - 0.13) * 0.9 + (y - 0.47) * -0.62  # the roof: a trapezoid
    roof = torch.maximum(torch.maximum(slope, 0.47 - y), y - 0.605)
    picture = over(picture, rgb("#2c3420", light), 0.5 * stage.cover(canvas.ellipse(x, y - 0.835, 0.29, 0.03), 0.03))
    brick = 0.92 + 0.1 * torch.sign(torch.sin(190 * y))
    picture = over(picture, rgb("#9c5440", light) * brick.unsqueeze(1), stage.cover(chimney))
    picture = over(picture, rgb("#6b3a2e", light), stage.cover(canvas.box(x - 0.13, y - 0.39, 0.042, 0.012)))
    side = 1.0 - 0.5 * (x + 0.2)
    picture = over(picture, rgb("#e6d3ad", light) * side.unsqueeze(1), stage.cover(wall))
    tiles = 0.9 + 0.1 * torch.sin(150 * y) + 0.05 * torch.sin(90 * x)
    picture = over(picture, rgb("#a83f2c", light) * tiles.unsqueeze(1), stage.cover(roof))
    picture = over(picture, rgb("#5a3a24", light), stage.cover(canvas.box(x, y - 0.755, 0.04, 0.075)))
    glass = rgb("#ffd070") if time != "day" else rgb("#7fa8c4")
    for place in (-0.12, 0.12):
        picture = over(picture, rgb("#5a3a24", light), stage.cover(canvas.box(x - place, y - 0.7, 0.042, 0.042)))
        picture = over(picture, glass, stage.cover(canvas.box(x - place, y - 0.7, 0.032, 0.032)))
        picture = over(
            picture, rgb("#5a3a24", light), stage.cover((x - place).abs() - 0.004) * stage.cover((y - 0.7).abs() - 0.036)
        )
    return picture


def fireworks(stage: Stage, asked: Asked) -> Tensor:
    picture = land(stage, sky(stage, "night", 0.72), asked["setting"], "night", 0.72)
    bursts = 6 if asked["strength"] == "many" else 3
    light: Number = 0.0
    for number in range(bursts):
        light = light + _burst(stage, number, bursts, asked["colour"])
    assert isinstance(light, Tensor)
    glow = light.mean((1, 3, 4)).view(len(stage.seeds), -1, 1, 1)
    picture = lit(picture, rgb("#8a84b0"), (1.5 * glow).clamp(0, 0.22) * smoothstep(1.3, 0.3, stage.y()))
    return 1 - (1 - picture) * (1 - light.clamp(0, 1))


def _burst(stage: Stage, number: int, bursts: int, colour: str, count: int = 64) -> Tensor:
    """One rocket's stars: they fly apart, slow down, fall and go out, each with a tail. A picture of light."""
    name = f"burst {number}"
    cx = (((number * 0.618 + 0.25) % 1) - 0.5) * 0.7 * max(1.0, stage.aspect) + stage.between(f"{name} x", -0.08, 0.08)
    cy = stage.between(f"{name} y", 0.2, 0.42)
    seconds = stage.seconds[:, -1:].clamp(min=0.5)
    start = seconds * (0.02 + 0.62 * number / bursts + stage.between(f"{name} start", 0.0, 0.06))
    angle, reach = stage.between(f"{name} angle", 0, 6.28, count), stage.between(f"{name} reach", 0.35, 1.0, count).sqrt()
    radius = stage.between(f"{name} radius", 0.22, 0.34).squeeze(-1)
    codes = ROCKETS[colour]
    pick = (
        stage.between(f"{name} hue", 0, len(codes)).long().view(-1) + torch.zeros(1, dtype=torch.long, device=stage.device)
    ) % len(codes)
    hue = torch.cat([rgb(code).view(1, 3) for code in codes])[pick]
    light: Number = 0.0
    for lag in (0.0, 0.07, 0.14, 0.21):
        age = (stage.seconds - start - lag).squeeze(-1)  # (B, T, 1)
        spread = 1 - torch.exp(-2.6 * age.clamp(min=0))
        px = cx.squeeze(-1) + radius * reach * spread * torch.cos(angle)
        py = cy.squeeze(-1) + radius * reach * spread * torch.sin(angle) + 0.07 * age.clamp(min=0) ** 2
        weight = (age > 0) * torch.exp(-((age.clamp(min=0) / 0.85) ** 3)) * (1 - 3.6 * lag) * torch.ones_like(px)
        light = light + stage.dots(px, py, 0.0085 - 0.012 * lag, weight, near=0.3)
    assert isinstance(light, Tensor)
    age = stage.seconds - start
    flash = (age >= 0) * torch.exp(-age.clamp(min=0) * 7) * stage.glow(cx, cy, 0.06, 0.3)
    white = smoothstep(0.8, 2.0, light).unsqueeze(1)
    return blend(hue.view(-1, 3, 1, 1, 1), rgb("#ffffff"), white) * (1.5 * light + flash).unsqueeze(1)


def volcano(stage: Stage, asked: Asked) -> Tensor:
    time, strong = asked["time"], asked["strength"] == "strong"
    light = light_of(time)
    picture = sky(stage, time, 0.78)
    cx, rim = stage.between("volcano x", -0.08, 0.08), 0.42
    x, y, t = stage.x(0.6), stage.y(0.6), stage.seconds
    picture = _ash(stage, picture, cx, rim, light)
    picture = lit(picture, rgb("#ff5a20"), 0.6 * stage.glow(cx, rim, 0.16, 0.6))
    slope = rim + 0.55 * ((x - cx).abs() - 0.075).clamp(min=0) ** 0.8 * 1.1 + 0.008 * stage.profile("slope", x * 0.9, 8, 4)
    rock = (0.75 + 0.2 * stage.fractal("rock", x * 0.8, y * 0.8, 8, 5, 0.6) - 0.5 * (x - cx)).clamp(0.2, 1.4)
    stone = blend(rgb("#574a48", light), haze_of(time), 0.08) * rock.unsqueeze(1)
    lava = stage.fractal("channel", (x - cx) * 0.5 / (0.3 + y), y * 0.22, 6, 3)
    crust = stage.fractal("crust", x * 1.2, y * 0.8 - 0.14 * t, 8, 4)
    stream = torch.exp(-(((x - cx - 0.07 * lava) / (0.02 + 0.05 * (y - rim).clamp(min=0))) ** 2)) * smoothstep(0.95, 0.6, y)
    stone = over(stone, blend(rgb("#d8300c"), rgb("#ffc04a"), (0.5 + 0.3 * crust).clamp(0, 1).unsqueeze(1)), stream)
    picture = over(picture, stone, stage.cover(slope - y))
    picture = hill(stage, picture, 0.86 - 0.02 * stage.profile("plain", stage.x() * 0.4, 6, 3), rgb("#2e3a26", light), 1.0, 0.1)
    return _eruption(stage, picture, cx, rim, strong)


def _ash(stage: Stage, picture: Tensor, cx: Tensor, rim: float, light: Tensor) -> Tensor:
    """A dark column above the crater that boils upwards."""
    x, y, t = stage.x(0.6), stage.y(0.6), stage.seconds
    up = (rim - y).clamp(min=0)
    boil = stage.fractal("boil", x * 0.55, y * 0.55 + 0.12 * t, 6, 5, 0.55)
    edge = ((x - cx) / (0.08 + 0.6 * up)).abs() - 0.2 * boil
    shade = (0.42 + 0.16 * boil - 0.2 * (x - cx)).clamp(0.1, 1).unsqueeze(1)
    return over(picture, rgb("#8a8078") * shade * (0.6 * light + 0.3), smoothstep(1.0, 0.6, edge) * (y < rim + 0.05) * 0.95)


def _eruption(stage: Stage, picture: Tensor, cx: Tensor, rim: float, strong: bool, count: int = 90) -> Tensor:
    """Glowing rocks on their parabolas, for ever."""
    t = stage.seconds.squeeze(-1)
    age = (stage.between("bomb age", 0, 1, count) + t / 1.1) % 1 * 1.1
    speed = (0.85 if strong else 0.62) * stage.between("bomb speed", 0.5, 1.0, count)
    angle = 0.42 * stage.between("bomb angle", -1, 1, count)
    px = cx.squeeze(-1) + 0.05 * angle + speed * torch.sin(angle) * age
    py = rim + 0.02 - speed * torch.cos(angle) * age + 0.5 * 1.15 * age**2
    fade = (1.25 - age).clamp(0, 1) * (py < rim + 0.25)
    light = stage.dots(px, py, 0.011, 1.6 * fade, near=0.6).clamp(0, 1.6)
    colour = blend(rgb("#ff4a10"), rgb("#ffe28a"), smoothstep(0.4, 1.5, light).unsqueeze(1))
    picture = flames(stage, picture, cx, rim + 0.035, 0.07, 0.34 if strong else 0.22, "fountain")
    return lit(picture, colour, light.clamp(0, 1))
