"""Charts as PNG: what chart.py says, drawn by matplotlib without its global state (no pyplot, no backend chosen).

A picture has no menus: it shows the first option of the first views, a row for each view and a column for each panel.
"""

import io
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from whorl.reports.axes import ROUNDING
from whorl.reports.chart import (
    Axis,
    Chart,
    Colours,
    Curve,
    CurveChart,
    CurvePanel,
    CurveView,
    Grid,
    HeatChart,
    HeatPanel,
    Strip,
    StripChart,
)
from whorl.reports.style import DASHES, OPACITY, RAMPS, colour, mark, series

DPI = {"": 110, "@2x": 220}
"""Suffix of the file name, and dots per inch: for the screen, and for slides and print."""
NARROW, WIDE = 7.4, 10.4
"""Inches, for one panel and for several."""
INK, MUTED = colour("ink"), colour("muted")
MAPS = {name: LinearSegmentedColormap.from_list(name, [colour(stop) for stop in RAMPS[name]]) for name in RAMPS}


def png(chart: Chart) -> dict[str, bytes]:
    """The chart as PNG at each resolution, by file name."""
    figure = draw(chart)
    return {f"{chart.name}{suffix}.png": image(figure, dpi) for suffix, dpi in DPI.items()}


def draw(chart: Chart) -> Figure:
    match chart:
        case CurveChart():
            return _curves(chart)
        case HeatChart():
            return _heat(chart)
        case StripChart():
            return _strips(chart)


def image(figure: Figure, dpi: int) -> bytes:
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a name with two dollars is no formula
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.15)
    return buffer.getvalue()


# Curves


def _curves(chart: CurveChart) -> Figure:
    shown = chart.views[: chart.pictured]
    views = shown[:1] if chart.overlaid else shown
    panels = len(views[0].panels)
    figure, grid = _figure(panels, len(views), 3.4 if len(views) == 1 else 2.9)
    for row, view in zip(grid, views, strict=True):
        for axes, panel in zip(row, view.panels, strict=True):
            _frame_of_curves(axes, chart, view, panel)
            _lines(axes, view, panel, "solid")
    if len(shown) > len(views):
        for axes, panel in zip(grid[0], shown[1].panels, strict=True):
            _lines(axes, shown[1], panel, _dashes("mark"))
        keys = [Line2D([], [], color=MUTED, linestyle=dashes) for dashes in ("solid", _dashes("mark"))]
        place = {"ncols": 2, "loc": "lower right", "bbox_to_anchor": (1, 1)}
        grid[0][0].legend(keys, [view.label for view in shown], **_LEGEND, **place)
        grid[0][0].set_ylabel("")
    _heading(figure, chart.title, chart.options[0])
    for row, view in zip(grid, views, strict=True):
        for axes, panel in zip(row, view.panels, strict=True):
            if (frame := panel.frames[0]) is not None:
                if chart.named:
                    _name_ends(figure, axes, panel.grids[frame.grid], frame.curves)
                else:
                    _legend(axes, view, frame.curves)
    return figure


def _frame_of_curves(axes: Any, chart: CurveChart, view: CurveView, panel: CurvePanel) -> None:
    """Everything but the lines: axes, ticks, marks, levels, spans."""
    x, y = view.x or chart.xs[0][1], view.axes[0]
    _scale(axes.xaxis, axes.set_xscale, axes.set_xlim, x)
    _scale(axes.yaxis, axes.set_yscale, axes.set_ylim, y)
    axes.grid(axis="y", color=colour("faint"), linewidth=0.8)
    axes.set_xlabel(x.label, color=MUTED, fontsize=9)
    axes.set_ylabel(y.label, color=MUTED, fontsize=9)
    several = min(len(chart.views), chart.pictured) > 1 and not chart.overlaid
    _title(axes, view.label if several else "", panel.name if len(view.panels) > 1 else "")
    for low, high, label in panel.spans:
        axes.axvspan(low, high, color=colour("still"), linewidth=0, zorder=0)
        middle = {"transform": axes.get_xaxis_transform(), "ha": "center", "va": "center"}
        axes.text((low + high) / 2, 0.5, label, **middle, **_SMALL)
    for where, label in panel.marks:
        if x.low <= where <= x.high:
            axes.axvline(where, color=MUTED, linewidth=1, linestyle=_dashes("mark"), zorder=1)
            part = _part(x, where)
            side = "left" if part < 0.1 else "right" if part > 0.9 else "center"
            axes.text(where, 1.015, label, transform=axes.get_xaxis_transform(), **_SMALL, ha=side)
    for where, label in view.levels:
        axes.axhline(where, color=MUTED, linewidth=0.8, linestyle=_dashes("level"), zorder=1)
        axes.annotate(
            label, (float(view.level_side == "right"), where), (0, 3), xycoords=axes.get_yaxis_transform(),
            textcoords="offset points", ha=view.level_side, zorder=4, path_effects=_HALO, **_SMALL,
        )  # fmt: skip


def _lines(axes: Any, view: CurveView, panel: CurvePanel, dashes: Any) -> None:
    frame = panel.frames[0]
    if frame is None:
        _nothing(axes)
        return
    x = panel.grids[frame.grid].x
    for curve in frame.curves:
        for run in curve.thin:
            axes.plot(x, _floats(run), color=_colour(curve), linestyle=dashes, linewidth=0.7, alpha=OPACITY["thin"])
        if curve.low:
            axes.fill_between(
                x, _floats(curve.low), _floats(curve.high), color=_colour(curve), alpha=OPACITY["band"], linewidth=0
            )
        axes.plot(x, _floats(curve.y), linestyle=dashes, zorder=3, **_style(view, curve))


def _style(view: CurveView, curve: Curve) -> dict[str, Any]:
    """Colour, width and mark of a line."""
    width = 0.9 if curve.faint else 1.3 if curve.shade is not None else 1.7
    style: dict[str, Any] = {"color": _colour(curve), "linewidth": width}
    if view.markers and curve.shade is None:
        corners = np.array(mark(curve.index)) * (1, -1)  # y is downwards there
        size = 1.65 * np.abs(corners).max()  # matplotlib makes every shape as large as this says
        style |= {"marker": corners, "markersize": size, "markeredgecolor": "white", "markeredgewidth": 0.8}
    return style


def _legend(axes: Any, view: CurveView, curves: Sequence[Curve]) -> None:
    """Of lines on the ramp the first, the middle and the last."""
    named = [curves[i] for i in (0, len(curves) // 2, -1)] if curves[0].shade is not None else curves
    if len(named) > 1 or named[0].name:
        keys = [Line2D([], [], **_style(view, curve)) for curve in named]
        axes.legend(keys, [curve.name for curve in named], **_LEGEND, ncols=1 + (len(named) > 4))


def _name_ends(figure: Figure, axes: Any, grid: Grid, curves: Sequence[Curve]) -> None:
    """The name of every line at its last value, moved apart where names would overlap."""
    figure.canvas.draw()
    heights = []
    for curve in curves:
        last = next((at for at in reversed(list(zip(grid.x, curve.y, strict=True))) if at[1] is not None), None)
        heights.append(-0.1 if last is None else _height(axes, *last))
    line = 0.17 * figure.dpi / axes.get_window_extent().height  # of text, as a part of the axes
    for curve, height in zip(curves, spread_out(heights, gap=line), strict=True):
        text = textwrap.shorten(curve.name, 40, placeholder="…") + (f" ({curve.note})" if curve.note else "")
        axes.text(
            1.02, height, text, transform=axes.transAxes, color=_colour(curve), va="center", fontsize=9.5,
            weight="normal" if curve.faint else "bold",
        )  # fmt: skip


def _height(axes: Any, x: float, y: float | None) -> float:
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


def _colour(curve: Curve) -> Any:
    return series(curve.index) if curve.shade is None else MAPS["many"](curve.shade)


# Heat maps


def _heat(chart: HeatChart) -> Figure:
    views = chart.views[:3]
    panels = len(views[0].panels)
    deepest = max((len(f.rows) for v in views for p in v.panels if (f := p.frames[0]) is not None), default=1)
    figure, grid = _figure(panels, len(views), min(3.6, max(1.0, 0.2 * deepest)) + 0.75)
    for row, view in zip(grid, views, strict=True):
        for axes, panel in zip(row, view.panels, strict=True):
            _cells(axes, chart, panel, view.colours[0])
            _title(axes, view.label if len(chart.views) > 1 else "", panel.name if panels > 1 else "")
        _colour_bar(figure, row, view.colours[0])
    _heading(figure, chart.title, chart.options[0])
    return figure


def _cells(axes: Any, chart: HeatChart, panel: HeatPanel, colours: Colours) -> None:
    frame = panel.frames[0]
    axes.spines[:].set_visible(False)
    if frame is None:
        _nothing(axes)
        return
    cells = np.array([_floats(row.values) for row in frame.rows])
    count, width = cells.shape
    missing: dict[str, Any] = {
        "facecolor": colour("raised"),
        "edgecolor": colour("line"),
        "hatch": "////",
        "linewidth": 0,
    }
    axes.add_patch(Rectangle((0, 0), width, count, **missing))
    edges = np.arange(width + 1), np.arange(count + 1)
    axes.pcolormesh(*edges, np.ma.masked_invalid(cells), cmap=MAPS[colours.scale], vmin=colours.low, vmax=colours.high)
    if colours.beyond:
        rows, places = np.nonzero(np.abs(np.nan_to_num(cells)) > colours.high * ROUNDING)
        axes.plot(places + 0.5, rows + 0.5, ".", color=colour("paper"), markersize=3.5, markeredgewidth=0)
    axes.set_xlim(0, width)
    axes.set_ylim(count, 0)
    axes.set_yticks(*zip(*frame.ticks, strict=True))
    axes.set_xticks(*zip(*panel.ticks, strict=True))
    axes.set_ylabel(frame.label, color=MUTED, fontsize=9)
    axes.set_xlabel(chart.x_label, color=MUTED, fontsize=9)
    named: set[str] = set()
    for i, row in enumerate(frame.rows):
        for depth, (at, label) in enumerate(panel.columns[row.columns].marks):
            axes.plot([at, at], [i, i + 1], color=INK, linewidth=1.3, linestyle=_cut(depth), clip_on=False)
            if label not in named:
                side = "left" if depth else "right"
                axes.annotate(label, (at, i), (0, 3), textcoords="offset points", **_SMALL, va="bottom", ha=side)
                named.add(label)
    for depth, (at, label) in enumerate(frame.marks):
        axes.axhline(at, color=INK, linewidth=1.3, linestyle=_cut(depth))
        axes.text(width * 1.01, at, label, **_SMALL, va="center")


def _cut(depth: int) -> Any:
    """The first cut is solid, the second dashed."""
    return _dashes("second") if depth else "solid"


def _colour_bar(figure: Figure, row: Sequence[Any], colours: Colours) -> None:
    values = ScalarMappable(Normalize(colours.low, colours.high), MAPS[colours.scale])
    bar = figure.colorbar(values, ax=list(row), fraction=0.025, pad=0.12 if len(row) == 1 else 0.08, aspect=12)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=MUTED, labelsize=8, length=0)
    bar.set_ticks((colours.low, colours.high), labels=colours.ends)
    beyond = f"\n{textwrap.fill(f'dots: {colours.beyond}', 36)}" if colours.beyond else ""
    bar.set_label(f"{colours.label}{beyond}", color=MUTED, fontsize=8)


# Strips


def _strips(chart: StripChart) -> Figure:
    """A row of cells per encoding: the pairs that turn in its colour, paler where one turn outlasts training."""
    count = len(chart.strips)
    figure, grid = _figure(1, 1, 0.45 + 0.42 * count)
    axes = grid[0][0]
    axes.set_xlim(0, max(len(strip.layers[0]) for strip in chart.strips))
    axes.set_ylim(count - 0.1, -0.4)
    for row, strip in enumerate(chart.strips):
        _strip(axes, strip, row)
    axes.set_yticks([])
    axes.set_xticks(*zip(*chart.ticks, strict=True))
    axes.spines[:].set_visible(False)
    axes.set_xlabel(chart.x_label, color=MUTED)
    keys: list[Any] = [
        Line2D([], [], color=INK, linewidth=1.6)
        if state == "mark"
        else Patch(color=colour("still" if state == "still" else "muted"), alpha=OPACITY.get(state))
        for state in chart.legend
    ]
    below = axes.transAxes + ScaledTranslation(0, -0.55, figure.dpi_scale_trans)  # inches, under the axis label
    place = {"loc": "upper left", "bbox_to_anchor": (0, 0), "bbox_transform": below, "borderaxespad": 0, "borderpad": 0}
    axes.legend(keys, list(chart.legend.values()), **_LEGEND, handlelength=1.2, **place)
    axes.set_title(chart.title, loc="left", color=INK, fontsize=12, fontweight="bold", pad=22)
    return figure


def _strip(axes: Any, strip: Strip, row: int) -> None:
    height = 0.56
    for depth, layer in enumerate(strip.layers):
        top = row - height / 2 + 0.1 + depth * height / len(strip.layers)
        for i, pair in enumerate(layer):
            face = colour("still") if pair.state == "still" else series(strip.index)
            deep = height / len(strip.layers) * 0.94
            axes.add_patch(Rectangle((i + 0.06, top), 0.88, deep, facecolor=face, alpha=OPACITY.get(pair.state)))
    if strip.mark is not None:
        axes.plot([strip.mark] * 2, [row - 0.26, row + 0.46], color=INK, linewidth=1.6, solid_capstyle="butt")
    axes.text(-0.5, row + 0.1, textwrap.fill(strip.name, 26), ha="right", va="center", color=INK, fontsize=9.5)
    axes.text(len(strip.layers[0]) + 0.5, row + 0.1, strip.turning, ha="left", va="center", color=MUTED, fontsize=9)


# Shared

_SMALL: dict[str, Any] = {"color": MUTED, "fontsize": 8}
_LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 8.5, "labelcolor": MUTED}
_HALO = [withStroke(linewidth=3, foreground="white")]


def _figure(panels: int, rows: int, each: float) -> tuple[Figure, Any]:
    """An empty figure with bare axes [row, panel], `each` inches high."""
    alone = rows * panels == 1
    size = (NARROW if panels == 1 else WIDE, 0.9 + each * rows)
    figure = Figure(figsize=size, facecolor="white", layout=None if alone else "constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, panels, squeeze=False)
    for axes in grid.flat:
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(colour("line"))
        axes.tick_params(colors=MUTED, length=0, labelsize=9)
        axes.set_axisbelow(True)
    return figure, grid


def _scale(axis: Any, set_scale: Any, set_limits: Any, spec: Axis) -> None:
    """Gives an axis the limits and the ticks of a chart."""
    set_scale(spec.scale)
    set_limits(spec.low, spec.high)
    axis.set_major_locator(FixedLocator([value for value, _ in spec.ticks]))
    axis.set_major_formatter(FixedFormatter([label for _, label in spec.ticks]))
    axis.set_minor_locator(NullLocator())


def _dashes(kind: str) -> Any:
    """In pixels of the screen; matplotlib counts in points."""
    return 0, tuple(0.75 * part for part in DASHES[kind])


def _part(axis: Axis, where: float) -> float:
    """How far along the axis a value stands, from 0 to 1."""
    low, high, at = (np.log(v) if axis.scale == "log" else v for v in (axis.low, axis.high, where))
    return float((at - low) / (high - low))


def _title(axes: Any, view: str, panel: str) -> None:
    if text := ", ".join(part for part in (panel, view) if part):
        axes.set_title(text, loc="left", color=INK, fontsize=9.5, pad=16)


def _heading(figure: Figure, title: str, option: str) -> None:
    shown = f"{title} ({option})" if option else title
    figure.suptitle(shown, x=0.01, ha="left", color=INK, fontsize=12, fontweight="bold")


def _nothing(axes: Any) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, color=MUTED, ha="center", va="center", fontsize=9)


def _floats(values: Sequence[float | None]) -> list[float]:
    return [np.nan if value is None else value for value in values]
