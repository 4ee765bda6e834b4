"""The charts as PNG, drawn by matplotlib without its global state. Colours: Okabe and Ito, for the colour-blind."""

import io
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from whorl.reports.charts import Axis, Line, LineChart, Strip, StripChart, View

# The order, and the marks, are those of page.css and page.js.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5B5B5B")
MARKS = ("o", "s", "^", "D", "v")
INK, MUTED, FAINT, STILL = "#1b1e23", "#5c636e", "#e4e6ea", "#e9ebee"
ALPHA = {"within": 1.0, "turning": 0.65, "beyond": 0.35, "still": 1.0}
DPI = {"": 110, "@2x": 220}
"""Suffix of the file name, and dots per inch: for the screen, and for slides and print."""


def png(chart: LineChart | StripChart, views: int = 1) -> dict[str, bytes]:
    """The chart as PNG at each resolution, by file name. `views` of a line chart share the axes: the first is
    solid, the second dashed."""
    figure = lines(chart, chart.views[:views]) if isinstance(chart, LineChart) else strips(chart)
    return {f"{chart.name}{suffix}.png": image(figure, dpi) for suffix, dpi in DPI.items()}


def lines(chart: LineChart, views: Sequence[View]) -> Figure:
    """Values with a band of one standard deviation and a thin line for each seed, named at the right end."""
    figure, axes = _figure(7.4, 4.3)
    y = views[0].y
    scale_to(axes.xaxis, axes.set_xscale, axes.set_xlim, chart.x, base=2)
    scale_to(axes.yaxis, axes.set_yscale, axes.set_ylim, y)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_xlabel(chart.x.label, color=MUTED)
    axes.set_ylabel(y.label if len(views) == 1 else "", color=MUTED)
    if chart.mark is not None:
        where, label = chart.mark
        axes.axvline(where, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        axes.text(where, 1.015, label, transform=axes.get_xaxis_transform(), ha="center", color=MUTED, fontsize=8.5)
    if views[0].level is not None:
        height, label = views[0].level
        axes.axhline(height, color=MUTED, linewidth=1, linestyle=(0, (1, 2)), zorder=1)
        axes.annotate(
            label, (0, height), xycoords=axes.get_yaxis_transform(), xytext=(3, -3), textcoords="offset points",
            va="top", color=MUTED, fontsize=8.5,
        )  # fmt: skip
    for view, dashes in zip(views, ("solid", (0, (4, 2))), strict=False):
        for line in view.lines:
            _draw(axes, line, dashes, chart.markers)
    if len(views) > 1:
        keys = [Line2D([], [], color=MUTED, linestyle=d) for d in ("solid", (0, (4, 2)))]
        labels = [view.label for view in views]
        axes.legend(keys, labels, frameon=False, fontsize=9, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    _name_ends(figure, axes, views[0].lines)
    _title(axes, chart.title)
    return figure


def strips(chart: StripChart) -> Figure:
    """A row of cells per encoding: the pairs that turn in its colour, paler where one turn outlasts training."""
    count = len(chart.strips)
    figure, axes = _figure(7.4, 1.35 + 0.42 * count)
    width = max(len(strip.layers[0]) for strip in chart.strips)
    axes.set_xlim(0, width)
    axes.set_ylim(count - 0.1, -0.4)
    for row, strip in enumerate(chart.strips):
        _draw_strip(axes, strip, row)
    axes.set_yticks([])
    ticks = [i for i in range(width) if i % max(1, 2 ** round(np.log2(width / 8))) == 0]
    axes.set_xticks([i + 0.5 for i in ticks], [str(i) for i in ticks])
    axes.tick_params(length=0, colors=MUTED)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(f"{chart.x_label} (fastest first)", color=MUTED)
    patches = {
        "within": Patch(color=MUTED),
        "beyond": Patch(color=MUTED, alpha=ALPHA["beyond"]),
        "turning": Patch(color=MUTED, alpha=ALPHA["turning"]),
        "still": Patch(color=STILL),
        "mark": Line2D([], [], color=INK, linewidth=1.6),
    }
    keys = [patches[state] for state in chart.legend]
    below = axes.transAxes + ScaledTranslation(0, -0.55, figure.dpi_scale_trans)  # inches, under the axis label
    axes.legend(
        keys, list(chart.legend.values()), frameon=False, fontsize=8.5, loc="upper left", labelcolor=MUTED,
        bbox_to_anchor=(0, 0), bbox_transform=below, borderaxespad=0, borderpad=0, handlelength=1.2,
    )  # fmt: skip
    _title(axes, chart.title)
    return figure


def _draw(axes: Any, line: Line, dashes: Any, markers: bool) -> None:
    colour, mark = COLOURS[line.index % len(COLOURS)], MARKS[line.index % len(MARKS)]
    x = [p.x for p in line.points]
    y = [np.nan if p.y is None else p.y for p in line.points]
    for seed in line.seeds:
        axes.plot([p[0] for p in seed], [p[1] for p in seed], color=colour, linewidth=0.7, alpha=0.5, linestyle=dashes)
    low = [np.nan if p.low is None else p.low for p in line.points]
    high = [np.nan if p.high is None else p.high for p in line.points]
    if np.isfinite(low).any():
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    style = {"marker": mark, "markersize": 5, "markeredgecolor": "white", "markeredgewidth": 0.8} if markers else {}
    axes.plot(x, y, color=colour, linewidth=2 if markers else 1.6, linestyle=dashes, zorder=3, **style)


def _draw_strip(axes: Any, strip: Strip, row: int) -> None:
    colour, height = COLOURS[strip.index % len(COLOURS)], 0.56
    for depth, layer in enumerate(strip.layers):
        top = row - height / 2 + 0.1 + depth * height / len(strip.layers)
        for i, pair in enumerate(layer):
            face = STILL if pair.state == "still" else colour
            deep = height / len(strip.layers) * 0.94
            axes.add_patch(Rectangle((i + 0.06, top), 0.88, deep, facecolor=face, alpha=ALPHA[pair.state]))
    if strip.mark is not None:
        axes.plot([strip.mark] * 2, [row - 0.26, row + 0.46], color=INK, linewidth=1.6, solid_capstyle="butt")
    axes.text(-0.5, row + 0.1, textwrap.fill(strip.name, 26), ha="right", va="center", color=INK, fontsize=9.5)
    right = len(strip.layers[0]) + 0.4
    axes.text(right, row + 0.1, strip.turning, ha="left", va="center", color=MUTED, fontsize=9)


def _name_ends(figure: Figure, axes: Any, named: Sequence[Line]) -> None:
    """The name of every line at its last value, moved apart where names would overlap."""
    figure.canvas.draw()
    heights, texts = [], []
    for line in named:
        last = next((p for p in reversed(line.points) if p.y is not None), None)
        height = -0.1 if last is None else _axes_height(axes, last.x, last.y)
        heights.append(height)
        texts.append(textwrap.shorten(line.name, 40, placeholder="…") + (f" ({line.note})" if line.note else ""))
    for line, text, height in zip(named, texts, spread_out(heights, gap=0.055), strict=True):
        colour = COLOURS[line.index % len(COLOURS)]
        axes.text(1.02, height, text, transform=axes.transAxes, color=colour, va="center", fontsize=9.5, weight="bold")


def _axes_height(axes: Any, x: float, y: float | None) -> float:
    """Where a value stands between the bottom (0) and the top (1) of the axes."""
    return float(axes.transAxes.inverted().transform(axes.transData.transform((x, y)))[1])


def spread_out(positions: Sequence[float], gap: float) -> list[float]:
    """Moves positions as little as keeps every two at least `gap` apart, in their order.

    Neighbours that are too close form a group around their common middle, and groups that then touch are joined.
    """
    order = np.argsort(positions, kind="stable")
    groups: list[list[float]] = []
    for position in np.asarray(positions, dtype=float)[order]:
        groups.append([position])
        while len(groups) > 1 and _first(groups[-1], gap) - _last(groups[-2], gap) < gap:
            groups[-2:] = [groups[-2] + groups[-1]]
    placed = [_first(group, gap) + gap * i for group in groups for i in range(len(group))]
    result = [0.0] * len(placed)
    for where, value in zip(order, placed, strict=True):
        result[where] = float(value)
    return result


def _first(group: list[float], gap: float) -> float:
    return sum(group) / len(group) - gap * (len(group) - 1) / 2


def _last(group: list[float], gap: float) -> float:
    return sum(group) / len(group) + gap * (len(group) - 1) / 2


def scale_to(axis: Any, set_scale: Any, set_limits: Any, spec: Axis, base: int = 10) -> None:
    """Gives an axis the limits and the ticks of a chart."""
    if spec.scale == "log":
        set_scale("log", base=base)
    set_limits(spec.low, spec.high)
    axis.set_major_locator(FixedLocator([value for value, _ in spec.ticks]))
    axis.set_major_formatter(FixedFormatter([label for _, label in spec.ticks]))
    axis.set_minor_locator(NullLocator())


def figure_of(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, Any]:
    """An empty figure of this size in inches, with an array of bare axes."""
    figure = Figure(figsize=(width, height), facecolor="white", layout=None if rows * columns == 1 else "constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color("#b9bec6")
        axes.tick_params(colors=MUTED, length=0, labelsize=9)
        axes.set_axisbelow(True)
    return figure, grid


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    """An empty figure with one set of axes."""
    figure, grid = figure_of(width, height)
    return figure, grid[0][0]


def _title(axes: Any, title: str) -> None:
    axes.set_title(title, loc="left", color=INK, fontsize=12, fontweight="bold", pad=22)


def image(figure: Figure, dpi: int) -> bytes:
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a name with two dollars is no formula
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.15)
    return buffer.getvalue()
