"""The charts of a comparison: values against length, training curves, which pairs turn."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from whorl.reports.axes import axis, linear_ticks, percent_axis
from whorl.reports.chart import (
    Axis,
    Curve,
    CurveChart,
    CurveFrame,
    CurvePanel,
    CurveView,
    Grid,
    Pair,
    Rows,
    Strip,
    StripChart,
)
from whorl.reports.comparison.levels import level
from whorl.reports.formatting import compact, multiple, number, percent, ratio, with_spread
from whorl.reports.strips import pair_of, strip_chart
from whorl.results.comparison import Comparison
from whorl.results.over_seeds import Cell, Encoding, Metric
from whorl.results.training import Step
from whorl.tasks import of_evaluation

CURVE_POINTS = 160
SMOOTHING = 0.03
"""Width of the smoothing window of a training curve, as a fraction of the run."""


def by_length(c: Comparison, kind: str, title: str, caption: str) -> CurveChart | None:
    """The two metrics of an evaluation against length; None when it has no finite value."""
    lengths = c.lengths(kind)
    views = [_view(c, metric, lengths) for metric in of_evaluation(kind).measured()]
    found = tuple(view for view in views if view is not None)
    if not found:
        return None
    ticks = tuple((float(n), f"{n:,}\n{multiple(n, c.train_length)}") for n in lengths)
    x = Axis("length in tokens", "log", lengths[0] / 1.12, lengths[-1] * 1.12, ticks)
    shares = of_evaluation(kind).measured()[0].share  # two shares have one scale, two perplexities do not
    return CurveChart(
        *(kind, title, caption, (("length", x),), found), named=True, pictured=2 if shares else 1, overlaid=shares
    )


def training_curves(c: Comparison, curves: Mapping[str, Sequence[Step]]) -> CurveChart | None:
    """Smoothed training loss against tokens: a line per encoding, its seeds as thin lines."""
    runs = {
        e.name: found for e in c.encodings if (found := [r for t in e.trials if (r := _smoothed(curves.get(t.id, ())))])
    }
    if not runs:
        return None
    # Where every seed of some encoding has a value; others begin or end with a gap.
    start, stop = (
        min(max(float(x[0]) for x, _ in found) for found in runs.values()),
        max(float(x[-1]) for found in runs.values() for x, _ in found),
    )
    places = np.linspace(start, stop, CURVE_POINTS)
    lines = tuple(_curve(e, runs[e.name], places) for e in c.encodings if e.name in runs)
    unit, letter = (1e6, "M") if stop >= 1e6 else (1e3, "k") if stop >= 1e4 else (1.0, "")
    ticks = tuple((t, f"{t / unit:g} {letter}".strip() if t else "0") for t in linear_ticks(0.0, stop))
    grid = Grid(tuple(map(float, places)), tuple(f"{compact(float(x))} tokens" for x in places))
    y = axis("training loss (nats per token)", "linear", [v for line in lines for v in line.y if v is not None])
    view = CurveView("training loss", (y,), (CurvePanel("", (grid,), (CurveFrame(0, lines),)),))
    caption = (
        f"Training loss in nats per token, smoothed over {100 * SMOOTHING:.0f} % of the run. Every encoding sees the "
        "same batches in the same order."
    )
    x = Axis("training tokens", "linear", 0.0, stop, ticks)
    return CurveChart("training", "Training curves", caption, (("tokens", x),), (view,), named=True)


def pairs_turning(c: Comparison) -> StripChart | None:
    """Which channel pairs turn; None when no encoding is rotary."""
    strips = tuple(strip for e in c.encodings if (strip := _strip(e, c.train_length)) is not None)
    if not strips:
        return None
    mark = f"one full turn takes exactly the training length, {c.train_length:,} tokens"
    return strip_chart("pairs", strips, f"{c.train_length:,} tokens", mark)


def _view(c: Comparison, metric: Metric, lengths: Sequence[int]) -> CurveView | None:
    lines = tuple(_line(c, e, metric, lengths) for e in c.encodings)
    values = [v for line in lines for row in (line.y, line.low, line.high, *line.thin) for v in row if v is not None]
    if not values:
        return None
    nothing = level(c, metric, c.reference(metric.evaluation))
    levels = () if nothing is None else ((nothing.value, f"{nothing.name}, {nothing.shown}"),)
    values += [value for value, _ in levels]
    y = (
        percent_axis(metric.label)
        if metric.share
        else axis(f"{metric.label} (log scale, lower is better)", "log", values)
    )
    notes = tuple(f"{n:,} tokens, {multiple(n, c.train_length)}" for n in lengths)
    grid = Grid(tuple(map(float, lengths)), notes)
    marks = ((float(c.train_length), "training length"),)
    panel = CurvePanel("", (grid,), (CurveFrame(0, lines),), marks)
    return CurveView(metric.label, (y,), (panel,), levels, "left", markers=True)


def _line(c: Comparison, e: Encoding, metric: Metric, lengths: Sequence[int]) -> Curve:
    cells = [e.cell(metric, n) for n in lengths]
    bands = [_band(cell, metric) for cell in cells]
    spread = any(low is not None for low, _ in bands)
    seeds = (tuple(finite(cell and cell.values.get(t.seed)) for cell in cells) for t in e.trials)
    return Curve(
        e.name,
        e.index,
        tuple(finite(cell and cell.mean) for cell in cells),
        tuple(low for low, _ in bands) if spread else (),
        tuple(high for _, high in bands) if spread else (),
        tuple(seeds) if len(e.trials) > 1 else (),
        tuple(() if cell is None else _rows(c, e, metric, cell) for cell in cells),
        _note([cell for cell in cells if cell is not None], lengths),
    )


def _note(cells: Sequence[Cell], lengths: Sequence[int]) -> str:
    """What to say beside the name of a line that does not reach every length."""
    reached = [cell.length for cell in cells if cell.finite]
    if not reached:
        return "diverged" if any(cell.diverged for cell in cells) else "no value"
    return "" if reached[-1] == lengths[-1] else f"to {reached[-1]:,}"


def _band(cell: Cell | None, metric: Metric) -> tuple[float | None, float | None]:
    """One standard deviation to both sides of the mean."""
    mean, spread = (None, None) if cell is None else (finite(cell.mean), cell.spread)
    if cell is None or mean is None or spread is None:
        return None, None
    low = mean - spread
    if not metric.share and low <= 0:
        low = min(cell.finite)  # a logarithmic axis has no place for it
    return low, mean + spread


def _rows(c: Comparison, e: Encoding, metric: Metric, cell: Cell) -> Rows:
    rows = [(metric.label, with_spread(cell.mean, cell.spread, metric.share))]
    in_range = e.ratio(metric, cell.length, c.reference(metric.evaluation))
    if in_range is not None and in_range.mean is not None and not metric.share:
        rows.append(("ratio to in-range", ratio(in_range.mean)))
    if cell.stderr is not None:
        rows.append(("standard error", percent(cell.stderr) if metric.share else number(cell.stderr)))
    if cell.samples is not None:
        rows.append(("sequences" if metric.share else "windows", f"{cell.samples:,}"))
    if len(cell.values) > 1:
        rows.append(("seeds", str(len(cell.finite))))
    return tuple(rows)


def _curve(e: Encoding, runs: Sequence[tuple[np.ndarray, np.ndarray]], places: np.ndarray) -> Curve:
    """The mean over the seeds that have a value at a place, and each seed."""
    losses = np.array([np.interp(places, x, y, left=np.nan, right=np.nan) for x, y in runs])
    y: list[float | None] = []
    rows: list[Rows] = []
    for column in losses.T:
        here = column[np.isfinite(column)]
        mean = float(here.mean()) if len(here) else None
        spread = float(here.std(ddof=1)) if len(here) > 1 else None
        y.append(mean)
        rows.append((("training loss", with_spread(mean, spread)),))
    thin = tuple(tuple(finite(v) for v in run) for run in losses) if len(runs) > 1 else ()
    return Curve(e.name, e.index, tuple(y), thin=thin, rows=tuple(rows))


def _smoothed(points: Sequence[Step]) -> tuple[np.ndarray, np.ndarray] | None:
    """(tokens, loss) of the finite points, by a centred mean whose window is cut at both ends alike."""
    kept = [(float(point.tokens), point.loss) for point in points if math.isfinite(point.loss)]
    if len(kept) < 2:
        return None
    tokens, loss = np.array(sorted(kept)).T
    half = int(len(loss) * SMOOTHING / 2)
    total = np.concatenate([[0.0], np.cumsum(loss)])
    index = np.arange(len(loss))
    reach = np.minimum(half, np.minimum(index, len(loss) - 1 - index))
    return tokens, (total[index + reach + 1] - total[index - reach]) / (2 * reach + 1)


def _strip(e: Encoding, train_length: int) -> Strip | None:
    layers = e.wavelengths
    if layers is None:
        return None
    turning = [sum(w is not None for w in layer) for layer in layers]
    words = f"{', '.join(map(str, dict.fromkeys(turning)))} of {e.pairs}"
    pairs = tuple(tuple(_pair(i, w, train_length) for i, w in enumerate(layer)) for layer in layers)
    marks = (mark for layer in layers if (mark := _crossing(layer, train_length)) is not None)
    return Strip(e.name, e.index, words, pairs, next(marks, None))


def _pair(index: int, wavelength: float | None, train_length: int) -> Pair:
    """In results None stands still, and NaN is a speed that they do not tell."""
    known = math.inf if wavelength is None else None if math.isnan(wavelength) else wavelength
    return pair_of(index, known, train_length)


def _crossing(layer: Sequence[float | None], train_length: int) -> float | None:
    """Where along the strip the wavelength, geometric in the pair, equals the training length.

    Read between the turning pairs, or beyond the last of them while within the strip; None when there are not two.
    """
    known = [(i, math.log(w)) for i, w in enumerate(layer) if w is not None and w > 0]
    if len(known) < 2:
        return None
    goal = math.log(train_length)
    after = next((k for k, (_, log_w) in enumerate(known) if log_w > goal), len(known) - 1)
    (i, a), (j, b) = known[max(after, 1) - 1], known[max(after, 1)]
    if not b > a:
        return None
    mark = i + (goal - a) / (b - a) * (j - i) + 0.5
    return mark if 0 <= mark <= len(layer) else None


def finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
