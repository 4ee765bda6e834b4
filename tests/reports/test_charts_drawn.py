"""A chart is said once: its colours and marks stand in one place, both renderers know every field, and the page that
they make is small."""

import dataclasses
import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from whorl.reports import chart as spec
from whorl.reports import html, png, style
from whorl.reports.axes import axis, cell_ticks, colours, row_ticks
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
    shade,
)
from whorl.reports.document import Document

HERE = Path(spec.__file__).parent
PARTS = [value for value in vars(spec).values() if dataclasses.is_dataclass(value)]
FOR_THE_PAGE = {"caption", "selector", "ends", "rows", "notes"}
"""What a picture has no place for: `ends` are ticks there, and hover and menus are the page's."""
FOR_PICTURES = {"pictured", "overlaid"}


def fields(parts: list) -> set[str]:
    return {field.name for part in parts for field in dataclasses.fields(part)}


def test_both_renderers_read_every_field_of_a_chart() -> None:
    page = "".join((HERE / name).read_text("utf-8") for name in ("page.js", "charts.js", "html.py"))
    picture = (HERE / "png.py").read_text("utf-8")
    names = fields(PARTS)
    assert {"shade", "level_side", "spans", "marks", "pictured"} <= names
    assert {name for name in names if not re.search(rf"\b{name}\b", page)} <= FOR_PICTURES
    assert {name for name in names if not re.search(rf"\.{name}\b", picture)} <= FOR_THE_PAGE


def test_colours_stand_in_style_alone() -> None:
    files = [path for path in HERE.rglob("*") if path.suffix in (".py", ".js", ".css", ".html")]
    assert len(files) > 15
    found = {path.name for path in files if re.search(r"#[0-9a-fA-F]{6}\b", path.read_text("utf-8"))}
    assert found == {"style.py"}


def test_one_module_draws_with_matplotlib_another_takes_its_fonts_and_none_imports_pyplot() -> None:
    """pyplot has a state for the whole process, a notebook's backend and figures among it."""
    source = {path: path.read_text("utf-8") for path in HERE.parent.rglob("*.py")}
    found = {path.name for path, text in source.items() if re.search(r"^\s*(?:from|import) matplotlib", text, re.M)}
    assert found == {"png.py", "pictures.py"}
    assert not [path.name for path, text in source.items() if re.search(r"import .*pyplot", text)]


def test_themes_have_the_same_colours_and_every_one_that_is_asked_for() -> None:
    assert style.LIGHT.keys() == style.DARK.keys() == style.PRINT.keys()
    assert {stop for stops in style.RAMPS.values() for stop in stops} | set(style.SERIES) <= style.LIGHT.keys()
    asked = {name for path in HERE.glob("*.css") for name in re.findall(r"var\(--([\w-]+)\)", path.read_text("utf-8"))}
    assert asked - {"series"} <= style.LIGHT.keys() | style.OPACITY.keys() | {f"{name}-dashes" for name in style.DASHES}


def test_a_page_without_charts_is_small() -> None:
    assert len(html.render(Document("t", "", [], [], "")).encode()) < 60_000


def test_series_take_turns_and_many_ordered_lines_share_a_ramp() -> None:
    count = len(style.SERIES)
    assert style.series(0) == style.series(count) != style.series(1)
    assert [shade(i, count) for i in range(count)] == [None] * count
    assert [shade(i, count + 1) for i in (0, count)] == [0.0, 1.0]


def test_colours_of_cells_hold_all_values_and_name_their_ends() -> None:
    tables = [np.array([[0.5, np.nan]]), None, np.array([[-1.2345]])]
    assert (colours("x", "diverging", tables).low, colours("x", "diverging", tables).high) == (-1.23, 1.23)
    assert colours("x", "diverging", tables).ends == ("-1.23", "1.23")
    assert colours("x", "sequential", (), high=1.0).ends == ("0", "1")


def test_numbers_beside_rows_are_thinned_to_what_fits() -> None:
    assert [label for _, label in row_ticks(4)] == ["0", "1", "2", "3"]
    assert len(row_ticks(128)) <= 18
    assert cell_ticks(64)[:2] == ((0.5, "0"), (8.5, "8"))


# What the pictures hold


def curves(*lines: Curve, **view: object) -> CurveChart:
    grid = Grid((1.0, 2.0, 4.0), ("one", "two", "four"))
    panel = CurvePanel("", (grid,), (CurveFrame(0, lines),), ((2.0, "training length"),), ((3.0, 4.0, "still"),))
    shown = CurveView("loss", (axis("nats", "linear", [0.0, 3.0]),), (panel,), ((1.0, "noise"),), **view)  # type: ignore[arg-type]
    x = Axis("tokens", "log", 0.9, 4.4, ((1.0, "1"), (4.0, "4")))
    return CurveChart("c", "Title", "", (("log", x),), (shown,))


def words_of(chart: spec.Chart) -> set[str]:
    from matplotlib.text import Text

    figure = png.draw(chart)
    figure.canvas.draw()
    return {text.get_text() for text in figure.findobj(Text)}


def test_a_picture_of_curves_has_ticks_marks_levels_spans_and_names() -> None:
    chart = curves(
        Curve("rope", 0, (1.0, None, 3.0)), Curve("hope", 1, (1.0, 2.0, 2.5), (0.5, 1.5, 2.0), (1.5, 2.5, 3.0))
    )
    assert {"1", "4", "tokens", "nats", "training length", "noise", "still", "rope", "hope", "Title"} <= words_of(chart)
    (axes,) = png.draw(chart).axes
    lines = {tuple(line.get_xdata()): line for line in axes.lines}
    assert lines[1.0, 2.0, 4.0].get_color() == style.series(1)
    assert np.isnan(axes.lines[2].get_ydata()).tolist() == [False, True, False]


def test_overlaid_views_are_solid_and_dashed_under_one_legend() -> None:
    one = curves(Curve("rope", 0, (1.0, 2.0, 3.0)))
    second = dataclasses.replace(one.views[0], label="exact match")
    chart = dataclasses.replace(one, views=(*one.views, second), pictured=2, overlaid=True, named=True)
    (axes,) = png.draw(chart).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["loss", "exact match"]
    assert [line.get_linestyle() for line in axes.lines[-2:]] == ["-", "--"]
    assert len(png.draw(dataclasses.replace(chart, overlaid=False)).axes) == 2
    assert len(png.draw(dataclasses.replace(chart, overlaid=False, pictured=1)).axes) == 1


@pytest.mark.parametrize("told", [True, False])
def test_a_picture_of_cells_says_what_was_not_measured(told: bool) -> None:
    frame = HeatFrame("layer", row_ticks(1), (HeatRow("layer 0", 0, (0.5, None)),), ((0.5, "cut"),)) if told else None
    panel = HeatPanel("", cell_ticks(2), (Columns(("a", "b"), ((1.0, "HoPE's cut"),)),), (frame,))
    view = HeatView("queries", (colours("norm", "sequential", (), high=2.0),), (panel,))
    found = words_of(HeatChart("h", "Title", "", "pair", "layer", ("",), (view,)))
    expected = {"HoPE's cut", "cut", "layer", "pair"} if told else {"not measured"}
    assert expected <= found
    assert {"norm", "0", "2"} <= found


def test_every_kind_of_chart_is_drawn_by_the_page() -> None:
    page = (HERE / "charts.js").read_text("utf-8")
    kinds = {kind.kind for kind in get_args(spec.Chart)}
    assert kinds == {"curves", "heat", "strips"}
    assert all(f"{kind}: " in page for kind in kinds)
