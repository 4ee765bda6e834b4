"""Names are printed and drawn as they are, whatever brackets and dollars they hold."""

from __future__ import annotations

import io
import json
from pathlib import Path

from rich.table import Table

from whorl.comparison.display import Display
from whorl.console import console, said
from whorl.reports.axes import axis
from whorl.reports.chart import Curve, CurveChart, CurveFrame, CurvePanel, CurveView, Grid
from whorl.reports.png import png
from whorl.results.comparison import Comparison

REPO = Path(__file__).parents[1]
NAME = "a[/b][bold]:smile: $\\frac{$"


def test_markup_in_names_is_text() -> None:
    shown = io.StringIO()
    terminal = console(file=shown, width=200)
    table = Table("x", title=NAME)
    table.add_row(NAME)
    terminal.print(said(NAME, (NAME, "bold")), table)
    assert shown.getvalue().count(NAME) == 4


def test_a_comparison_of_a_model_with_a_strange_name() -> None:
    there = json.loads((REPO / "experiments/0001-language/results.json").read_text())
    there["config"]["model"] = there["machine"]["cpu"] = NAME
    there["trials"] = [{**trial, "notation": NAME, "id": NAME} for trial in there["trials"][:1]]
    results = Comparison.from_json(there)
    for terminal in (False, True):
        shown = io.StringIO()
        display = Display(console(file=shown, width=300, force_terminal=terminal, color_system=None))
        display.start(results.config, results.machine, [NAME], [NAME])
        with display.training(NAME, 2) as update:
            update(2, 1.0)
        display.trial_done(results.trials[0], again=True)
        display.finish(results, Path(NAME))
        assert shown.getvalue().count(NAME) >= 6


def test_dollars_in_a_figure_are_text() -> None:
    x = axis(NAME, "linear", [0.0, 1.0])
    panel = CurvePanel(NAME, (Grid((0.0, 1.0), (NAME, NAME)),), (CurveFrame(0, (Curve(NAME, 0, (0.0, 1.0)),)),))
    chart = CurveChart("a", NAME, NAME, ((NAME, x),), (CurveView(NAME, (x,), (panel,)),))
    assert png(chart)["a.png"].startswith(b"\x89PNG")
