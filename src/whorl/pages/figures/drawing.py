"""Charts of one panel, from curves or from a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from whorl.encodings import Shape
from whorl.reports.axes import axis, cell_ticks, colours
from whorl.reports.bins import graded, rounded
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

MODEL = Shape(64, 8, 512)  # that examples are of
Side = Axis | tuple[str, Literal["log", "linear"]]
"""An axis, or the label and the scale of one that holds what is drawn."""
DISTANCE: Side = ("distance, tokens", "linear")
LOG_DISTANCE: Side = ("distance, tokens", "log")
ADDED: Side = ("added to the logit", "linear")
WEIGHT: Side = ("weight", "linear")
GREY = 6  # the series that stands for what others do
DIGITS = 4


@dataclass(frozen=True)
class Subject:
    """What is drawn: an encoding's name, and the notation that the example has."""

    name: str
    notation: str


def curves(
    subject: Subject,
    title: str,
    x: Side,
    y: Side,
    places: Sequence[float],
    lines: Sequence[tuple[str, Sequence[float] | np.ndarray]],
    *,
    other: str | None = None,
    marks: Marks = (),
    levels: Marks = (),
    floor: float | None = None,
    markers: bool = False,
) -> CurveChart:
    """Named lines over the same places. other: the name of those that are not the encoding's, and are drawn in grey.

    floor: where lines end that come down to it.
    """
    lines = [(name, _down_to(floor, line)) for name, line in lines]
    values = [v for _, line in lines for v in line if np.isfinite(v)]
    horizontal = x if isinstance(x, Axis) else axis(x[0], x[1], list(places))
    vertical = y if isinstance(y, Axis) else axis(y[0], y[1], [*values, *(at for at, _ in levels)])
    own = [name for name, _ in lines if name != other]
    drawn = tuple(
        Curve(
            name,
            GREY if name == other else own.index(name),
            rounded(line, DIGITS),
            shade=None if name == other else shade(own.index(name), len(own)),
            faint=name == other,
        )
        for name, line in lines
    )
    grid = Grid(tuple(map(float, places)), tuple(f"{at:g}" for at in places))
    panel = CurvePanel("", (grid,), (CurveFrame(0, drawn),), marks)
    view = CurveView(vertical.label, (vertical,), (panel,), levels, "left", horizontal, markers)
    return CurveChart(subject.name, f"{subject.name}: {title}", "", (("", horizontal),), (view,), named=len(own) <= 6)


def cells(
    subject: Subject,
    title: str,
    table: torch.Tensor,
    rows: str,
    columns: str,
    of: str,
    *,
    diverging: bool = False,
    high: float | None = None,
) -> HeatChart:
    """A matrix [rows, columns]; NaN where there is nothing. high: the limit of the colours."""
    values = table.detach().double().numpy()
    count, width = values.shape
    shown = colours(of, "diverging" if diverging else "sequential", [values], high)
    frame = HeatFrame(
        rows,
        cell_ticks(count),
        tuple(HeatRow(f"{rows} {i}", 0, row) for i, row in enumerate(graded(values))),
    )
    names = Columns(tuple(f"{columns} {j}" for j in range(width)))
    panel = HeatPanel("", cell_ticks(width), (names,), (frame,))
    view = HeatView(of, (shown,), (panel,))
    return HeatChart(subject.name, f"{subject.name}: {title}", "", columns, "", ("",), (view,))


def _down_to(floor: float | None, line: Sequence[float] | np.ndarray) -> np.ndarray:
    values = np.asarray(line, dtype=float)
    return values if floor is None else np.where(np.minimum.accumulate(values) >= floor, values, np.nan)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    """The random numbers of an example, the same each time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def log_places(first: int, last: int, count: int = 160) -> list[float]:
    """Whole numbers from first to last, at about equal ratios."""
    return sorted({float(round(x)) for x in np.geomspace(first, last, count)})


def steps(first: int, last: int, count: int = 400) -> list[float]:
    """Numbers from first to last, at equal ratios: what goes by their whole parts is drawn as steps."""
    return [float(x) for x in np.geomspace(first, last, count)]
