"""What lies behind a scene: the sky at its hour, and mountains, forest, desert, city or beach in layers that pale with distance."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from theseus_core.world import canvas
from theseus_core.world.scene_stage import Stage, blend, lit, over, rgb, smoothstep

TIMES = ("day", "dusk", "night")
SETTINGS = ("forest", "mountains", "desert", "city", "beach")

SKIES = {  # top, middle, horizon
    "day": ("#2f74c8", "#74b3ea", "#d6ecf8"),
    "dusk": ("#2b2a5e", "#a9527a", "#f8a860"),
    "night": ("#040818", "#0a1434", "#1c2f5a"),
    "storm": ("#39424d", "#5b6672", "#98a3ab"),
    "dusk storm": ("#3a3350", "#6b5468", "#a8857e"),
    "dark storm": ("#0b0e16", "#181d29", "#2b3341"),
}
LIGHTS = {
    "day": "#ffffff",
    "dusk": "#b57f78",
    "night": "#37466a",
    "storm": "#8e979e",
    "dusk storm": "#7d6468",
    "dark storm": "#262d3a",
}
HORIZON = 0.58


def light_of(time: str) -> Tensor:
    """What the hour leaves of a colour: (1, 3, 1, 1, 1)."""
    return rgb(LIGHTS[time])


def haze_of(time: str) -> Tensor:
    return rgb(SKIES[time][2])


def sky(stage: Stage, time: str, horizon: float = HORIZON, stars: bool = True) -> Tensor:
    """A clear sky, with stars at night: a picture whose sides are 1 where it does not change."""
    height = stage.y(0.1) / horizon
    top, middle, low = (rgb(code) for code in SKIES[time])
    picture = blend(top, middle, smoothstep(0.0, 0.65, height).unsqueeze(1))
    picture = blend(picture, low, smoothstep(0.45, 1.05, height).unsqueeze(1))
    picture = picture.expand(len(stage.seeds), -1, -1, -1, -1)
    return lit(picture, rgb("#e8eeff"), starlight(stage, 70)) if stars and time == "night" else picture


def starlight(stage: Stage, count: int, twinkle: float = 0.35, speed: float = 6.0) -> Tensor:
    """Stars over the upper part of the frame, as a field."""
    px = stage.between("star x", -0.8, 0.8, count) * max(1.0, stage.aspect)
    py = stage.between("star y", -0.1, 0.9, count)
    size = 0.0035 + 0.006 * stage.between("star size", 0, 1, count) ** 4
    phase = stage.between("star phase", 0, 6.28, count)
    bright = 0.35 + 0.65 * stage.between("star bright", 0, 1, count)
    weight = bright * (1 - twinkle + twinkle * torch.sin(phase + speed * stage.seconds.squeeze(-1)))
    return stage.dots(px, py, size, weight, near=0.1).clamp(0, 1)


def clouds(stage: Stage, picture: Tensor, time: str, amount: float, speed: Tensor | float, horizon: float = HORIZON) -> Tensor:
    """Clouds that drift to the right at `speed` (heights a second), flattened towards the horizon and lit from above."""
    x, y = stage.x(0.15), stage.y(0.15)
    depth = 0.35 / (1.12 * horizon - y).clamp(min=0.16)  # the sky as a ceiling: further away, smaller
    drift = stage.seconds * speed
    u, v = 0.36 * (x * (0.6 + 0.5 * depth) - drift * 0.8), 0.62 * depth + 0.1 * stage.seconds * 0.1
    tile = stage.tile("cloud", 4, 6, 0.55)
    above = (y < horizon).float()
    thick = stage.look(tile, u, v)
    mean = (thick * above).mean((1, 2, 3), keepdim=True) / above.mean()  # else some skies would be all cloud, and some have none
    thick = thick - 0.85 * mean
    lower = stage.look(tile, u + 0.01, v + 0.035) - 0.85 * mean
    mask = smoothstep(0.75 - 1.1 * amount, 1.6 - 1.0 * amount, thick) * smoothstep(1.02 * horizon, 0.72 * horizon, y)
    shade = (0.62 + 0.3 * (thick - lower)).clamp(0, 1).unsqueeze(1)
    dark, bright = CLOUDS[time]
    return over(picture, blend(rgb(dark), rgb(bright), shade), mask * 0.96)


CLOUDS = {
    "day": ("#93a5b8", "#ffffff"),
    "dusk": ("#6d4668", "#ffc08e"),
    "night": ("#0d1530", "#3c4c74"),
    "storm": ("#3b444e", "#8b959d"),
    "dusk storm": ("#3c3446", "#94787e"),
    "dark storm": ("#141925", "#4b5568"),
}


def land(stage: Stage, picture: Tensor, setting: str, time: str, horizon: float = HORIZON) -> Tensor:
    """A landscape laid over a sky, down to the bottom of the frame."""
    return LANDS[setting](stage, picture, time, horizon)


def backdrop(stage: Stage, setting: str, time: str, cloudy: float = 0.3, horizon: float = HORIZON) -> Tensor:
    """Sky, a few clouds and a landscape."""
    picture = sky(stage, time, horizon)
    if cloudy:
        picture = clouds(stage, picture, time, cloudy, 0.01, horizon)
    return land(stage, picture, setting, time, horizon)


def hill(
    stage: Stage, picture: Tensor, edge: Tensor, colour: Tensor, near: float, texture: float = 0.0, fade: float = 0.0
) -> Tensor:
    """Everything below a silhouette.

    Args:
        edge: its height, (B, T, 1, W).
        texture: how much patches of light and shade vary.
        fade: how much it darkens towards its foot.
    """
    y = stage.y(near)
    shade = 1 - fade * smoothstep(0.0, 0.45, y - edge)
    if texture:
        shade = shade + texture * stage.fractal(f"ground {near}", stage.x(near) * 0.6, y * 1.5, 8, 5, 0.6)
    return over(picture, colour * shade.unsqueeze(1).clamp(min=0.2), stage.cover(edge - y))


def _mountains(stage: Stage, picture: Tensor, time: str, horizon: float) -> Tensor:
    light, haze = light_of(time), haze_of(time)
    for name, near, rise, code, snow in (("far", 0.2, 0.3, "#7d8fa6", 0.75), ("mid", 0.35, 0.2, "#56687a", 0.5)):
        x, y = stage.x(near), stage.y(near)
        ridge = stage.profile(f"{name} ridge", x * 0.33, 4, 6, 0.5)
        edge = horizon - 0.02 - rise * (0.62 + 0.42 * ridge - 0.22 * stage.profile(f"{name} crest", x * 0.9, 4, 4).abs())
        slope = stage.fractal(f"{name} rock", x * 1.2 + 0.5 * y, y * 0.5, 8, 4)
        colour = blend(rgb(code, light), haze, 0.45 if name == "far" else 0.15) * (1 + 0.16 * slope).unsqueeze(1)
        white = smoothstep(0.02, -0.03, y - edge - 0.16 * rise * (2 + slope)) * snow
        colour = over(colour, blend(rgb("#f4f8ff", light), haze, 0.15), white)
        picture = over(picture, colour, stage.cover(edge - y))
    return _meadow(stage, picture, time, horizon, "#4c7a3a")


def _meadow(stage: Stage, picture: Tensor, time: str, horizon: float, code: str) -> Tensor:
    light, haze = light_of(time), haze_of(time)
    for number, (near, drop, share) in enumerate(((0.5, 0.02, 0.3), (0.7, 0.12, 0.1), (1.0, 0.25, 0.0))):
        edge = horizon + drop - 0.025 * stage.profile(f"meadow {number}", stage.x(near) * 0.3, 4, 2)
        colour = blend(rgb(code, light), haze, share) * (1.0 - 0.13 * number)
        picture = hill(stage, picture, edge, colour, near, 0.07, 0.35)
    return picture


def spruces(stage: Stage, name: str, x: Tensor, spacing: float, height: float) -> Tensor:
    """How far a row of conifers rises: (B, T, 1, W), from 0 to about `height`."""
    place = x / spacing
    top = torch.zeros((), device=stage.device)
    for shift in (0.0, 0.37, 0.71):
        cell = torch.floor(place + shift)
        size = _cell(stage, f"{name} {shift}", cell)
        away = (place + shift - cell - 0.5).abs() * 2
        serrated = away + 0.1 * (0.5 - (6 * away) % 1)
        top = torch.maximum(top, (0.45 + 0.55 * size) * (1 - 1.25 * serrated).clamp(min=0))
    return height * top


def _cell(stage: Stage, name: str, cell: Tensor) -> Tensor:
    """A number from 0 to 1 that belongs to a cell of a row, and to the clip."""
    seeds = stage.chance(name, 1).mul(2**24).long().view(-1, 1, 1, 1)
    return canvas.uniform(seeds, cell.long())


def _forest(stage: Stage, picture: Tensor, time: str, horizon: float) -> Tensor:
    light, haze = light_of(time), haze_of(time)
    rows = (
        (0.3, 0.16, 0.05, 0.1, "#4f7a5c", 0.5),
        (0.5, 0.07, 0.075, 0.17, "#3c6a42", 0.25),
        (0.75, 0.0, 0.12, 0.26, "#2c5530", 0.08),
    )
    for near, lift, spacing, height, code, share in rows:
        x = stage.x(near)
        edge = horizon + 0.06 - lift - 0.04 * stage.profile(f"forest {near}", x * 0.35, 4, 2)
        edge = edge - spruces(stage, f"spruce {near}", x, spacing, height)
        picture = hill(stage, picture, edge, blend(rgb(code, light), haze, share), near, 0.14, 0.5)
    edge = horizon + 0.13 - 0.02 * stage.profile("clearing", stage.x() * 0.4, 4, 3)
    return hill(stage, picture, edge, rgb("#5c8a3c", light), 1.0, 0.1, 0.4)


def _desert(stage: Stage, picture: Tensor, time: str, horizon: float) -> Tensor:
    light, haze = light_of(time), haze_of(time)
    x = stage.x(0.25)
    mesa = smoothstep(0.35, 0.6, stage.profile("mesa", x * 0.3, 4, 2)) * (0.16 + 0.008 * stage.profile("mesa top", x, 8, 3))
    picture = hill(stage, picture, horizon - mesa, blend(rgb("#a8563a", light), haze, 0.35), 0.25, 0.1, 0.2)
    for number, (near, drop) in enumerate(((0.45, 0.0), (0.7, 0.09), (1.0, 0.22))):
        x, y = stage.x(near), stage.y(near)
        line = stage.profile(f"dune {number}", x * (0.32 - 0.06 * number), 4, 1)
        edge = horizon + drop - 0.045 * (1 + 0.6 * number) * (1 - line.abs())
        down = (y - edge).clamp(min=0)
        ripple = 0.03 * torch.sin(90 * down / (0.4 + down) + 3 * line) if number == 2 else 0.0
        side = smoothstep(-0.6, 0.6, line + 3 * (y - edge))  # the lee side lies in shade
        colour = blend(rgb("#b9793f", light), rgb("#edc27c", light), side.unsqueeze(1) + ripple_of(ripple))
        picture = over(picture, blend(colour, haze, 0.3 - 0.15 * number), stage.cover(edge - y))
    return picture


def ripple_of(value: Tensor | float) -> Tensor | float:
    return value.unsqueeze(1) if isinstance(value, Tensor) else value


def _city(stage: Stage, picture: Tensor, time: str, horizon: float) -> Tensor:
    light, haze = light_of(time), haze_of(time)
    lamps = {"day": 0.0, "dusk": 0.55, "storm": 0.25}.get(time, 0.85)
    for near, width, rise, code, share in ((0.3, 0.075, 0.36, "#8793a3", 0.5), (0.5, 0.11, 0.25, "#66707f", 0.12)):
        x, y = stage.x(near), stage.y(near)
        cell = torch.floor(x / width)
        inside = x / width - cell
        height = rise * (0.3 + 0.7 * _cell(stage, f"house {near}", cell) ** 1.5)
        edge = horizon + 0.05 - height * (inside < 0.93)
        shade = (0.85 + 0.3 * _cell(stage, f"shade {near}", cell)) * (1.06 - 0.25 * inside)
        colour = blend(rgb(code, light), haze, share) * shade.unsqueeze(1)
        colour = over(colour, rgb("#ffd98a") if lamps else colour * 0.72, _windows(stage, near, x, y - edge, cell, inside, lamps))
        picture = over(picture, colour, stage.cover(edge - y))
    quay = torch.as_tensor(horizon + 0.04, device=stage.device).view(1, 1, 1, 1)
    return hill(stage, picture, quay, rgb("#5c626b", light), 0.8, 0.03, 0.35)


def _windows(stage: Stage, near: float, x: Tensor, depth: Tensor, cell: Tensor, inside: Tensor, lamps: float) -> Tensor:
    """A grid of windows below the roof; by night only some are lit."""
    columns, rows = inside * 4, depth / (0.055 * near / 0.5)
    column, row = torch.floor(columns), torch.floor(rows)
    pane = smoothstep(0.5, 0.3, (columns - column - 0.5).abs()) * smoothstep(0.5, 0.25, (rows - row - 0.5).abs())
    lit_up = _cell(stage, f"lamp {near}", cell * 4096 + column * 64 + row) < (lamps or 1.0) * 0.6
    return pane * lit_up * (depth > 0) * (0.9 if lamps else 0.5)


def _beach(stage: Stage, picture: Tensor, time: str, horizon: float) -> Tensor:
    picture = water(stage, picture, time, horizon)
    x, y = stage.x(), stage.y()
    wash = 0.012 * torch.sin(1.6 * stage.seconds) + 0.02 * stage.profile("shore", x * 0.4, 4, 3)
    edge = horizon + 0.2 + wash
    light = light_of(time)
    picture = over(picture, rgb("#ffffff", light), stage.cover((y - edge).abs() - 0.008, 0.012))
    picture = hill(stage, picture, edge + 0.008, rgb("#e6cd96", light), 1.0, 0.04, 0.25)
    wet = smoothstep(0.1, 0.0, y - edge) * stage.cover(edge + 0.008 - y)
    return over(picture, rgb("#a98d5f", light), 0.6 * wet)


def water(stage: Stage, picture: Tensor, time: str, horizon: float, speed: float = 1.0) -> Tensor:
    """A calm sea from the horizon down, with glints that shimmer and come nearer."""
    x, y = stage.x(0.6), stage.y(0.6)
    depth = (y - horizon).clamp(min=0.004)
    u, v = 0.06 * x / (depth + 0.05), 0.16 * torch.log(depth + 0.03)
    tile = stage.tile("glint", 8, 5, 0.6)
    move = speed * stage.seconds
    ripple = stage.look(tile, u + 0.02 * move, v - 0.03 * move) + stage.look(tile, 0.43 - u + 0.03 * move, v - 0.045 * move)
    colour = blend(
        blend(haze_of(time), rgb("#2a7ab0", light_of(time)), 0.5),
        rgb("#14507e", light_of(time)),
        smoothstep(0.0, 0.4, depth).unsqueeze(1),
    )
    bright = (0.12 * ripple).clamp(-0.25, 0.4) * smoothstep(0.0, 0.05, depth)
    colour = colour * (1 + bright.unsqueeze(1)) + haze_of(time) * (0.5 * (bright - 0.13).clamp(min=0)).unsqueeze(1)
    return over(picture, colour, stage.cover(horizon - y))


LANDS: dict[str, Callable[[Stage, Tensor, str, float], Tensor]] = {
    "forest": _forest,
    "mountains": _mountains,
    "desert": _desert,
    "city": _city,
    "beach": _beach,
}
