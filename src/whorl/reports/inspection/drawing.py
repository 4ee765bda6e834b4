"""What the sections' charts have in common: a panel for each model, a frame for all layers and one for each layer's
heads, and how pairs and distances are called."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from whorl.reports.axes import axis, cell_ticks, colours, count_axis, row_ticks
from whorl.reports.bins import graded, mean, merge, rounded
from whorl.reports.chart import (
    Axis,
    Columns,
    Curve,
    CurveChart,
    CurveFrame,
    CurvePanel,
    CurveView,
    Grid,
    HeatChart,
    HeatFrame,
    HeatPanel,
    HeatRow,
    HeatView,
    Marks,
    shade,
)
from whorl.reports.formatting import wavelength_in_words
from whorl.results.inspection import Inspection

MEAN_BINS, HEAD_BINS = 120, 48
MOST_HEADS = 1024
"""Heads whose own curves and cells the page carries, of all models together: about 5 MB at 64 pairs."""


class Named(Protocol):
    """A model that has a panel."""

    @property
    def name(self) -> str: ...


Models = Sequence[Inspection]
Scale = Literal["sequential", "diverging"]
Bins = tuple[np.ndarray, np.ndarray]
Line = tuple[str, np.ndarray] | tuple[str, np.ndarray, np.ndarray | None]
"""(name, y) or (name, y, half the width of its band)."""
Lines = tuple[list[Grid], list[tuple[int, list[Line]]]]
"""One model's grids, and for each option the number of its grid with its lines."""
ONE_OPTION = ("",)


# Layers and heads


def layers_with_heads(models: Models) -> list[int]:
    """The layers whose heads the page carries: all of them, or those with positional heads first."""
    heads = sum(m.summary.model.heads for m in models)
    positional = {head.layer for m in models for head in m.summary.heads or ()}
    wanted = sorted(range(_deepest(models)), key=lambda layer: (layer not in positional, layer))
    return sorted(wanted[: max(1, MOST_HEADS // max(1, heads))])


def carried(models: Models) -> str:
    """A remark where the page does not carry the heads of every layer."""
    shown, every = len(layers_with_heads(models)), _deepest(models)
    return f" Heads are shown of {shown} of {every} layers, those with positional heads first." * (shown < every)


def layer_options(models: Models) -> tuple[str, ...]:
    return ("all layers, mean over heads", *(f"layer {layer}, its heads" for layer in layers_with_heads(models)))


def _deepest(models: Models) -> int:
    return max((m.summary.model.layers for m in models), default=0)


# Heat maps


@dataclass(frozen=True)
class Cells:
    """One model's part of a view: a frame for each option."""

    ticks: Marks
    columns: tuple[Columns, ...]
    options: list[HeatFrame | None]


def cells(
    label: str, table: np.ndarray, note: Callable[[int], str], columns: Sequence[int] | None = None, marks: Marks = ()
) -> HeatFrame | None:
    """The rows of a table, called `note(row)`; None where it holds no number. columns: the Columns of each row."""
    if not np.isfinite(table).any():
        return None
    rows = tuple(HeatRow(note(i), columns[i] if columns else 0, row) for i, row in enumerate(graded(table)))
    return HeatFrame(label, row_ticks(len(rows)), rows, marks)


def heat_view(
    models: Sequence[Named],
    label: str,
    unit: str,
    scale: Scale,
    parts: Sequence[Cells | None],
    high: float | None = None,
) -> HeatView | None:
    """A panel for each model; colours are shared by the panels of an option (with `high` by all options)."""
    count = max((len(part.options) for part in parts if part), default=0)
    if not any(part and any(part.options) for part in parts):
        return None
    shown = [(part.options if part else []) + [None] * (count - len(part.options if part else [])) for part in parts]
    panels = tuple(
        HeatPanel(m.name, part.ticks if part else (), part.columns if part else (), tuple(options))
        for m, part, options in zip(models, parts, shown, strict=True)
    )
    tables = ([_drawn(frame) for options in shown if (frame := options[i])] for i in range(count))
    scales = (colours(unit, scale, found, high) for found in tables)
    return HeatView(label, tuple(scales), panels)


def _drawn(frame: HeatFrame) -> np.ndarray:
    """The cells as they are drawn, [row, column]: rounded, NaN where there is nothing."""
    return np.array([row.values for row in frame.rows], dtype=float)


def by_layer_and_pair(
    models: Models, label: str, unit: str, scale: Scale, found: Sequence[np.ndarray | None], noun: str = "head"
) -> HeatView | None:
    """Layer x pair, mean over heads, and head x pair for each layer, of [layer, head, pair]. No `noun`: no heads."""
    parts: list[Cells | None] = []
    for m, values in zip(models, found, strict=True):
        if values is None:
            parts.append(None)
            continue
        layers, heads, pairs = values.shape
        columns, of_layer = pair_columns(m, layers, pairs)
        options = [cells("layer", mean(values, 1), lambda i: f"layer {i}", of_layer)]
        for layer in layers_with_heads(models):
            table = values[layer] if noun and layer < layers else np.empty((0, pairs))

            def note(head: int, layer: int = layer) -> str:
                return f"layer {layer}, {noun} {head}"

            options.append(cells(noun, table, note, [of_layer[layer]] * heads if len(table) else None))
        parts.append(Cells(cell_ticks(pairs), columns, options))
    return heat_view(models, label, unit, scale, parts)


def heat(
    name: str,
    title: str,
    caption: str,
    x_label: str,
    views: Sequence[HeatView | None],
    selector: str = "",
    options: tuple[str, ...] = ONE_OPTION,
) -> HeatChart | None:
    """The chart of the views that there are; None without any. Every view has a frame, or None, for every option."""
    kept = []
    for view in filter(None, views):
        short = len(options) - len(view.colours)
        panels = tuple(replace(p, frames=p.frames + (None,) * short) for p in view.panels)
        kept.append(replace(view, colours=view.colours + view.colours[:1] * short, panels=panels))
    return HeatChart(name, title, caption, x_label, selector, options, tuple(kept)) if kept else None


# Curves


def curve_view(
    models: Models,
    label: str,
    unit: str,
    read: Callable[[Inspection], Lines | None],
    scale: Literal["log", "linear"] = "linear",
    levels: Marks = (),
    marks: Callable[[Inspection], Marks] = lambda m: (),
    markers: bool = False,
) -> CurveView | None:
    """A panel for each model, of what `read` gives of it; the y axis of an option is shared by the panels."""
    found = [read(m) for m in models]
    count = max((len(lines[1]) for lines in found if lines), default=0)
    if not count:
        return None
    panels = []
    for m, lines in zip(models, found, strict=True):
        grids, options = lines or ([], [])
        frames = [
            CurveFrame(grid, tuple(_curve(i, len(each), 3 if grid else 4, *line) for i, line in enumerate(each)))
            for grid, each in options
        ]
        panels.append(CurvePanel(m.name, tuple(grids), (*frames, *([None] * (count - len(frames)))), marks(m)))
    axes = []
    for option in range(count):
        shown = [curve for p in panels if (f := p.frames[option]) is not None for curve in f.curves]
        values = [v for curve in shown for v in (*curve.y, *curve.low, *curve.high) if v is not None]
        axes.append(axis(unit, scale, [*values, *(value for value, _ in levels)] or [1.0, 2.0]))
    return CurveView(label, tuple(axes), tuple(panels), levels, markers=markers)


def _curve(index: int, count: int, digits: int, name: str, y: np.ndarray, width: np.ndarray | None = None) -> Curve:
    curve = Curve(name, index, rounded(y, digits), shade=shade(index, count))
    if width is None or not np.isfinite(width).any():
        return curve
    return replace(curve, low=rounded(y - width, digits), high=rounded(y + width, digits))


def curves(
    name: str,
    title: str,
    caption: str,
    xs: tuple[tuple[str, Axis], ...],
    views: Sequence[CurveView | None],
    selector: str = "",
    options: tuple[str, ...] = ONE_OPTION,
) -> CurveChart | None:
    """The chart of the views that there are; None without any. Every view has a frame, or None, for every option."""
    kept = []
    for view in filter(None, views):
        short = len(options) - len(view.axes)
        panels = tuple(replace(p, frames=p.frames + (None,) * short) for p in view.panels)
        kept.append(replace(view, axes=view.axes + view.axes[:1] * short, panels=panels))
    return CurveChart(name, title, caption, xs, tuple(kept), selector, options) if kept else None


def layers_and_heads(
    m: Inspection,
    models: Models,
    bins: tuple[np.ndarray, np.ndarray],
    values: np.ndarray,
    noun: str,
    fine: int,
    coarse: int,
) -> Lines:
    """The mean of each layer on a fine grid, and each head of the chosen layers on a coarse one, of [layer, head, bin];
    `noun` is what the bins are of."""
    chosen = [layer for layer in layers_with_heads(models) if layer < len(values)]
    per_layer, of_heads = merge(*bins, mean(values, 1), fine), merge(*bins, values[chosen], coarse)
    options: list[tuple[int, list[Line]]] = [(0, [(f"layer {i}", row) for i, row in enumerate(per_layer[2])])]
    options += [(1, [(f"head {i}", row) for i, row in enumerate(heads)]) for heads in of_heads[2]]
    return [_grid(start, stop, noun) for start, stop, _ in (per_layer, of_heads)], options


def _grid(start: np.ndarray, stop: np.ndarray, noun: str) -> Grid:
    """The middle of each bin; place 0 stands at 0.5, where a logarithmic axis can show it."""
    x = np.maximum((start + stop - 1) / 2, 0.5)
    return Grid(tuple(map(float, x)), tuple(bin_note(noun, a, b) for a, b in zip(start, stop, strict=True)))


def bin_note(noun: str, start: float, stop: float) -> str:
    """`distance 3`, `distances 4 to 7`."""
    return f"{noun} {start:,.0f}" if stop - start <= 1 else f"{noun}s {start:,.0f} to {stop - 1:,.0f}"


def distance_axes(models: Models) -> tuple[tuple[str, Axis], ...]:
    far = last(models, "distance_to")
    label = "distance from query to key, in tokens"
    return ("log", count_axis(label, far)), ("linear", axis(label, "linear", [0.0, far]))


def last(models: Models, name: str) -> float:
    """The end of the last bin of any model."""
    ends = [ends for m in models if (ends := m.measured(name)) is not None]
    return max((float(np.nanmax(values)) for values in ends), default=2.0)


def train_mark(m: Inspection) -> Marks:
    return ((float(m.train_length), "training length"),)


# Pairs


def cuts(m: Inspection, layer: int, pairs: int) -> Marks:
    """Where HoPE and p-RoPE 0.75 cut the pairs of a layer, in pairs from the first."""
    told = m.summary.spectrum.of(layer)
    if told is None:
        return ()
    known = ((told.hope_cut, "HoPE's cut"), (told.p_rope_cut, "p-RoPE 0.75"))
    return tuple((float(cut), words) for cut, words in known if 0 < cut < pairs)


def wavelengths(m: Inspection, layer: int, pairs: int) -> list[float | None]:
    """Tokens of one turn of each pair: infinity where it does not rotate, None where that is not told."""
    found = m.arrays.get("wavelength")
    if found is None or layer >= len(found):
        return [None] * pairs
    return [None if np.isnan(value) else float(value) for value in found[layer, :pairs]]


def pair_columns(m: Inspection, layers: int, pairs: int) -> tuple[tuple[Columns, ...], list[int]]:
    """The different kinds of columns that the layers have, and which of them each layer has."""
    kinds: dict[Columns, int] = {}
    of_layer = []
    for layer in range(layers):
        notes = tuple(pair_note(i, w) for i, w in enumerate(wavelengths(m, layer, pairs)))
        of_layer.append(kinds.setdefault(Columns(notes, cuts(m, layer, pairs)), len(kinds)))
    return tuple(kinds), of_layer


def pair_note(pair: int, wavelength: float | None) -> str:
    words = wavelength_in_words(wavelength)
    return f"pair {pair}, {words}" if words else f"pair {pair}"
