"""Training curves as a picture: one small panel a metric, training against held-out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from theseus_core.errors import TheseusError
from theseus_core.files import replacing

HELD_OUT = "eval/"  # a metric "loss" of training is "eval/loss" on the clips kept aside
NOT_METRICS = {"step", "epoch", "seconds", "waiting", "eval/seconds"}
TRAINING_COLOUR, HELD_OUT_COLOUR, GRID_COLOUR = "#3465a4", "#d9722e", "#e4e2dc"
MAX_POINTS = 2000  # more than a panel has pixels

Series = dict[str, tuple[list[float], list[float]]]  # name -> steps, values


def curves(journal: Sequence[Mapping[str, Any]], path: Path, title: str = "") -> Path:
    """Draw every number that a run has logged over its steps.

    Args:
        journal: the lines of `metrics.jsonl`; each has a "step" and numbers, those of held-out clips under "eval/<name>".
            The line of step 0 says how the run computes, and is left out.

    Raises:
        TheseusError: there is nothing to draw.
    """
    series = read_series(journal)
    panels = sorted({name.removeprefix(HELD_OUT) for name in series}, key=_rank)
    if not panels:
        raise TheseusError("the journal holds no numbers yet", hint="train a few steps first")
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # the canvas without a display, and no global state
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(
        figsize=(4.4 * columns, 2.9 * rows + 0.4), dpi=110, layout=ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.1), facecolor="white"
    )
    FigureCanvasAgg(figure)
    for index, name in enumerate(panels):
        _panel(figure.add_subplot(rows, columns, index + 1), name, series, last_row=index >= len(panels) - columns)
    if title:
        figure.suptitle(title, fontsize=12, fontweight="bold", x=0.01, ha="left")
    with replacing(path) as part:
        figure.savefig(part, format="png", metadata={"Software": None})  # no version in the bytes
    return path


def read_series(journal: Sequence[Mapping[str, Any]]) -> Series:
    """Steps and values of every metric; a value that is no finite number is left out."""
    series: Series = {}
    for entry in journal:
        if entry["step"] < 1:
            continue
        for name, value in entry.items():
            if name in NOT_METRICS or isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                continue
            steps, values = series.setdefault(name, ([], []))
            steps.append(float(entry["step"]))
            values.append(float(value))
    return series


def _rank(name: str) -> tuple[int, str]:
    """The loss first, then what judges the picture, then the terms of the loss, then the machinery."""
    order = ["loss", "psnr", "ssim"]
    machinery = ("learning_rate", "lr", "gradient", "grad", "per_second", "memory")
    if name in order:
        return order.index(name), name
    return (9 if any(word in name for word in machinery) else 5), name


def _panel(axes: Any, name: str, series: Series, last_row: bool) -> None:
    drawn: list[float] = []
    for key, colour, label in ((name, TRAINING_COLOUR, "training"), (HELD_OUT + name, HELD_OUT_COLOUR, "evaluation")):
        if key in series:
            drawn += _line(axes, *series[key], colour, label)
    if needs_log_scale(drawn):
        axes.set_yscale("log")
    axes.set_title(name.replace("_", " "), fontsize=10, loc="left")
    axes.grid(True, which="major", color=GRID_COLOUR, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", labelsize=8, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    if last_row:
        axes.set_xlabel("step", fontsize=8)
    if HELD_OUT + name in series:
        axes.legend(fontsize=8, frameon=False)


def _line(axes: Any, steps: list[float], values: list[float], colour: str, label: str) -> list[float]:
    thin = max(1, len(steps) // MAX_POINTS)
    smooth = smoothed(values)
    noisy = len(values) >= 20
    if noisy:  # the raw values stay visible behind
        axes.plot(steps[::thin], values[::thin], color=colour, linewidth=0.8, alpha=0.25)
    marker = "o" if len(values) < 20 else None
    axes.plot(
        steps[::thin], (smooth if noisy else values)[::thin], color=colour, linewidth=1.6, marker=marker, markersize=3, label=label
    )
    return values


def smoothed(values: list[float], share: float = 0.02) -> list[float]:
    """The mean of each value's neighbourhood, about `share` of the curve wide, and narrower at both ends."""
    half = max(1, round(share * len(values) / 2))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    centres = np.arange(len(values))
    reach = np.minimum(half, np.minimum(centres, len(values) - 1 - centres))  # symmetric, so that a slope is not bent at the ends
    means: list[float] = ((sums[centres + reach + 1] - sums[centres - reach]) / (2 * reach + 1)).tolist()
    return means


def needs_log_scale(values: Sequence[float]) -> bool:
    """Whether positive values span so much that a linear axis would flatten what happens late."""
    low, high = np.percentile(values, [2, 98])
    return bool(min(values) > 0 and high / low > 20)
