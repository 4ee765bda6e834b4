"""The figure of an extension: the loss by position of every method that was tried."""

from collections.abc import Mapping, Sequence

import numpy as np

from whorl.reports.axes import axis
from whorl.reports.bins import rounded
from whorl.reports.chart import Curve, CurveChart, CurveFrame, CurvePanel, CurveView, Grid

UNTOUCHED = "none"
GREY, BEST, OTHERS = 6, 0, 5
"""Series of the untouched model and of the method that was kept; the others share those between."""


def loss_by_position(losses: Mapping[str, Sequence[float]], best: str, train_length: int) -> CurveChart:
    """losses: of each method the loss in nats per token after each position, all of one length; drawn smoothed over a
    thirty-second of it, the untouched model and `best` strongly."""
    length = len(next(iter(losses.values())))
    width = max(1, length // 32)
    step = max(1, width // 4)
    starts = range(0, length - width + 1, step)
    curves = []
    others = 0
    for name, values in losses.items():
        smooth = np.array([np.mean(values[start : start + width]) for start in starts])
        index = BEST if name == best else GREY
        if name not in (UNTOUCHED, best):
            index = 1 + others % OTHERS
            others += 1
        curves.append(Curve(name, index, rounded(smooth), faint=name not in (UNTOUCHED, best)))
    places = [start + width / 2 for start in starts]
    grid = Grid(tuple(places), tuple(f"positions {start:,} to {start + width - 1:,}" for start in starts))
    known = [value for curve in curves for value in curve.y if value is not None]
    panel = CurvePanel("", (grid,), (CurveFrame(0, tuple(curves)),), ((float(train_length), "training length"),))
    view = CurveView("loss", (axis("loss (nats per token)", "linear", known),), (panel,))
    x = axis("position", "linear", [0.0, float(length)])
    title = f"Loss by position: {best} was kept"
    return CurveChart("loss", title, "", (("position", x),), (view,), named=True)
