"""What can be measured in a clip of a scene from its pixels alone: light, colour, change, flow, what glows or stands out.

Every measure is a number with a name. The clip is brought to 48 rows first, so that a measure means the same at any size and
hardly knows whether a clip is sharp or soft; amounts that span orders of magnitude are taken as logarithms.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

SIDE = 48  # rows in which is measured
REACH = 7  # pixels that something may move between the frames that are compared
SLOWLY = 3  # frames between those that are compared for what is slow
FEWEST = 5  # frames in which motion can be measured
BANDS = 6  # of rows, from the top to the bottom
REGIONS = {  # (top, bottom, left, right) in shares of the frame
    "whole": (0.0, 1.0, 0.0, 1.0),
    "top": (0.0, 0.4, 0.0, 1.0),
    "middle": (0.3, 0.7, 0.0, 1.0),
    "bottom": (0.6, 1.0, 0.0, 1.0),
    "centre": (0.2, 0.8, 0.3, 0.7),
}


def measures(video: Tensor) -> dict[str, float]:
    """All measures of a clip (3, T, H, W) in [-1, 1], by name. Those of two mirrored clips are alike."""
    video = (video.float().cpu() + 1) / 2
    if (lacking := FEWEST - video.shape[1]) > 0:  # what is over too soon stands still
        video = torch.cat((video, video[:, -1:].expand(-1, lacking, -1, -1)), 1)
    width = max(12, round(video.shape[-1] * SIDE / video.shape[-2]))
    video = F.interpolate(video.transpose(0, 1), (SIDE, width), mode="area").transpose(0, 1)
    light = 0.299 * video[0] + 0.587 * video[1] + 0.114 * video[2]  # (T, H, W)
    found = _palette(video, light) | _times(light) | _changes(video, light) | _details(light) | _flows(light)
    found |= _glow(light) | _standing_out(video) | _odd(video)
    return {name: float(value) for name, value in found.items()}


def _region(field: Tensor, name: str) -> Tensor:
    top, bottom, left, right = REGIONS[name]
    height, width = field.shape[-2:]
    return field[..., round(top * height) : round(bottom * height), round(left * width) : round(right * width)]


def _bands(name: str, field: Tensor) -> dict[str, Tensor]:
    """Means of a field (H, W) in bands of rows, each in the middle third and at the sides of the frame."""
    cells = F.adaptive_avg_pool2d(field.view(1, 1, *field.shape), (BANDS, 3))[0, 0]
    found = {f"{name} middle {band}": cells[band, 1] for band in range(BANDS)}
    return found | {f"{name} sides {band}": (cells[band, 0] + cells[band, 2]) / 2 for band in range(BANDS)}


def _vivid(video: Tensor) -> Tensor:
    red, green, blue = video
    return torch.maximum(red, torch.maximum(green, blue)) - torch.minimum(red, torch.minimum(green, blue))


def _log(amount: Tensor, least: float = 1e-3) -> Tensor:
    return torch.log(amount + least)


def _palette(video: Tensor, light: Tensor) -> dict[str, Tensor]:
    """Light, warmth (red over blue), greenness and colourfulness, and how much of them there is anywhere."""
    red, green, blue = video.mean(1)
    vivid = _vivid(video)
    found = _bands("light", light.mean(0)) | _bands("warmth", red - blue) | _bands("green", green - (red + blue) / 2)
    found |= _bands("vivid", vivid.mean(0))
    ordered = light[::4].flatten().sort().values
    for share in (5, 25, 50, 75, 95, 99):
        found[f"light of {share} %"] = ordered[share * (len(ordered) - 1) // 100]
    return found | {
        "dark share": (light < 0.25).float().mean(),
        "vivid share": (vivid > 0.45).float().mean(),
        "light falloff": _region(light, "top").mean() - _region(light, "bottom").mean(),
        "warmth": (red - blue).mean(),
        "green": (green - (red + blue) / 2).mean(),
    }


def _times(light: Tensor) -> dict[str, Tensor]:
    """How the light comes and goes."""
    found: dict[str, Tensor] = {}
    for name in REGIONS:
        level = _region(light, name).mean((1, 2))  # (T,)
        quarter = len(level) // 4
        step = level.diff()
        found |= {
            f"brightening {name}": level[-quarter:].mean() - level[:quarter].mean(),
            f"flash {name}": step.max(),
            f"fading {name}": step.min(),
            f"flicker {name}": _log((step - step.mean()).abs().mean()),
        }
    return found


def _changes(video: Tensor, light: Tensor) -> dict[str, Tensor]:
    """Where in the frame there is change, and how much of it."""
    found: dict[str, Tensor] = {}
    for name, apart in (("change", 1), ("slow change", 4)):
        change = (light[apart:] - light[:-apart]).abs().mean(0)  # (H, W)
        total = change.sum() + 1e-6
        rows, columns = (torch.linspace(0, 1, size) for size in change.shape)
        height = (change.sum(1) * rows).sum() / total
        middle = (change.sum(0) * columns).sum() / total
        found |= {key: _log(value, 3e-3) for key, value in _bands(name, change).items()}
        found |= {
            f"{name}": _log(change.mean()),
            f"{name} height": height,
            f"{name} spread": ((change.sum(1) * (rows - height) ** 2).sum() / total).sqrt(),
            f"{name} width": ((change.sum(0) * (columns - middle) ** 2).sum() / total).sqrt(),
            f"{name} peaked": _log(change.flatten().topk(change.numel() // 10).values.sum() / total),
        }
        found |= {f"{name} {region}": _region(change, region).sum() / total for region in ("top", "middle", "bottom", "centre")}
    step = video.diff(dim=1)
    found["change warmth"] = ((step[0].abs() - step[2].abs()).mean()) / (step.abs().mean() + 1e-3)
    return found


def _details(light: Tensor) -> dict[str, Tensor]:
    """Structure, fine and coarse, standing and passing, upright and lying, bright and dark against what is around it."""
    found: dict[str, Tensor] = {}
    coarse = light
    for size, grain in ((3, "fine"), (7, "coarse")):
        blurred = F.avg_pool2d(coarse.unsqueeze(1), size, 1, size // 2, count_include_pad=False).squeeze(1)
        detail, coarse = coarse - blurred, blurred
        for name in ("top", "middle", "bottom"):
            part = _region(detail, name)
            passing = part - part.mean(0, keepdim=True)
            amount = part.abs().mean()
            found |= {
                f"{grain} {name}": _log(amount),
                f"{grain} passing {name}": _log(passing.abs().mean()),
                f"{grain} shimmer {name}": _log(part.diff(dim=0).abs().mean() / (amount + 2e-3), 0.05),
                f"{grain} points {name}": (part.pow(3).mean() / (part.square().mean().pow(1.5) + 1e-6)).clamp(-6, 6),
            }
            for kind, field in (("", part), (" passing", passing)):
                across, down = field.diff(dim=2).abs().mean(), field.diff(dim=1).abs().mean()
                found[f"{grain}{kind} upright {name}"] = torch.log((across + 2e-3) / (down + 2e-3))
    return found


def _flows(light: Tensor) -> dict[str, Tensor]:
    """Which way what changes is going, by region, and whether the sides turn about or leave the middle."""
    sharp = light - F.avg_pool2d(light.unsqueeze(1), 9, 1, 4, count_include_pad=False).squeeze(1)
    found: dict[str, Tensor] = {}
    swift = sharp[1:-1] - (sharp[:-2] + sharp[2:]) / 2  # what moves as slowly as the camera does cancels out
    for name in REGIONS:
        agreement = _agreement(_region(swift, name), 1)
        found |= {f"swiftly falling {name}": _lead(agreement, 1), f"swiftly passing {name}": _lead(agreement.T, 1).abs()}
    for name in REGIONS:
        part = _region(sharp, name)
        for apart, how in ((1, ""), (SLOWLY, "slowly ")):
            agreement = _agreement(part, apart)
            across, down = _shift(agreement)
            found |= {
                f"{how}flow across {name}": across.abs(),
                f"{how}flow down {name}": down,
                f"{how}flow clear {name}": agreement.max(),
                f"{how}falling {name}": _lead(agreement),
                f"{how}passing {name}": _lead(agreement.T).abs(),
                f"{how}staying {name}": agreement[REACH, REACH],
            }
    halves = {"left": sharp[..., : sharp.shape[-1] // 2], "right": sharp[..., sharp.shape[-1] // 2 :]}
    halves |= {"upper": sharp[..., : sharp.shape[-2] // 2, :], "lower": sharp[..., sharp.shape[-2] // 2 :, :]}
    lead = {name: _agreement(half, 1) for name, half in halves.items()}
    sideways = _lead(lead["right"]) - _lead(lead["left"])
    found["turning"] = (sideways - (_lead(lead["lower"].T) - _lead(lead["upper"].T))).abs()
    found["spreading"] = _lead(lead["right"].T) - _lead(lead["left"].T) + _lead(lead["lower"]) - _lead(lead["upper"])
    return found


def _agreement(field: Tensor, apart: int) -> Tensor:
    """How well frames so far apart agree, once what stands still is taken away, at every shift: 1 at best.

    Returns:
        (2 REACH + 1, 2 REACH + 1): by rows for shifts down, by columns for shifts to the right; none is in the middle.
    """
    moving = field - field.mean(0, keepdim=True)
    size = (moving.shape[-2] + 2 * REACH, moving.shape[-1] + 2 * REACH)
    spectrum = torch.fft.rfft2(moving, s=size)
    common = torch.fft.irfft2((spectrum[apart:] * spectrum[:-apart].conj()).sum(0), s=size)
    near = torch.roll(common, (REACH, REACH), (0, 1))[: 2 * REACH + 1, : 2 * REACH + 1]
    energy = (moving[apart:].square().sum() * moving[:-apart].square().sum()).sqrt()
    return near / (energy + 1e-3)


def _shift(agreement: Tensor) -> tuple[Tensor, Tensor]:
    """The shift (across, down) in pixels at which frames agree best."""
    row, column = divmod(int(agreement.argmax()), 2 * REACH + 1)
    return torch.tensor(float(column - REACH)), torch.tensor(float(row - REACH))


def _lead(agreement: Tensor, beyond: int = 0) -> Tensor:
    """How much better frames agree when they are shifted down than when they are shifted up, by more than some pixels."""
    return agreement[REACH + 1 + beyond :].max() - agreement[: REACH - beyond].max()


def _glow(light: Tensor) -> dict[str, Tensor]:
    """The brightest patch: how high it stands at the start and the end, how far it goes, how large and how round it is."""
    smooth = F.avg_pool2d(light.unsqueeze(1), 3, 1, 1, count_include_pad=False).squeeze(1)
    brightest = smooth.amax((1, 2))
    return _track("glow", (smooth - 0.8 * brightest.view(-1, 1, 1)).clamp(min=0)) | {
        "glow light": brightest.median(),
        "glow contrast": (brightest - smooth.flatten(1).median(1).values).median(),
    }


def _standing_out(video: Tensor) -> dict[str, Tensor]:
    """The most vivid patch, which is where a coloured thing is."""
    vivid = _vivid(video)
    vivid = F.avg_pool2d(vivid.unsqueeze(1), 3, 1, 1, count_include_pad=False).squeeze(1)
    weight = (vivid - 0.75 * vivid.amax((1, 2), keepdim=True)).clamp(min=0)
    place = weight / (weight.sum((1, 2), keepdim=True) + 1e-6)
    found = _track("thing", weight)
    for number, name in enumerate(("red", "green", "blue")):
        found[f"thing {name}"] = (place * video[number]).sum((1, 2)).mean()
    return found


def _odd(video: Tensor) -> dict[str, Tensor]:
    """The patch whose colour is least like the rest of its rows, which is where a thing stands before a landscape."""
    away = (video - video.median(-1, keepdim=True).values).square().sum(0).sqrt()
    away = F.avg_pool2d(away.unsqueeze(1), 5, 1, 2, count_include_pad=False).squeeze(1)
    strength = away.amax((1, 2), keepdim=True)
    found = _track("odd", (away - 0.6 * strength).clamp(min=0))
    found["odd strength"] = strength.mean()
    return found


def _track(name: str, weight: Tensor) -> dict[str, Tensor]:
    """Where the middle of a weight (T, H, W) is, and how it moves."""
    rows, columns = (torch.linspace(0, 1, size) for size in weight.shape[1:])
    total = weight.sum((1, 2)) + 1e-6
    y = (weight.sum(2) * rows).sum(1) / total
    x = (weight.sum(1) * columns).sum(1) / total
    spread = ((weight.sum(2) * (rows - y[:, None]) ** 2).sum(1) + (weight.sum(1) * (columns - x[:, None]) ** 2).sum(1)) / total
    area = (weight > 0).float().mean((1, 2))
    quarter = len(y) // 4
    return {
        f"{name} y": y.mean(),
        f"{name} x": (x.mean() - 0.5).abs(),
        f"{name} rise": y[:quarter].mean() - y[-quarter:].mean(),
        f"{name} drift": (x[:quarter].mean() - x[-quarter:].mean()).abs(),
        f"{name} range y": y.amax() - y.amin(),
        f"{name} range x": x.amax() - x.amin(),
        f"{name} steps x": _log(x.diff().abs().mean(), 3e-3),
        f"{name} steps y": _log(y.diff().abs().mean(), 3e-3),
        f"{name} turns x": _turns(x),
        f"{name} turns y": _turns(y),
        f"{name} size": _log(area.mean(), 2e-3),
        f"{name} growth": torch.log((area[-quarter:].mean() + 2e-3) / (area[:quarter].mean() + 2e-3)),
        f"{name} compact": _log(spread.mean().sqrt() / (area.mean() + 1e-3).sqrt() * math.sqrt(2 * math.pi) / 2, 0.1),
    }


def _turns(path: Tensor) -> Tensor:
    """How much of its way a coordinate goes there and back: 0 for one way, near 1 for a swing."""
    steps = path.diff()
    return 1 - steps.sum().abs() / (steps.abs().sum() + 0.02)
