"""What the colours of heat maps mean: a few cells that are far larger do not wash out the others, and are marked."""

from pathlib import Path

import inspection_samples as samples
import numpy as np
import pytest
from test_inspection_report import probed
from test_report_browser import CHROMIUM, open_page, with_script

from whorl.reports import png
from whorl.reports.axes import colours
from whorl.reports.chart import HeatChart
from whorl.reports.inspection import all_charts, write

TWO = [[0, 3], [2, 30]]
"""(layer, pair) of the outliers."""


def washed_out() -> tuple[dict, dict[str, np.ndarray]]:
    """The norms of keys are at most 2 in 4 layers of 32 pairs, but for two pairs: Gemma's look like that."""
    summary, arrays = samples.rope()
    arrays["norm_k"] = np.random.default_rng(0).uniform(1, 2, (4, 2, 32)).astype(np.float32)
    for layer, pair in TWO:
        arrays["norm_k"][layer, :, pair] = 77.3
    return summary, arrays


def usage() -> HeatChart:
    chart = all_charts([samples.read(*washed_out())])["usage"]
    assert isinstance(chart, HeatChart)
    return chart


def test_two_outliers_do_not_wash_out_the_others() -> None:
    keys = usage().views[1]
    told = keys.colours[0]
    assert 1.5 < told.high <= 2.0
    assert told.beyond == "2 cells beyond, up to 77.3"
    frame = keys.panels[0].frames[0]
    assert frame is not None
    cells = np.array([row.values for row in frame.rows], dtype=float)
    assert np.argwhere(cells > told.high).tolist() == TWO, "the cells keep their values"
    assert [view.colours[0].beyond for view in usage().views if view.label != "keys"] == ["", ""]


@pytest.mark.parametrize(
    ("values", "scale", "high", "beyond"),
    [
        ([1.0] * 98 + [1.2], "sequential", 1.2, ""),
        ([1.0] * 98 + [1.2, 1.3], "sequential", 1.2, "1 cell beyond, up to 1.3"),
        ([1.0] * 97 + [2.0] * 3, "sequential", 2.0, ""),
        ([1.0] * 198 + [-3.0], "diverging", 1.0, "1 cell beyond, up to -3"),
        ([1.0] * 198 + [-3.0, 2.0], "diverging", 1.0, "2 cells beyond, from -3 to 2"),
        ([0.0] * 198 + [5.0], "sequential", 5.0, ""),
        ([np.nan, 1.0], "sequential", 1.0, ""),
        ([], "sequential", 1.0, ""),
    ],
)
def test_limits_hold_all_but_a_few(values: list[float], scale, high: float, beyond: str) -> None:
    told = colours("x", scale, [np.array(values)])
    assert (told.high, told.low, told.beyond) == (high, -high if scale == "diverging" else 0.0, beyond)


def test_a_limit_that_is_given_stands_and_rounding_is_not_beyond_it() -> None:
    assert colours("x", "sequential", [np.array([1.0, 1.0004])], high=1.0).beyond == ""
    assert colours("x", "sequential", [np.array([1.0, 1.2])], high=1.0).beyond == "1 cell beyond, up to 1.2"


def test_the_picture_marks_them_and_says_so() -> None:
    figure = png.draw(usage())
    found = [axes for axes in figure.axes if axes.lines and any(line.get_marker() == "." for line in axes.lines)]
    assert [axes.get_title(loc="left") for axes in found] == ["keys"]
    (dots,) = (line for line in found[0].lines if line.get_marker() == ".")
    assert np.array([dots.get_ydata(), dots.get_xdata()]).T.tolist() == [[r + 0.5, c + 0.5] for r, c in TWO]
    assert [axes.get_ylabel().replace("\n", " ") for axes in figure.axes if "norm" in axes.get_ylabel()] == [
        "mean 2-norm", "mean 2-norm dots: 2 cells beyond, up to 77.3", "mean 2-norm",
    ]  # fmt: skip


PROBE = """
const seen = {};
const usage = document.querySelector('[data-chart="usage"]'), plot = usage.querySelector(".plot");
const dots = () => (usage.querySelector(".drawn .beyond-it")?.getAttribute("d").match(/M/g) ?? []).length;
seen.queries = [dots(), usage.querySelector(".ramp").textContent];
usage.querySelectorAll(".switch button")[1].click();
seen.keys = [dots(), usage.querySelector(".ramp").textContent, usage.querySelectorAll(".ramp .beyond-it").length];
for (let i = 0; i < 4; i++) plot.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
seen.outlier = plot.querySelector(".tip").innerText;
plot.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
seen.other = plot.querySelector(".tip").innerText;
seen.levels = usage.querySelectorAll(".drawn .cells").length;
document.body.append(Object.assign(document.createElement("pre"), { id: "probe", textContent: JSON.stringify(seen) }));
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH to open the report in")
def test_the_page_marks_them_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whorl.reports.png.png", lambda chart: {})
    write([samples.read(*washed_out())], tmp_path)
    seen = probed((tmp_path / "report.html").read_text("utf-8"), tmp_path, PROBE)
    assert seen["queries"][0] == 0
    assert "beyond" not in seen["queries"][1]
    assert seen["keys"][0] == 2
    assert seen["keys"][1].endswith("2 cells beyond, up to 77.3")
    assert seen["keys"][2] == 1
    assert "77.3, beyond the colours" in seen["outlier"]
    assert "beyond" not in seen["other"]
    assert 33 < seen["levels"] <= 129, "the others have colours of their own"


SIDES = """
const usage = document.querySelector('[data-chart="usage"] .plot');
const box = (words) => [...usage.querySelectorAll("text")].find((t) => t.textContent === words).getBoundingClientRect();
const lines = [...usage.querySelectorAll("line.cut.second")].map((line) => line.getBoundingClientRect().x);
const name = box("HoPE's cut");
const through = lines.some((x) => x > name.left && x < name.right);
document.body.dataset.seen = [lines.length > 0, through, innerWidth].join(" ");
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH to open the report in")
def test_no_cut_runs_through_the_name_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whorl.reports.png.png", lambda chart: {})
    summary, arrays = samples.rope()
    for layer in summary["spectrum"]["layers"]:
        layer["hope_cut"] = 22  # p-RoPE 0.75 keeps 24
    write([samples.read(summary, arrays)], tmp_path)
    page = with_script((tmp_path / "report.html").read_text("utf-8"), SIDES)
    document, _ = open_page(page, tmp_path, "--window-size=500,5200")
    assert 'data-seen="true false 500"' in document
