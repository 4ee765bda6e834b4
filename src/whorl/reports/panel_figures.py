"""The charts of panels.py as PNG: a row for each of the first views, a column for each model, the first option."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from whorl.reports.charts import Axis
from whorl.reports.figures import COLOURS, DPI, FAINT, INK, MARKS, MUTED, figure_of, image, scale_to
from whorl.reports.panels import Colours, CurveChart, CurvePanel, CurveView, HeatChart, HeatPanel

# The colours are those of page.css.
SEQUENTIAL = LinearSegmentedColormap.from_list("whorl", ["#eef2f6", "#5aa5d2", "#0b2f5b"])
DIVERGING = LinearSegmentedColormap.from_list("whorl-two", ["#a04a00", "#f3a35f", "#f1f2f4", "#5aa5d2", "#0b4a82"])
MANY = LinearSegmentedColormap.from_list("whorl-many", ["#5b2a86", "#00867d", "#e0a100"])
MOST_VIEWS = 3
LEGEND_LINES = len(COLOURS)


def png(chart: CurveChart | HeatChart) -> dict[str, bytes]:
    """The chart as PNG at each resolution, by file name."""
    figure = curves(chart) if isinstance(chart, CurveChart) else heat(chart)
    return {f"{chart.name}{suffix}.png": image(figure, dpi) for suffix, dpi in DPI.items()}


def curves(chart: CurveChart) -> Figure:
    views, panels = chart.views[:MOST_VIEWS], len(chart.views[0].panels)
    figure, grid = figure_of(7.4 if panels == 1 else 10.4, 0.9 + 2.9 * len(views), len(views), panels)
    for row, view in zip(grid, views, strict=True):
        for axes, panel in zip(row, view.panels, strict=True):
            _curve_panel(axes, chart, view, panel)
    _heading(figure, chart.title, chart.options[0])
    return figure


def heat(chart: HeatChart) -> Figure:
    views, panels = chart.views[:MOST_VIEWS], len(chart.views[0].panels)
    deepest = max((len(f.rows) for v in views for p in v.panels if (f := p.frames[0]) is not None), default=1)
    each = min(3.6, max(1.0, 0.2 * deepest))
    figure, grid = figure_of(7.4 if panels == 1 else 10.4, 0.9 + (each + 0.75) * len(views), len(views), panels)
    for row, view in zip(grid, views, strict=True):
        for axes, panel in zip(row, view.panels, strict=True):
            _heat_panel(axes, chart, panel, view.colours[0])
            _name(axes, view.label if len(chart.views) > 1 else "", panel.name if panels > 1 else "")
        _colour_bar(figure, row, view.colours[0])
    _heading(figure, chart.title, chart.options[0])
    return figure


def _curve_panel(axes: Any, chart: CurveChart, view: CurveView, panel: CurvePanel) -> None:
    x, y, frame = chart.xs[0][1], view.axes[0], panel.frames[0]
    scale_to(axes.xaxis, axes.set_xscale, axes.set_xlim, x)
    scale_to(axes.yaxis, axes.set_yscale, axes.set_ylim, y)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_xlabel(x.label, color=MUTED, fontsize=9)
    axes.set_ylabel(y.label, color=MUTED, fontsize=9)
    _name(axes, view.label if len(chart.views) > 1 else "", panel.name if len(view.panels) > 1 else "")
    for where, label in panel.marks:
        if x.low <= where <= x.high:
            axes.axvline(where, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
            axes.text(
                where, 1.0, f" {label} ", transform=axes.get_xaxis_transform(), color=MUTED, fontsize=8, va="top",
                ha="right" if _share_of(x, where) > 0.7 else "left",
            )  # fmt: skip
    for where, label in view.levels:
        axes.axhline(where, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
        axes.annotate(
            label, (1.0, where), (0, 3), xycoords=axes.get_yaxis_transform(), textcoords="offset points", color=MUTED,
            fontsize=8, ha="right", zorder=4, path_effects=[withStroke(linewidth=3, foreground="white")],
        )  # fmt: skip
    if frame is None:
        _nothing(axes)
        return
    places = panel.grids[frame.grid].x
    count = len(frame.curves)
    for i, curve in enumerate(frame.curves):
        colour = curve_colour(i, count)
        style = {"marker": MARKS[i % len(MARKS)], "markersize": 4} if chart.markers and count <= LEGEND_LINES else {}
        if curve.low and curve.high:
            axes.fill_between(places, _floats(curve.low), _floats(curve.high), color=colour, alpha=0.15, linewidth=0)
        axes.plot(places, _floats(curve.y), color=colour, linewidth=1.3, zorder=3, label=curve.name, **style)
    if count > LEGEND_LINES:
        keys = [Line2D([], [], color=curve_colour(i, count)) for i in (0, count // 2, count - 1)]
        names = [frame.curves[i].name for i in (0, count // 2, count - 1)]
        axes.legend(keys, names, frameon=False, fontsize=8, labelcolor=MUTED)
    elif count > 1 or frame.curves[0].name:
        axes.legend(frameon=False, fontsize=8, labelcolor=MUTED, ncols=1 + (count > 4))


def _share_of(axis: Axis, where: float) -> float:
    """How far along the axis a value stands, from 0 to 1."""
    low, high, at = (np.log(v) if axis.scale == "log" else v for v in (axis.low, axis.high, where))
    return float((at - low) / (high - low))


def curve_colour(index: int, count: int) -> Any:
    """Of a few lines each has its own colour; of many, their order has one."""
    return COLOURS[index % len(COLOURS)] if count <= len(COLOURS) else MANY(index / (count - 1))


def _heat_panel(axes: Any, chart: HeatChart, panel: HeatPanel, colours: Colours) -> None:
    frame = panel.frames[0]
    axes.spines[:].set_visible(False)
    if frame is None or not frame.rows:
        _nothing(axes)
        return
    cells = np.array([_floats(row.values) for row in frame.rows])
    count, width = cells.shape
    axes.add_patch(Rectangle((0, 0), width, count, facecolor="#f6f7f9", edgecolor="#c9cdd4", hatch="////", linewidth=0))
    kind = DIVERGING if colours.scale == "diverging" else SEQUENTIAL
    edges = np.arange(width + 1), np.arange(count + 1)
    axes.pcolormesh(*edges, np.ma.masked_invalid(cells), cmap=kind, vmin=colours.low, vmax=colours.high)
    axes.set_xlim(0, width)
    axes.set_ylim(count, 0)
    every = max(1, -(-count // 16))
    axes.set_yticks([i + 0.5 for i in range(0, count, every)], [frame.rows[i].tick for i in range(0, count, every)])
    axes.set_xticks([at for at, _ in panel.ticks], [label for _, label in panel.ticks])
    axes.set_ylabel(frame.label, color=MUTED, fontsize=9)
    axes.set_xlabel(chart.x_label, color=MUTED, fontsize=9)
    named: set[str] = set()
    for i, row in enumerate(frame.rows):
        for depth, (at, label) in enumerate(panel.columns[row.columns].marks if panel.columns else ()):
            dashes: Any = "solid" if depth == 0 else (0, (2, 1.5))
            axes.plot([at, at], [i, i + 1], color=INK, linewidth=1.3, linestyle=dashes, clip_on=False)
            if label not in named:
                side = {"ha": "right"} if depth == 0 else {"ha": "left"}
                axes.annotate(
                    label, (at, i), (0, 3), textcoords="offset points", color=MUTED, fontsize=8, va="bottom", **side
                )
                named.add(label)
    for depth, (at, label) in enumerate(frame.marks):
        axes.axhline(at, color=INK, linewidth=1.3, linestyle="solid" if depth == 0 else (0, (2, 1.5)))
        axes.text(width * 1.01, at, label, color=MUTED, fontsize=8, va="center")


def _colour_bar(figure: Figure, row: Sequence[Any], colours: Colours) -> None:
    kind = DIVERGING if colours.scale == "diverging" else SEQUENTIAL
    values = ScalarMappable(Normalize(colours.low, colours.high), kind)
    bar = figure.colorbar(values, ax=list(row), fraction=0.025, pad=0.12 if len(row) == 1 else 0.08, aspect=12)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=MUTED, labelsize=8, length=0)
    bar.ax.locator_params(nbins=4)
    bar.set_label(colours.label, color=MUTED, fontsize=8)


def _name(axes: Any, view: str, panel: str) -> None:
    text = ", ".join(part for part in (panel, view) if part)
    if text:
        axes.set_title(text, loc="left", color=INK, fontsize=9.5, pad=16)


def _nothing(axes: Any) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, color=MUTED, ha="center", va="center", fontsize=9)


def _heading(figure: Figure, title: str, option: str) -> None:
    shown = f"{title} ({option})" if option else title
    figure.suptitle(shown, x=0.01, ha="left", color=INK, fontsize=12, fontweight="bold")


def _floats(values: Sequence[float | None]) -> list[float]:
    return [np.nan if value is None else value for value in values]
