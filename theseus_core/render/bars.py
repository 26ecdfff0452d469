"""Bars: a small panel for each thing that was measured, with a bar for each that it was measured of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from theseus_core.files import replacing
from theseus_core.render.plots import GRID_COLOUR, HELD_OUT_COLOUR, TRAINING_COLOUR

COLOURS = (TRAINING_COLOUR, HELD_OUT_COLOUR)
COLUMNS = 4


@dataclass(frozen=True)
class Panel:
    """What was measured, of whom, and how much.

    Attributes:
        title: with the unit.
        series: by name, a value for each that it was measured of; None where it is unknown. At most two; a single one is not named.
        most: where the axis ends; None for a little beyond the longest bar.
    """

    title: str
    series: Mapping[str, Sequence[float | None]]
    most: float | None = None


def bars(names: Sequence[str], panels: Sequence[Panel], path: Path) -> Path:
    """Draw the panels, with the names from top to bottom and the value beside each bar."""
    assert names and panels, "a picture of nothing"
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # the canvas without a display, and no global state
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    rows = math.ceil(len(panels) / COLUMNS)
    size = (4.0 * min(COLUMNS, len(panels)), rows * (0.9 + 0.42 * len(names)))
    figure = Figure(figsize=size, dpi=110, layout=ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.1), facecolor="white")
    FigureCanvasAgg(figure)
    for index, panel in enumerate(panels):
        _draw(figure.add_subplot(rows, min(COLUMNS, len(panels)), index + 1), names, panel, named=index % COLUMNS == 0)
    with replacing(path) as part:
        figure.savefig(part, format="png", metadata={"Software": None})  # no version in the bytes
    return path


def _draw(axes: Any, names: Sequence[str], panel: Panel, named: bool) -> None:
    thick = 0.8 / len(panel.series)
    for number, (name, values) in enumerate(panel.series.items()):
        places = [place + (number - (len(panel.series) - 1) / 2) * thick for place in range(len(names))]
        drawn = axes.barh(places, [value or 0 for value in values], height=0.9 * thick, color=COLOURS[number], label=name)
        axes.bar_label(drawn, ["unknown" if value is None else f"{value:.3g}" for value in values], padding=3, fontsize=8)
    known = [value for values in panel.series.values() for value in values if value is not None]
    axes.set_xlim(0, 1.25 * (panel.most or max(known, default=0) or 1))  # with room for the values
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), names if named else [""] * len(names), fontsize=9)
    if panel.most:
        axes.set_xticks([panel.most * quarter / 4 for quarter in range(5)])
    else:
        axes.locator_params(axis="x", nbins=5)
    axes.set_title(panel.title, fontsize=10, loc="left")
    axes.grid(True, axis="x", color=GRID_COLOUR, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", labelsize=8, length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    if len(panel.series) > 1:
        axes.legend(fontsize=7, frameon=False, loc="lower right", bbox_to_anchor=(1, 1), borderpad=0, ncols=2)
