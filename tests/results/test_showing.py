"""A result as a person meets it: text, HTML, a DataFrame."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas
import pytest

from whorl.results import showing
from whorl.results.showing import Shown


@dataclass(frozen=True, repr=False)
class Losses(Shown):
    values: tuple[tuple[str, float], ...]

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        return ("encoding", "loss"), [(name, f"{value:.2f}") for name, value in self.values]

    def records(self) -> list[dict[str, Any]]:
        return [{"encoding": name, "loss": value} for name, value in self.values]


def head(result: Losses) -> str:
    return f"<h3>{len(result.values)} losses</h3>"


LOSSES = Losses((("<rope>", 2.5), ("hope", 12.25)))


def test_its_repr_is_a_short_table() -> None:
    assert repr(LOSSES).splitlines() == ["encoding   loss", "<rope>     2.50", "hope      12.25"]


def test_a_notebook_shows_the_head_of_its_report_or_else_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    assert LOSSES._repr_html_().startswith("<pre>encoding   loss\n&lt;rope&gt;")
    monkeypatch.setitem(showing.HEADS, "Losses", f"{__name__}:head")
    assert LOSSES._repr_html_() == "<h3>2 losses</h3>"


def test_a_frame_has_a_row_for_each_record(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = LOSSES.to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert frame.to_dict("list") == {"encoding": ["<rope>", "hope"], "loss": [2.5, 12.25]}
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ValueError, match="pandas is not there: pip install pandas"):
        LOSSES.to_frame()
