"""What a chart shows, said once: png.py draws it as PNG and charts.js in the page, and neither decides anything else
than where things fit. Colours and shapes of marks are in style.py.

There are three kinds: curves, heat maps, and strips of channel pairs. The first two have a panel for each model, views
(quantities) to switch between and a frame for each choice of a menu. They are kept as numbers, not as points with their
words: a checkpoint of 32 layers with 32 heads has a million values to show.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from whorl.reports.style import SERIES

Values = tuple[float | None, ...]
Marks = tuple[tuple[float, str], ...]
"""Lines across a chart, or ticks at its side: (where, label)."""
Rows = tuple[tuple[str, str], ...]
"""What is shown on hover: (name, value)."""


@dataclass(frozen=True)
class Axis:
    """Limits and (value, label) ticks; a label may have a second line after a newline."""

    label: str
    scale: Literal["log", "linear"]
    low: float
    high: float
    ticks: Marks


# Curves


@dataclass(frozen=True)
class Curve:
    """One line over a grid's places; None for a gap.

    Its colour and mark are those of series `index`, or of the place `shade` (0 to 1) along the ramp for many lines.
    `low` and `high` are its band, `thin` single runs over the same places, `rows` what is shown on hover of each place
    (without them the view's label and the value). `note` stands beside the name; a `faint` line is drawn thinner.
    """

    name: str
    index: int
    y: Values
    low: Values = ()
    high: Values = ()
    thin: tuple[Values, ...] = ()
    rows: tuple[Rows, ...] = ()
    note: str = ""
    shade: float | None = None
    faint: bool = False


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
    """One model. `frames` are in the order of the chart's options; None where this model has none. `marks` are vertical
    lines, `spans` vertical bands (from, to, label)."""

    name: str
    grids: tuple[Grid, ...]
    frames: tuple[CurveFrame | None, ...]
    marks: Marks = ()
    spans: tuple[tuple[float, float, str], ...] = ()


@dataclass(frozen=True)
class CurveView:
    """One quantity: its y axis for each option, shared by the panels. `levels` are horizontal lines, named at the side
    where there is most room; `x` is the view's own x axis, where views do not share one; `markers`: single values are
    marked."""

    label: str
    axes: tuple[Axis, ...]
    panels: tuple[CurvePanel, ...]
    levels: Marks = ()
    level_side: Literal["left", "right"] = "right"
    x: Axis | None = None
    markers: bool = False


@dataclass(frozen=True)
class CurveChart:
    """`xs` are the x axes to switch between, by name; `options` the choices of the menu that `selector` names.

    named: whether names stand at the ends of their lines.
    pictured: so many of the first views the PNG shows, one below the other; where they are overlaid, in the same axes,
        the second one dashed.
    """

    kind: ClassVar[str] = "curves"
    name: str
    title: str
    caption: str
    xs: tuple[tuple[str, Axis], ...]
    views: tuple[CurveView, ...]
    selector: str = ""
    options: tuple[str, ...] = ("",)
    named: bool = False
    pictured: int = 3
    overlaid: bool = False


def shade(index: int, count: int) -> float | None:
    """The place on the ramp of one of `count` lines that have an order; None while there is a colour for each."""
    return index / (count - 1) if count > len(SERIES) else None


# Heat maps


@dataclass(frozen=True)
class Colours:
    """What the colours of a heat map mean. `ends` name the two limits; `diverging` puts zero in their middle.

    beyond: words for the cells past the limits, which have the colour of the limit and a dot; empty without any.
    """

    label: str
    scale: Literal["sequential", "diverging"]
    low: float
    high: float
    ends: tuple[str, str]
    beyond: str = ""


@dataclass(frozen=True)
class Columns:
    """What the columns of a row are called on hover, and the vertical lines there, in columns from the left edge."""

    notes: tuple[str, ...]
    marks: Marks = ()


@dataclass(frozen=True)
class HeatRow:
    """`note` is shown on hover, `columns` is the number of the panel's Columns."""

    note: str
    columns: int
    values: Values


@dataclass(frozen=True)
class HeatFrame:
    """What one choice shows. `ticks` name rows and `marks` are horizontal lines, both in rows from the top."""

    label: str
    ticks: Marks
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
    kind: ClassVar[str] = "heat"
    name: str
    title: str
    caption: str
    x_label: str
    selector: str
    options: tuple[str, ...]
    views: tuple[HeatView, ...]


# Strips


@dataclass(frozen=True)
class Pair:
    """One channel pair: `within` turns fully in the training length, `beyond` turns more slowly, `turning` at a speed
    that the results do not tell, `still` not at all."""

    state: Literal["within", "beyond", "turning", "still"]
    rows: Rows


@dataclass(frozen=True)
class Strip:
    """The pairs of one encoding or model, per layer where layers differ. `mark`, in pairs from the left edge, is a line
    that the chart's legend explains."""

    name: str
    index: int
    turning: str
    layers: tuple[tuple[Pair, ...], ...]
    mark: float | None


@dataclass(frozen=True)
class StripChart:
    """`legend` maps the states that occur, and `mark`, to words; `ticks` are in pairs from the left edge."""

    kind: ClassVar[str] = "strips"
    name: str
    title: str
    caption: str
    x_label: str
    ticks: Marks
    legend: dict[str, str]
    strips: tuple[Strip, ...]


Chart = CurveChart | HeatChart | StripChart
