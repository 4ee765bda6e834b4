"""Charts of many curves or cells: a panel per model, views to switch between, and a frame for each choice.

Kept compact, as numbers rather than as points with their words: a checkpoint of 32 layers with 32 heads has a million
values to show. panel_figures.py draws them as PNG and page.js in the page.
"""

from dataclasses import dataclass
from typing import Literal

from whorl.reports.charts import Axis

Values = tuple[float | None, ...]
Marks = tuple[tuple[float, str], ...]
"""Lines across a chart: (where, label)."""


@dataclass(frozen=True)
class Curve:
    """One line over a grid's places; None for a gap. `low` and `high`, where they are given, are its band."""

    name: str
    index: int
    y: Values
    low: Values = ()
    high: Values = ()


@dataclass(frozen=True)
class Grid:
    """The places of curves on the x axis, and what to call each on hover."""

    x: tuple[float, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class CurveFrame:
    """What one choice shows: curves over the panel's grid of that number."""

    grid: int
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class CurvePanel:
    """One model. `frames` are in the order of the chart's options; None where this model has none."""

    name: str
    grids: tuple[Grid, ...]
    frames: tuple[CurveFrame | None, ...]
    marks: Marks


@dataclass(frozen=True)
class CurveView:
    """One quantity: its y axis for each option, shared by the panels. `levels` are horizontal lines."""

    label: str
    axes: tuple[Axis, ...]
    panels: tuple[CurvePanel, ...]
    levels: Marks = ()


@dataclass(frozen=True)
class CurveChart:
    """`xs` are the x axes to switch between, by name; `options` the choices of the selector that `selector` names."""

    name: str
    title: str
    caption: str
    xs: tuple[tuple[str, Axis], ...]
    selector: str
    options: tuple[str, ...]
    views: tuple[CurveView, ...]
    markers: bool = False
    kind: str = "curves"


@dataclass(frozen=True)
class Colours:
    """What the colours of a heat map mean. `diverging` puts zero in the middle."""

    label: str
    scale: Literal["sequential", "diverging"]
    low: float
    high: float


@dataclass(frozen=True)
class Columns:
    """What the columns of a row are called on hover, and the vertical lines there, in columns from the left edge."""

    notes: tuple[str, ...]
    marks: Marks


@dataclass(frozen=True)
class HeatRow:
    """`tick` stands at the axis, `note` is shown on hover, `columns` is the number of the panel's Columns."""

    tick: str
    note: str
    columns: int
    values: Values


@dataclass(frozen=True)
class HeatFrame:
    """What one choice shows. `marks` are horizontal lines, in rows from the top."""

    label: str
    rows: tuple[HeatRow, ...]
    marks: Marks = ()


@dataclass(frozen=True)
class HeatPanel:
    """One model. `frames` are in the order of the chart's options; None where this model has none."""

    name: str
    ticks: Marks
    columns: tuple[Columns, ...]
    frames: tuple[HeatFrame | None, ...]


@dataclass(frozen=True)
class HeatView:
    """One quantity: its colours for each option, shared by the panels."""

    label: str
    colours: tuple[Colours, ...]
    panels: tuple[HeatPanel, ...]


@dataclass(frozen=True)
class HeatChart:
    name: str
    title: str
    caption: str
    x_label: str
    selector: str
    options: tuple[str, ...]
    views: tuple[HeatView, ...]
    kind: str = "heat"


PanelChart = CurveChart | HeatChart
