"""Scenes of weather and of the seasons: rain, snow, lightning, falling leaves, grass in the wind, a flower that opens."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from theseus_core.world.scene_land import backdrop, clouds, hill, land, light_of, sky
from theseus_core.world.scene_stage import Stage, blend, lit, over, rgb, smoothstep

Asked = Mapping[str, str]

STORMS = {"day": "storm", "dusk": "dusk storm", "night": "dark storm"}
FLOWERS = {
    "red": ("#7d0d1c", "#f03a3f"),
    "pink": ("#b4356e", "#ffa6cc"),
    "yellow": ("#c98a08", "#ffe24a"),
    "purple": ("#4b1d84", "#b47cf0"),
    "white": ("#b8bccb", "#ffffff"),
    "orange": ("#b5420a", "#ff9c38"),
    "blue": ("#1c3a9c", "#6f9cf8"),
}
LEAVES = ("#c8301a", "#e0641a", "#a01c1c", "#d8481e")


def rain(stage: Stage, asked: Asked) -> Tensor:
    strong = asked["strength"] == "strong"
    time = STORMS[asked["time"]]
    picture = land(stage, clouds(stage, sky(stage, time), time, 0.75, 0.05), asked["setting"], time)
    veils = {"storm": "#7d8790", "dusk storm": "#75636c", "dark storm": "#1c222e"}
    veil = 0.3 if strong else 0.15
    picture = blend(picture, rgb(veils[time]), veil)
    bright = rgb("#9fb2cc" if time == "dark storm" else "#e8f2fa")
    slant = stage.between("slant", 0.06, 0.22) * stage.side("wind")
    for layer, near in enumerate((0.4, 1.0)):
        count = (150, 44)[layer] if strong else (60, 20)[layer]
        px, py, length = _drops(stage, f"rain {layer}", count, near, slant)
        streak = torch.zeros((), device=stage.device)
        for part in (-1.0, 0.0, 1.0):  # a slanting drop as three upright ones
            streak = streak + stage.dots(
                px - part * slant.squeeze(-1) * length,
                py + part * length,
                0.003 + 0.009 * near,
                torch.full_like(py, 0.5),
                0.65 * length,
            )
        picture = lit(picture, bright, (streak * (1.0 if strong else 0.85)).clamp(0, 0.85))
    return lit(picture, bright, _splashes(stage, 46 if strong else 16))


def _drops(stage: Stage, name: str, count: int, near: float, slant: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where drops are, and half of a streak's length; they fall for ever, each on its line."""
    speed = (0.6 + 0.4 * near) * stage.between(f"{name} speed", 0.9, 1.1, count)
    length = 0.01 + 0.07 * near * stage.between(f"{name} length", 0.6, 1.2, count)
    py = (stage.between(f"{name} y", 0, 1.3, count) + speed * stage.seconds.squeeze(-1)) % 1.3 - 0.15
    px = stage.between(f"{name} x", -0.85, 0.85, count) * max(1.0, stage.aspect) - slant.squeeze(-1) * py
    return px, py, length


def _splashes(stage: Stage, count: int) -> Tensor:
    """Where drops hit the ground: flat rings of light, in other places in every frame."""
    frames = stage.seconds.shape[1]
    px = (stage.chance("splash x", frames, count) - 0.5) * 1.3 * max(1.0, stage.aspect)
    py = 0.76 + 0.26 * stage.chance("splash y", frames, count)
    size = 0.006 + 0.02 * (py - 0.7)
    return (0.6 * stage.dots(px, py, size * 1.6, torch.ones_like(px), size * 0.45)).clamp(0, 0.6)


def snow(stage: Stage, asked: Asked) -> Tensor:
    strong, time = asked["strength"] == "strong", asked["time"]
    hour = {"day": "storm", "dusk": "dusk", "night": "night"}[time]
    picture = backdrop(stage, asked["setting"], hour, 0.5)
    light = light_of(time) * 0.85 + 0.1
    ground = smoothstep(0.66, 0.74, stage.y()) * 0.92
    drift = 0.94 + 0.04 * stage.fractal("drift", stage.x() * 0.4, stage.y() * 1.5, 6, 3)
    picture = blend(picture, rgb("#dfe8f2") * light, 0.15)  # a veil, and snow on all that stands
    picture = over(picture, rgb("#f4f8fd") * light * drift.unsqueeze(1), ground.expand(-1, drift.shape[1], -1, drift.shape[3]))
    wind = stage.between("wind", -0.04, 0.04)
    for layer, (near, count, size, speed) in enumerate(((0.3, 90, 0.008, 0.13), (0.6, 24, 0.032, 0.19), (1.0, 14, 0.055, 0.26))):
        count = count if strong else count // 2
        name, t = f"flakes {layer}", stage.seconds.squeeze(-1)
        sway = 0.02 * near * torch.sin(2.5 * t + stage.between(f"{name} phase", 0, 6.28, count))
        across, down = stage.scatter(name, count)
        py = (1.2 * down + speed * t) % 1.2 - 0.1
        px = 1.6 * (across - 0.5) * max(1.0, stage.aspect) + sway + wind.squeeze(-1) * near * t
        flakes = stage.dots(px, py, size * stage.between(f"{name} size", 0.8, 1.1, count), torch.full_like(py, 1.8), near=near)
        picture = over(picture, rgb("#ffffff") * (0.35 + 0.65 * light), flakes.clamp(0, 0.95))
    return picture


def lightning(stage: Stage, asked: Asked) -> Tensor:
    time = STORMS["night"]
    picture = sky(stage, time, 0.7, stars=False)
    picture = clouds(stage, picture, time, 0.95, 0.05, 0.75)
    count = stage.progress.shape[1]
    flashes = [
        _flash(stage, f"flash {number}", early, late, count) for number, (early, late) in enumerate(((0.12, 0.2), (0.55, 0.65)))
    ]
    glow = (flashes[0] + flashes[1]).clamp(0, 1)
    relief = (0.55 + 0.2 * stage.fractal("relief", stage.x(0.2) * 0.5, stage.y(0.2) * 0.8, 6, 4)).clamp(0, 1)
    picture = lit(picture, rgb("#8f9be0"), glow * relief * (1.05 - 0.5 * stage.y()))
    for number, flash in enumerate(flashes):
        picture = _bolt(stage, picture, f"bolt {number}", flash)
    ground = land(stage, picture, asked["setting"], time, 0.7)
    solid = smoothstep(0.62, 0.76, stage.y())
    return lit(ground, rgb("#8090c8"), 0.22 * glow * solid)


def _flash(stage: Stage, name: str, early: float, late: float, frames: int) -> Tensor:
    """How bright a flash is: at once, then dying away over a few frames. (B, T, 1, 1)."""
    start = torch.round(stage.between(name, early, late) * (frames - 1))
    since = torch.arange(frames, device=stage.device).view(1, -1, 1, 1) - start
    return torch.where(since >= 0, torch.exp(-0.5 * since.clamp(min=0)), 0.0)


def _bolt(stage: Stage, picture: Tensor, name: str, flash: Tensor) -> Tensor:
    """A bolt goes down only, so it is a function of the height; two branches leave it."""
    x, y = stage.x(0.2), stage.y(0.2)
    start, lean = stage.between(f"{name} x", -0.1, 0.1), stage.between(f"{name} lean", -0.08, 0.08)

    def path(part: str, wild: float) -> Tensor:
        return wild * stage.fractal(f"{name} {part}", y * 0.5, stage.between(f"{name} {part}", 0, 1), 8, 5, 0.62)

    trunk = start + lean * y + path("trunk", 0.035)
    away = (x - trunk).abs() + 10 * smoothstep(0.68, 0.75, y)
    light = torch.exp(-((away / max(0.018, stage.pixel)) ** 2)) + 0.4 * torch.exp(-away / 0.04)
    for number, side in enumerate((-1.0, 1.0)):
        fork = stage.between(f"{name} fork {number}", 0.15, 0.42)
        twig = trunk + side * 0.55 * (y - fork) + path(f"twig {number}", 0.02)
        away = (x - twig).abs() + 10 * (y < fork) + 10 * smoothstep(fork + 0.15, fork + 0.22, y)
        light = light + 0.8 * torch.exp(-((away / max(0.012, stage.pixel)) ** 2)) + 0.15 * torch.exp(-away / 0.03)
    return lit(picture, rgb("#f0f2ff"), (light * (1.6 * flash - 0.3).clamp(0, 1)).clamp(0, 1))


def falling_leaves(stage: Stage, asked: Asked) -> Tensor:
    light = 0.6 * light_of(asked["time"]) + 0.4  # or red leaves are lost against the sky at dusk
    picture = _autumn(stage, light)
    count = 10 if asked["strength"] == "many" else 5
    t = stage.seconds.squeeze(-1)  # (1, T, 1)
    size = stage.between("leaf size", 3.7, 4.1, count)
    order = torch.arange(count, device=stage.device)
    phase = 2.4 * order + stage.between("leaf phase", -0.3, 0.3, count)
    across, down = stage.scatter("leaves", count)
    py = (1.3 * down + 0.26 * t) % 1.3 - 0.15
    px = 1.5 * (across - 0.5) * max(1.0, stage.aspect) + 0.05 * torch.sin(2.4 * t + phase)
    turn = phase + (1 - 2 * (order % 2)) * stage.between("leaf spin", 1.2, 1.6, count) * t
    flat = 0.45 + 0.55 * torch.cos(2.4 * t + 1.7 * phase).abs()  # it tumbles: seen from its side it is narrow
    palette = torch.cat([rgb(code).view(1, 3) for code in LEAVES])
    hue = palette[order % len(LEAVES)]  # (P, 3)
    colour = hue.T.view(1, 3, 1, -1) * light.view(1, 3, 1, 1)
    total: Tensor | float = 0.0
    painted: Tensor | float = 0.0
    for place in (-1.2, -0.4, 0.4, 1.2):  # a leaf is a row of points, the middle ones larger
        reach, radius = 0.015 * size * place * flat, 0.0145 * size * (1.2 - 0.5 * abs(place))
        at = (px + reach * torch.cos(turn), py + reach * torch.sin(turn))
        weight = torch.ones_like(py)
        total = total + stage.dots(*at, radius, weight)
        painted = painted + stage.dots(*at, radius, weight.unsqueeze(1) * colour)
    assert isinstance(total, Tensor) and isinstance(painted, Tensor)
    return over(picture, painted / total.unsqueeze(1).clamp(min=1e-3), smoothstep(0.3, 0.75, total))


def _autumn(stage: Stage, light: Tensor) -> Tensor:
    """A pale sky beside an old tree, its crown along the top, and leaves on the ground.

    Not a wood of many trunks: leaves are seen before it, but a small network paints trunks and leaves into one another.
    """
    picture = blend(rgb("#fff4da", light), rgb("#f4d9a4", light), smoothstep(0.0, 0.75, stage.y(0.1)).unsqueeze(1))
    picture = picture.expand(len(stage.seeds), -1, -1, -1, -1)
    far = 0.7 - 0.035 * stage.profile("far trees", stage.x(0.25) * 0.6, 8, 4)
    picture = over(picture, rgb("#e9b868", light), stage.cover(far - stage.y(0.25), 0.02))
    x, y = stage.x(0.7) + 0.4 * max(1.0, stage.aspect) + stage.between("trunk", -0.03, 0.03), stage.y(0.7)
    bark = 0.06 + 0.06 * smoothstep(0.55, 0.85, y) - 0.03 * y + 0.006 * stage.profile("bark", y * 0.6, 8, 3)
    shade = (1.05 - 5 * x).clamp(0.5, 1.4).unsqueeze(1)  # lit from the left
    picture = over(picture, rgb("#5a3d28", light) * shade, stage.cover(x.abs() - bark, 0.008) * stage.cover(y - 0.84))
    for near, lift, pale, dark in ((0.6, 0.2, "#f0b040", "#c8641e"), (0.7, 0.12, "#e88a28", "#a33e16")):
        x, y = stage.x(near), stage.y(near)
        lumps = stage.fractal(f"crown {near}", x * 0.7, y * 0.8, 6, 6, 0.62)
        mask = smoothstep(0.0, 0.06, lift - 0.22 * x + 0.04 * lumps - y)
        picture = over(picture, blend(rgb(dark, light), rgb(pale, light), (0.5 + 0.27 * lumps).clamp(0, 1).unsqueeze(1)), mask)
    edge = 0.78 - 0.02 * stage.profile("floor", stage.x() * 0.3, 4, 2)
    picture = hill(stage, picture, edge, rgb("#b8662a", light), 1.0, 0.12, 0.25)
    litter = smoothstep(0.5, 1.4, stage.fractal("litter", stage.x() * 1.2, stage.y() * 2.4, 16, 4, 0.8))
    return over(picture, rgb("#efa63c", light), 0.6 * litter * stage.cover(edge - stage.y(), 0.03))


def grass(stage: Stage, asked: Asked) -> Tensor:
    time, strong = asked["time"], asked["strength"] == "strong"
    light, t = light_of(time), stage.seconds
    picture = land(stage, clouds(stage, sky(stage, time, 0.5), time, 0.3, 0.03, 0.5), asked["setting"], time, 0.44)
    sway = 0.26 if strong else 0.12
    wind = stage.side("wind")
    rows = 6
    for row in range(rows):
        near = 0.55 + 0.45 * row / (rows - 1)
        x, y = stage.x(near), stage.y(near)
        foot, tall = 0.66 + 0.1 * row, 0.16 + 0.045 * row
        up = (foot - y).clamp(min=0)
        gust = (
            stage.profile("gust", (x - wind * 0.75 * t) * 0.2, 4, 2)
            if strong
            else 0.6 * stage.profile("gust", (x - wind * 0.5 * t) * 0.25, 4, 2)
        )
        bow = sway * (0.35 * wind + gust * 0.6 + 0.35 * torch.sin((5.5 if strong else 3.5) * t + 5 * x + row))
        root = x - bow * up**1.4 / tall**0.4
        blades = stage.fractal(f"blades {row}", root * (1.0 - 0.07 * row), 0.37 + 0.11 * row, 64, 2, 0.4)
        edge = foot - tall * (0.62 + 0.24 * blades)
        shade = 0.55 + 0.07 * row + 0.55 * (up / tall) * (0.8 + 0.25 * blades) + 0.07 * gust
        green = blend(rgb("#3f6e22", light), rgb("#8fb845", light), (up / tall).clamp(0, 1).unsqueeze(1))
        picture = over(picture, green * shade.unsqueeze(1).clamp(0.1, 1.25), stage.cover(edge - y, 0.012))
    return picture


def flower(stage: Stage, asked: Asked) -> Tensor:
    """From above and in front of a blurred garden; three whorls of petals unfold, the outer one first."""
    dark, bright = (rgb(code) for code in FLOWERS[asked["colour"]])
    x, y = stage.x(0.4), stage.y(0.4)
    blur = stage.fractal("garden", x * 0.35, y * 0.35, 4, 2)
    picture = blend(rgb("#173d1c"), rgb("#7fae58"), (0.4 + 0.2 * blur + 0.25 * (1 - y)).clamp(0, 1).unsqueeze(1))
    spots = stage.dots(
        stage.between("spot x", -0.7, 0.7, 12), stage.between("spot y", 0, 1, 12), 0.07, torch.full((1, 1, 12), 0.25), near=0.4
    )
    picture = lit(picture, rgb("#d6f0a0"), spots.clamp(0, 0.4))
    cx, cy = stage.between("flower x", -0.05, 0.05), stage.between("flower y", 0.4, 0.46)
    picture = over(picture, rgb("#3c7a2c"), stage.line(cx, cy, cx + 0.05, 1.1, 0.03))
    picture = _leaf(stage, picture, cx + 0.03, cy + 0.38, -1.0)
    picture = _leaf(stage, picture, cx + 0.03, cy + 0.44, 1.0)
    x, y = stage.x() - cx, stage.y() - cy
    reach, angle = torch.hypot(x, y), torch.atan2(y, x)
    petals = torch.round(stage.between("petals", 5, 8))
    for whorl, (size, share) in enumerate(((0.36, 0.0), (0.28, 0.45), (0.19, 0.8))):
        opened = smoothstep(0.0, 1.0, (0.06 + 1.12 * stage.progress - 0.13 * whorl))
        radius = size * (0.2 + 0.8 * opened)
        turn = angle + stage.between("turn", 0, 6.28) + whorl * math.pi / petals + 0.5 * (1 - opened)
        lobe = torch.cos(petals * turn / 2).abs()
        edge = radius * (1 - (0.15 + 0.65 * opened) * (1 - lobe) ** 1.6)
        inner = (reach / edge.clamp(min=1e-3)).clamp(0, 1)
        shade = (0.2 + 0.6 * inner + 0.3 * lobe - 0.2 + 0.1 * share).clamp(0, 1)
        ring = smoothstep(1.0, 0.86, inner)
        picture = over(picture, dark * 0.3, 0.45 * smoothstep(0.05, -0.02, reach - edge))
        picture = over(picture, blend(dark, bright, (shade * (0.72 + 0.28 * ring)).unsqueeze(1)), stage.cover(reach - edge, 0.008))
    heart = 0.065 * smoothstep(0.25, 0.9, stage.progress)
    grain = 0.85 + 0.15 * torch.sin(90 * x) * torch.sin(90 * y)
    return over(picture, rgb("#f5c431") * grain.unsqueeze(1), stage.cover(reach - heart, 0.012) * (heart > 0.008))


def _leaf(stage: Stage, picture: Tensor, cx: Tensor, cy: Tensor, side: float) -> Tensor:
    """A leaf that grows from the stem to one side and upwards."""
    x, y = (stage.x() - cx) * side, stage.y() - cy
    along, across = 0.86 * x - 0.5 * y, 0.86 * y + 0.5 * x
    width = 0.062 * torch.sin((along / 0.27).clamp(0, 1) * math.pi)
    colour = blend(rgb("#4f9a3a"), rgb("#2c6526"), smoothstep(-0.01, 0.01, across).unsqueeze(1))
    return over(picture, colour, stage.cover(across.abs() - width))
