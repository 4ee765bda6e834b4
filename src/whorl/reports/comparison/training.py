"""The training curves and what each training took."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from whorl.reports.axes import axis, linear_ticks
from whorl.reports.chart import Axis, Curve, CurveChart, CurveFrame, CurvePanel, CurveView, Grid, Rows
from whorl.reports.comparison.sentences import counted
from whorl.reports.document import Block, Figure, Heading, Row, Table
from whorl.reports.formatting import compact, duration, finite, with_spread
from whorl.results.comparison import Comparison
from whorl.results.over_seeds import Encoding
from whorl.tasks import parse

CURVE_POINTS = 160
SMOOTHING = 0.03
"""Width of the smoothing window of a training curve, as a fraction of the run."""


def blocks(c: Comparison) -> list[Block]:
    if not c.encodings:
        return []
    chart = training_curves(c)
    rows = []
    for e in c.encodings:
        speed, loss, seconds = (e.training("tokens_per_second"), e.training("loss"), e.training("seconds"))
        cells = [
            (e.name, ""),
            (", ".join(str(trial.seed) for trial in e.trials), ""),
            (compact(e.training("tokens").mean), ""),
            (with_spread(loss.mean, loss.spread), loss.divergence),
            (with_spread(speed.mean, speed.spread), ""),
            (duration(seconds.mean), ""),
        ]
        rows.append(Row(cells, e.index))
    heads = ["encoding", "seeds", counted(c), "final loss", f"{counted(c)} per second", "time"]
    spread = ", mean ± standard deviation over seeds" if len(c.seeds) > 1 else ""
    table = Table(f"Training, per trial{spread}.", [(head, "") for head in heads], rows)
    return [Heading("Training"), *([Figure(chart)] if chart is not None else []), table]


def training_curves(c: Comparison) -> CurveChart | None:
    """Smoothed training loss against steps: a line per encoding, its seeds as thin lines."""
    runs = {
        e.name: found
        for e in c.encodings
        if (found := [run for trial in e.trials if (run := _smoothed(trial.train.losses)) is not None])
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
    ticks = tuple((t, f"{t:,.10g}") for t in linear_ticks(0.0, stop))
    tokens = c.config.tokens / c.config.steps
    named = tuple(f"step {x:,.0f}, {compact(float(x) * tokens)} {counted(c)}" for x in places)
    grid = Grid(tuple(map(float, places)), named)
    y = axis(f"training loss (nats per {_target(c)})", "linear", [v for line in lines for v in line.y if v is not None])
    view = CurveView("training loss", (y,), (CurvePanel("", (grid,), (CurveFrame(0, lines),)),))
    caption = (
        f"Training loss in nats per {_target(c)}, smoothed over {100 * SMOOTHING:.0f} % of the run, by optimiser step "
        f"of {compact(tokens)} {counted(c)}. Every encoding sees the same batches in the same order."
    )
    x = Axis("training steps", "linear", 0.0, stop, ticks)
    return CurveChart("training", "Training curves", caption, (("step", x),), (view,), named=True)


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


def _smoothed(losses: Mapping[int, float]) -> tuple[np.ndarray, np.ndarray] | None:
    """(steps, loss) of the finite losses, by a centred mean whose window is cut at both ends alike."""
    kept = [(float(step), loss) for step, loss in losses.items() if math.isfinite(loss)]
    if len(kept) < 2:
        return None
    steps, loss = np.array(sorted(kept)).T
    half = int(len(loss) * SMOOTHING / 2)
    total = np.concatenate([[0.0], np.cumsum(loss)])
    index = np.arange(len(loss))
    reach = np.minimum(half, np.minimum(index, len(loss) - 1 - index))
    return steps, (total[index + reach + 1] - total[index - reach]) / (2 * reach + 1)


def _target(c: Comparison) -> str:
    """What a model is asked for, one at a time."""
    return {"points": "cloud", "images": "image"}.get(parse(c.config.task)[0].body, "token")
