"""The report's charts, as SVG embedded in the page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from m3flow.report.numbers import number

BINS = 40
MANY = 1000  # videos
SHOWN = 99.5  # percentile of the axis end; the last bar counts the rest
BLUE, DARK, GRID_COLOUR = "#3566a8", "#1c2430", "#e3e7ec"
STAGE_COLOURS = {
    "decode": "#7a9cc6",
    "flow": "#3566a8",
    "encode": "#d98c3f",
    "track": "#4f9d69",
    "waiting": "#b8bfc9",
}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": "#9aa4b0",
    "axes.labelcolor": "#4c5866",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID_COLOUR,
    "xtick.color": "#4c5866",
    "ytick.color": "#4c5866",
    "ytick.left": False,
}


def histogram(name: str, values: np.ndarray, *, unit: str, share: bool = False) -> str:
    """Histogram of a value over the videos; "" if there are no values.

    Parameters
    ----------
    name: the chart's name, unique on the page.
    share: the values are shares from 0 to 1. Most videos are near 0: for very many videos the counts are on a
        logarithmic scale, so that the few others are visible.
    """
    values = values[np.isfinite(values)]
    if values.size == 0:
        return ""
    top = 1.0 if share else float(np.percentile(values, SHOWN)) or float(values.max()) or 1.0
    whole = top > 1 and bool((values == np.rint(values)).all())
    bins = int(np.clip(2 * np.sqrt(values.size), 10, BINS))
    bins = min(bins, round(top)) if whole else bins
    edges = np.linspace(0, top, bins + 1)
    counts, _ = np.histogram(np.minimum(values, top), edges)
    logarithmic = share and values.size >= MANY

    def draw(axes: Axes) -> None:
        axes.stairs(counts, edges, fill=True, color=BLUE)
        middle = float(np.median(values))
        axes.axvline(min(middle, top), color=DARK, linewidth=1)
        text = f"median {middle:.1%}" if share else f"median {number(round(middle, 3))}"
        right = middle > 0.6 * top
        axes.annotate(
            text,
            (min(middle, top), 1),
            (-5 if right else 5, -2),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right" if right else "left",
            va="top",
            color=DARK,
        )
        axes.set_xlim(0, top)
        axes.set_xlabel(unit)
        if share:
            axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        if logarithmic:
            axes.set_yscale("symlog", linthresh=1)
        else:
            axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        # Leave room for the text above the bars.
        axes.set_ylim(0, 3 * counts.max() if logarithmic else 1.18 * counts.max())

    return _svg(name, draw, (3.7, 2.3))


def stages(seconds: dict[str, float]) -> str:
    """Bar chart of the working time in each stage."""

    def draw(axes: Axes) -> None:
        names = list(seconds)[::-1]
        unit, divisor = _time_unit(max(seconds.values()))
        lengths = [seconds[name] / divisor for name in names]
        bars = axes.barh(names, lengths, color=[STAGE_COLOURS[name] for name in names], height=0.66)
        axes.bar_label(bars, [f"{length:,.3g} {unit}" for length in lengths], padding=4, color=DARK)
        axes.set_xlim(0, max(lengths) * 1.25 or 1)
        axes.grid(False)
        axes.spines["bottom"].set_visible(False)
        axes.set_xticks([])

    return _svg("stages", draw, (5.4, 2.2))


def rate(ends: np.ndarray, frames: np.ndarray) -> str:
    """Frames per second over the run; "" if the run is too short."""
    span = float(ends.max() - ends.min()) if ends.size else 0.0
    if span < 60:
        return ""
    unit, divisor = _time_unit(span)
    counts, edges = np.histogram(ends - ends.min(), min(60, int(span // 10)), weights=frames)
    width = edges[1] - edges[0]

    def draw(axes: Axes) -> None:
        axes.stairs(counts / width, edges / divisor, fill=True, color=BLUE)
        axes.set_xlim(0, edges[-1] / divisor)
        axes.set_xlabel(f"{unit} since the first video was done")
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))

    return _svg("rate", draw, (5.4, 2.2))


def _time_unit(seconds: float) -> tuple[str, float]:
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return unit, length
    return "s", 1.0


def _svg(name: str, draw: Callable[[Axes], None], size: tuple[float, float]) -> str:
    # The salt makes the ids of each chart unique: all charts are on one page.
    with rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(size, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        file = io.StringIO()
        figure.savefig(
            file,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")),
        )
    text = file.getvalue()
    text = text[text.index("<svg") :]
    # The page sets size and font; the ids of groups repeat in each chart and are not needed.
    text = re.sub(r"<svg[^>]*viewBox=\"([^\"]*)\"[^>]*>", r'<svg role="img" viewBox="\1">', text, count=1)
    return re.sub(r" font-family: [^;\"]*;?|(?<=<g) id=\"[^\"]*\"", "", text)
