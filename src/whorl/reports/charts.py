"""The charts of a report as data. figures.py draws them as PNG and page.js in the page, so the two cannot disagree."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from whorl.reports.formatting import compact, multiple, number, percent, ratio, with_spread
from whorl.reports.summary import Cell, Comparison, Encoding, Metric, metrics_of

CURVE_POINTS = 160
SMOOTHING = 0.03
"""Width of the smoothing window of a training curve, as a fraction of the run."""


@dataclass(frozen=True)
class Axis:
    """Limits and (value, label) ticks; a label may have a second line after a newline."""

    label: str
    scale: Literal["log", "linear"]
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Point:
    """A value with its band [low, high]; `heading` and `rows` are shown on hover. y is None for a gap."""

    x: float
    y: float | None
    low: float | None
    high: float | None
    heading: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Line:
    """One encoding. `seeds` are its single runs as (x, y) lists, for thin lines; empty for one seed. `note` stands
    beside its name, where the line does not reach the end."""

    name: str
    index: int
    points: tuple[Point, ...]
    seeds: tuple[tuple[tuple[float, float], ...], ...]
    note: str = ""


@dataclass(frozen=True)
class View:
    """One quantity of a chart; the page switches between the views. `level` is a horizontal line with its label."""

    label: str
    y: Axis
    lines: tuple[Line, ...]
    level: tuple[float, str] | None = None


@dataclass(frozen=True)
class LineChart:
    """`mark` is a vertical line with its label; `markers` whether single points are drawn."""

    name: str
    title: str
    caption: str
    x: Axis
    mark: tuple[float, str] | None
    markers: bool
    views: tuple[View, ...]
    kind: str = "lines"


@dataclass(frozen=True)
class Pair:
    """One channel pair: `within` turns fully in the training length, `beyond` turns more slowly, `turning` at a speed
    that the results do not tell, `still` not at all."""

    state: Literal["within", "beyond", "turning", "still"]
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Strip:
    """The pairs of one encoding, per layer where layers differ. `mark`, in pairs from the left edge, is where the
    wavelength equals the training length."""

    name: str
    index: int
    turning: str
    layers: tuple[tuple[Pair, ...], ...]
    mark: float | None


@dataclass(frozen=True)
class StripChart:
    """`legend` maps the states that occur, and `mark`, to words."""

    name: str
    title: str
    caption: str
    x_label: str
    legend: dict[str, str]
    strips: tuple[Strip, ...]
    kind: str = "strips"


def by_length(c: Comparison, kind: str, title: str, caption: str) -> LineChart | None:
    """The two metrics of an evaluation against length; None when it has no finite value."""
    lengths = c.lengths(kind)
    views = [_view(c, metric, lengths) for metric in metrics_of(kind)]
    found = tuple(view for view in views if view is not None)
    if not found:
        return None
    ticks = tuple((float(n), f"{n:,}\n{multiple(n, c.train_length)}") for n in lengths)
    x = Axis("length in tokens", "log", lengths[0] / 1.12, lengths[-1] * 1.12, ticks)
    mark = (float(c.train_length), "training length") if x.low <= c.train_length <= x.high else None
    return LineChart(kind, title, caption, x, mark, True, found)


def training_curves(c: Comparison, curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> LineChart | None:
    """Smoothed training loss against tokens: a line per encoding, its seeds as thin lines."""
    lines = tuple(line for e in c.encodings if (line := _curve(e, curves)) is not None)
    xs = [p.x for line in lines for p in line.points]
    ys = [p.y for line in lines for p in line.points if p.y is not None]
    if not ys:
        return None
    unit, letter = (1e6, "M") if max(xs) >= 1e6 else (1e3, "k") if max(xs) >= 1e4 else (1.0, "")
    ticks = tuple((t, f"{t / unit:g} {letter}".strip() if t else "0") for t in linear_ticks(0.0, max(xs)))
    x = Axis("training tokens", "linear", 0.0, max(xs), ticks)
    caption = (
        f"Training loss in nats per token, smoothed over {100 * SMOOTHING:.0f} % of the run. Every encoding sees the "
        "same batches in the same order."
    )
    y = axis("training loss (nats per token)", "linear", ys, percent_labels=False)
    return LineChart("training", "Training curves", caption, x, None, False, (View("training loss", y, lines),))


def pairs_turning(c: Comparison) -> StripChart | None:
    """Which channel pairs turn; None when no encoding is rotary."""
    strips = tuple(strip for e in c.encodings if (strip := _strip(e, c.train_length)) is not None)
    if not strips:
        return None
    states: set[str] = {pair.state for strip in strips for layer in strip.layers for pair in layer}
    words: dict[str, str] = {
        "within": f"turns fully within {c.train_length:,} tokens",
        "beyond": "turns more slowly: angles past the training length are new to the model",
        "turning": "turns, at a speed that the results do not tell",
        "still": "stands still",
    }
    legend = {state: text for state, text in words.items() if state in states}
    if any(strip.mark is not None for strip in strips):
        legend["mark"] = f"one full turn takes exactly the training length, {c.train_length:,} tokens"
    return StripChart(
        "pairs",
        "Which channel pairs turn",
        "Each cell is one pair of channels of a head, from the fastest to the slowest.",
        "channel pair",
        legend,
        strips,
    )


def linear_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values from low to high, in steps of 1, 2, 2.5 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Round values from low to high: the sparsest of a few ladders that has at least four, thinned to eight."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for ladder in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
        ticks = [t for p in powers for m in ladder if low <= (t := m * 10.0**p) <= high]
        if len(ticks) >= 4:
            return ticks[:: math.ceil(len(ticks) / 8)]
    return ticks if len(ticks) >= 3 else linear_ticks(low, high, 4)


def _view(c: Comparison, metric: Metric, lengths: Sequence[int]) -> View | None:
    lines = tuple(_line(c, e, metric, lengths) for e in c.encodings)
    bounds = [v for line in lines for p in line.points for v in (p.y, p.low, p.high) if v is not None]
    bounds += [y for line in lines for seed in line.seeds for _, y in seed]
    if not bounds:
        return None
    label = metric.label if metric.percent else f"{metric.label} (log scale, lower is better)"
    reference = c.reference(metric.kind)
    unigram = None if reference is None else c.unigram(metric, reference)
    level = None if unigram is None else (unigram, f"a unigram model, {number(unigram)}")
    bounds += [] if unigram is None else [unigram]
    return View(metric.label, axis(label, "linear" if metric.percent else "log", bounds, metric.percent), lines, level)


def _line(c: Comparison, e: Encoding, metric: Metric, lengths: Sequence[int]) -> Line:
    cells = [cell for n in lengths if (cell := e.cell(metric, n)) is not None]
    points = tuple(_point(c, e, metric, cell) for cell in cells)
    by_seed = [
        tuple((float(cell.length), v) for cell in cells if (v := finite(cell.values.get(t["seed"]))) is not None)
        for t in e.trials
    ]
    seeds = tuple(by_seed) if len(e.trials) > 1 else ()
    return Line(e.name, e.index, points, seeds, _note(cells, lengths))


def _note(cells: Sequence[Cell], lengths: Sequence[int]) -> str:
    """What to say beside the name of a line that does not reach every length."""
    reached = [cell.length for cell in cells if cell.finite]
    if not reached:
        return "diverged" if any(cell.diverged for cell in cells) else "no value"
    return "" if reached[-1] == lengths[-1] else f"to {reached[-1]:,}"


def _point(c: Comparison, e: Encoding, metric: Metric, cell: Cell) -> Point:
    mean, spread = finite(cell.mean), cell.spread
    rows = [(metric.label, with_spread(cell.mean, spread, metric.percent))]
    in_range = e.ratio(metric, cell.length, c.reference(metric.kind))
    if in_range is not None and in_range.mean is not None and not metric.percent:
        rows.append(("ratio to in-range", ratio(in_range.mean)))
    if cell.stderr is not None:
        rows.append(("standard error", percent(cell.stderr) if metric.percent else number(cell.stderr)))
    if cell.samples is not None:
        rows.append(("sequences" if metric.percent else "windows", f"{cell.samples:,}"))
    if len(cell.values) > 1:
        rows.append(("seeds", str(len(cell.finite))))
    heading = f"{cell.length:,} tokens, {multiple(cell.length, c.train_length)}"
    if mean is None or spread is None:
        return Point(float(cell.length), mean, None, None, heading, tuple(rows))
    low = mean - spread
    if not metric.percent and low <= 0:
        low = min(cell.finite)  # a logarithmic axis has no place for it
    return Point(float(cell.length), mean, low, mean + spread, heading, tuple(rows))


def axis(label: str, scale: Literal["log", "linear"], values: Sequence[float], percent_labels: bool) -> Axis:
    """Limits that hold every value with a little room, and round ticks."""
    low, high = min(values), max(values)
    if percent_labels:
        ticks = (0.0, 0.25, 0.5, 0.75, 1.0)
        return Axis(label, scale, -0.02, 1.04, tuple((t, f"{100 * t:.0f} %") for t in ticks))
    if scale == "log" and low > 0:
        room = max((high / low) ** 0.06, 1.04)
        low, high = low / room, high * room
        return Axis(label, "log", low, high, tuple((t, tick(t)) for t in log_ticks(low, high)))
    room = max((high - low) * 0.06, abs(high) * 0.01, 1e-6)
    low, high = low - room, high + room
    return Axis(label, "linear", low, high, tuple((t, tick(t)) for t in linear_ticks(low, high)))


def tick(value: float) -> str:
    return f"{value:.0e}" if value >= 1e6 else f"{value:,.10g}"


def _curve(e: Encoding, curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Line | None:
    runs = [run for t in e.trials if (run := _smoothed(curves.get(t["id"]) or ())) is not None]
    if not runs:
        return None
    grid = np.linspace(max(x[0] for x, _ in runs), max(x[-1] for x, _ in runs), CURVE_POINTS)
    losses = np.array([np.interp(grid, x, y, right=np.nan) for x, y in runs])
    points = []
    for x, column in zip(grid, losses.T, strict=True):
        here = column[np.isfinite(column)]
        mean = float(here.mean()) if len(here) else None
        spread = float(here.std(ddof=1)) if len(here) > 1 else None
        rows = (("training loss", with_spread(mean, spread)),)
        points.append(Point(float(x), mean, None, None, f"{compact(float(x))} tokens", rows))
    thin = tuple(
        tuple((float(x), float(y)) for x, y in zip(grid, run, strict=True) if np.isfinite(y)) for run in losses
    )
    return Line(e.name, e.index, tuple(points), thin if len(runs) > 1 else ())


def _smoothed(rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray] | None:
    """(tokens, loss) of the finite rows, by a centred mean whose window is cut at both ends alike."""
    kept = [(float(r["tokens"]), y) for r in rows if (y := finite(r.get("loss"))) is not None]
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
    heading = ("pair", str(index))
    if wavelength is None:
        return Pair("still", (heading, ("one turn", "never: it stands still")))
    if math.isnan(wavelength):
        return Pair("turning", (heading, ("one turn", "not told by the results")))
    state: Literal["within", "beyond"] = "within" if wavelength <= train_length else "beyond"
    return Pair(state, (heading, ("one turn", f"{number(wavelength)} tokens")))


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
