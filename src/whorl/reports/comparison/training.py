"""The training curves and what each training took."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from whorl.reports.axes import axis, linear_ticks
from whorl.reports.chart import Axis, Curve, CurveChart, CurveFrame, CurvePanel, CurveView, Grid, Rows
from whorl.reports.document import Block, Figure, Heading, Row, Table
from whorl.reports.formatting import compact, duration, finite, with_spread
from whorl.results.comparison import Comparison
from whorl.results.over_seeds import Encoding
from whorl.results.training import Step

Curves = Mapping[str, Sequence[Step]]
"""By trial id."""
CURVE_POINTS = 160
SMOOTHING = 0.03
"""Width of the smoothing window of a training curve, as a fraction of the run."""


def blocks(c: Comparison, curves: Curves) -> list[Block]:
    if not c.encodings:
        return []
    chart = training_curves(c, curves)
    rows = []
    for e in c.encodings:
        speed, loss, seconds = (e.training("tokens_per_second"), e.training("loss"), e.training("seconds"))
        cells = [
            (e.name, ""),
            (", ".join(str(trial.seed) for trial in e.trials), ""),
            (compact(e.training("tokens").mean), ""),
            (with_spread(loss.mean, loss.spread), ""),
            (with_spread(speed.mean, speed.spread), ""),
            (duration(seconds.mean), ""),
        ]
        rows.append(Row(cells, e.index))
    heads = ["encoding", "seeds", "tokens", "final loss", "tokens per second", "time"]
    spread = ", mean ± standard deviation over seeds" if len(c.seeds) > 1 else ""
    table = Table(f"Training, per trial{spread}.", [(head, "") for head in heads], rows)
    return [Heading("Training"), *([Figure(chart)] if chart is not None else []), table]


def training_curves(c: Comparison, curves: Curves) -> CurveChart | None:
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
