"""The report as files: what is written, that it is whole, and that odd results neither break nor falsify it."""

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import report_samples as samples

from whorl import files
from whorl.reports import html
from whorl.reports.axes import log_ticks
from whorl.reports.chart import Curve, CurveChart, Grid
from whorl.reports.comparison import build, write
from whorl.reports.comparison.by_length import by_length
from whorl.reports.comparison.pairs import pairs_turning
from whorl.reports.comparison.training import training_curves
from whorl.reports.document import Table
from whorl.reports.formatting import compact, multiple, number, setting, with_spread
from whorl.reports.png import spread_out

PNG = b"\x89PNG\r\n\x1a\n"


def charts_in(page: str) -> list[dict]:
    def no_constant(name: str) -> None:
        raise AssertionError(f"not JSON: {name}")

    text = re.search(r'<script type="application/json" id="charts">(.*?)</script>', page, re.S)
    assert text is not None
    return json.loads(text[1], parse_constant=no_constant)


def lines_in(page: str) -> list[dict]:
    """The lines of the first view of a page's first chart."""
    return charts_in(page)[0]["views"][0]["panels"][0]["frames"][0]["curves"]


def drawn(chart: CurveChart, view: int = 0) -> tuple[Grid, tuple[Curve, ...]]:
    """What the only panel of a view shows."""
    (panel,) = chart.views[view].panels
    frame = panel.frames[0]
    assert frame is not None
    return panel.grids[frame.grid], frame.curves


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "new" / "folder"
    written = write(samples.read(samples.with_losses(samples.language((0, 1, 2)))), out)
    assert sorted(written) == sorted(path for path in out.rglob("*") if path.is_file())
    return out


def test_it_writes_markdown_html_and_each_figure_at_two_resolutions(report: Path) -> None:
    names = {path.name for path in (report / "figures").iterdir()}
    stems = ("perplexity", "pairs", "training")
    assert names == {f"{stem}{suffix}.png" for stem in stems for suffix in ("", "@2x")}
    for stem in stems:
        small, large = ((report / "figures" / f"{stem}{suffix}.png").read_bytes() for suffix in ("", "@2x"))
        assert small.startswith(PNG)
        widths = [int.from_bytes(image[16:20]) for image in (small, large)]
        assert 600 < widths[0] < 1300
        assert widths[1] == pytest.approx(2 * widths[0], rel=0.01)


def test_markdown_shows_mean_spread_ratio_and_links_only_figures_that_exist(report: Path) -> None:
    text = (report / "report.md").read_text(encoding="utf-8")
    assert "| hope | 11 of 32 | 17.8 ± 0.5 | 19.3 ± 0.6 (1.08x) | 23.2 ± 0.7 (1.30x) |" in text
    links = re.findall(r"\((figures/[^)]*)\)", text)
    assert len(links) == 6
    assert all((report / link).is_file() for link in links)


def test_html_needs_nothing_from_outside(report: Path) -> None:
    page = (report / "report.html").read_text(encoding="utf-8")
    allowed = "http://www.w3.org/2000/svg"
    assert not re.findall(r"(?:https?:)?//[\w.]+\.\w+", page.replace(allowed, ""))
    assert not re.search(r"""(?:src|href)=["'](?!data:,)|@import|url\(|fetch\(""", page)
    assert "default-src 'none'" in page


def test_html_carries_the_points_and_what_hovering_tells(report: Path) -> None:
    charts = charts_in((report / "report.html").read_text(encoding="utf-8"))
    assert [chart["name"] for chart in charts] == ["perplexity", "pairs", "training"]
    tail, mean = charts[0]["views"]
    assert (tail["label"], mean["label"]) == ("tail perplexity", "mean perplexity")
    (panel,) = tail["panels"]
    hope = next(line for line in panel["frames"][0]["curves"] if line["name"] == "hope")
    assert (panel["grids"][0]["x"][2], len(hope["thin"])) == (512, 3)
    assert hope["y"][2] == pytest.approx(22.5 * 1.03)
    assert hope["high"][2] - hope["y"][2] == pytest.approx(22.5 * 0.03, rel=1e-3)
    assert panel["grids"][0]["notes"][2] == "512 tokens, 4x"
    assert ["ratio to in-range", "1.30x"] in hope["rows"][2]
    assert [name for name, _ in hope["rows"][2]][:3] == ["tail perplexity", "ratio to in-range", "standard error"]


def test_text_from_the_results_is_escaped_everywhere(tmp_path: Path) -> None:
    evil = "</script><img src=x onerror=alert(1)> & | *b*"
    trial = {**samples.trial("rope", 0, {"perplexity": samples.perplexity_rows((17.0,) * 5)}), "notation": evil}
    trial["evaluations"]["perplexity"][4] = {"length": 2048, "unreachable": evil}
    data = samples.results([trial], text=evil)
    data["machine"]["cpu"] = evil
    write(samples.read(data), tmp_path)
    page, text = ((tmp_path / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
    seen: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: seen.append(tag)  # type: ignore[method-assign]
    parser.feed(page)
    assert seen.count("script") == 2
    assert "img" not in seen
    assert lines_in(page)[0]["name"] == evil
    assert "<img" not in text
    assert r"\| \*b\*" in text


@pytest.mark.parametrize("bad", [math.nan, math.inf, None])
def test_values_that_are_not_numbers_show_as_such_and_leave_valid_json(tmp_path: Path, bad: float | None) -> None:
    rows = samples.perplexity_rows((17.0,) * 5)
    for row in rows[1:]:
        row.update(tail=bad, mean=bad, stderr=bad)
    trial = samples.trial("alibi", 0, {"perplexity": rows})
    trial["train"].update(loss=bad, tokens_per_second=bad)
    lost = samples.trial("kerple", 0, {"perplexity": [{**row, "tail": bad, "mean": bad} for row in rows]})
    data = samples.with_losses(samples.results([trial, lost]))
    trial["train"]["losses"]["30"] = bad
    write(samples.read(data), tmp_path)
    shown = "diverged | diverged | diverged | diverged"  # null, too: it is what results.json has for NaN
    assert f"| alibi | – | 17.0 | {shown} |" in (tmp_path / "report.md").read_text("utf-8")
    lines = lines_in((tmp_path / "report.html").read_text("utf-8"))
    assert lines[0]["y"] == [17.0, None, None, None, None]
    assert lines[0]["note"] == "to 128"
    assert lines[1]["note"] == "diverged"


def test_a_seed_that_diverged_is_counted_and_left_out_of_the_mean() -> None:
    rows = [samples.perplexity_rows((17.0,) * 5) for _ in range(3)]
    rows[1][2]["tail"] = math.nan
    data = samples.results([samples.trial("rope", s, {"perplexity": r}) for s, r in enumerate(rows)])
    table = next(block for block in build(samples.read(data)).blocks if hasattr(block, "rows"))
    assert table.rows[0].cells[4] == ("17.0 ± 0.0", "1.00x, 1 of 3 diverged")


def test_a_learning_rate_at_which_a_seed_diverged_says_so() -> None:
    rows = [samples.perplexity_rows((17.0,) * 5) for _ in range(4)]
    rows[3][-1]["tail"] = math.nan
    data = samples.results([samples.trial("rope", i % 2, {"perplexity": r}) for i, r in enumerate(rows)])
    read = samples.read(data)
    low, high = (tuple(replace(t, learning_rate=rate, validation=rate) for t in read.trials) for rate in (1e-3, 1e-2))
    swept = replace(read, trials=low[:2], at_other_rates=high[2:])
    table = next(b for b in build(swept).blocks if isinstance(b, Table) and b.caption.startswith("All learning rates"))
    assert [row.cells[1] for row in table.rows] == [("0.001", "shown"), ("0.01", "")]
    assert [row.cells[-1] for row in table.rows] == [("17.0 ± 0.0", ""), ("17.0", "1 of 2 diverged")]


def test_a_comparison_without_any_trial_still_has_a_report(tmp_path: Path) -> None:
    written = write(samples.read(samples.results([], trials_planned=3)), tmp_path)
    assert {path.name for path in written} == {"report.md", "report.html"}
    assert "None of the 3 trials has finished yet." in (tmp_path / "report.md").read_text("utf-8")


def test_copy_draws_both_accuracies_and_a_report_can_hold_several_evaluations(tmp_path: Path) -> None:
    trial = samples.trial("rope", 0, {"perplexity": samples.perplexity_rows((17.0,) * 5)})
    trial["evaluations"]["recall"] = samples.accuracy_rows({128: 0.99, 256: 0.5})
    write(samples.read(samples.results([trial])), tmp_path)
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "## Perplexity: findings" in text
    assert "## Recall accuracy: findings" in text
    assert (tmp_path / "figures" / "recall.png").is_file()


def test_files_are_replaced_in_one_step_and_a_failure_leaves_the_old_one(tmp_path: Path, monkeypatch) -> None:
    target = tmp_path / "report.md"
    files.write_atomically(target, "old")

    def fail(*_: object) -> None:
        assert target.read_text() == "old"
        raise OSError("no space")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        files.write_atomically(target, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]
    assert target.read_text() == "old"


def test_pairs_that_turn_are_marked_where_a_turn_takes_the_training_length() -> None:
    chart = pairs_turning(samples.read(samples.language()))
    assert chart is not None
    rope, hope, p_rope, nope = chart.strips
    states = [[pair.state for pair in strip.layers[0]] for strip in (rope, hope, p_rope, nope)]
    assert states[0] == ["within"] * 11 + ["beyond"] * 21
    assert states[1] == ["within"] * 11 + ["still"] * 21
    assert states[2] == ["within"] * 11 + ["beyond"] * 5 + ["still"] * 16
    assert states[3] == ["still"] * 32
    # 2 pi 10000^(i/32) = 128 at i = 10.47; half a cell further from the left edge of the strip
    place = 32 * math.log(128 / (2 * math.pi)) / math.log(10_000) + 0.5
    assert [strip.mark for strip in (rope, hope, p_rope)] == pytest.approx([place] * 3)
    assert nope.mark is None


def test_pairs_keep_their_place_and_layers_their_own() -> None:
    slowest = samples.trial("p-rope", 0, {})
    slowest.update(pairs_turning=16, pairs=32, wavelengths=[None] * 16 + samples.wavelengths(32)[16:])
    mixed = samples.trial("layers", 0, {})
    mixed.update(pairs_turning=[32, 0], pairs=32, wavelengths=None)
    chart = pairs_turning(samples.read(samples.results([slowest, mixed])))
    assert chart is not None
    assert [pair.state for pair in chart.strips[0].layers[0]] == ["still"] * 16 + ["beyond"] * 16
    assert [{pair.state for pair in layer} for layer in chart.strips[1].layers] == [{"turning"}, {"still"}]


def test_training_curves_are_smoothed_over_steps_and_keep_their_level() -> None:
    data = samples.language((0, 1))
    losses = {str(i): 3.0 + (-1) ** i for i in range(1, 1001)}
    given = {"rope-0": losses, "rope-1": losses, "hope-0": {"1": 3.0}}
    for trial in data["trials"]:
        trial["train"]["losses"] = given.get(trial["id"], {})
    chart = training_curves(samples.read(data))
    assert chart is not None
    assert chart.xs[0][1].label == "training steps"
    assert chart.xs[0][1].ticks[-1] == (1000.0, "1,000")
    grid, (line,) = drawn(chart)
    assert (line.name, len(line.thin)) == ("rope", 2)
    middle = [y for x, y in zip(grid.x, line.y, strict=True) if y is not None and 200 < x < 800]
    assert middle == pytest.approx([3.0] * len(middle), abs=0.05)


def test_every_length_has_a_tick_and_every_value_lies_within_the_axis() -> None:
    chart = by_length(samples.read(samples.language((0, 1))), "perplexity", "", "")
    assert chart is not None
    assert [label for _, label in chart.xs[0][1].ticks] == ["128\n1x", "256\n2x", "512\n4x", "1,024\n8x", "2,048\n16x"]
    for i, view in enumerate(chart.views):
        values = [y for line in drawn(chart, i)[1] for y in line.y if y is not None]
        assert view.axes[0].low < min(values) < max(values) < view.axes[0].high
        assert len(view.axes[0].ticks) >= 3


@pytest.mark.parametrize(("low", "high"), [(17, 90), (17.0, 17.6), (2, 3e5), (1, 1e12)])
def test_log_ticks_are_few_and_inside(low: float, high: float) -> None:
    ticks = log_ticks(low, high)
    assert 3 <= len(ticks) <= 8
    assert low <= ticks[0] < ticks[-1] <= high


def test_names_at_line_ends_do_not_overlap_and_stay_in_order() -> None:
    placed = spread_out([0.5, 0.51, 0.9, 0.49], gap=0.1)
    assert placed == pytest.approx([0.5, 0.6, 0.9, 0.4])


def test_numbers_read_as_people_write_them() -> None:
    assert [number(v) for v in (4.253, 17.94, 1234.5, 2.5e7, None, math.nan)] == [
        "4.25", "17.9", "1,234", "2.5e+07", "–", "diverged",
    ]  # fmt: skip
    assert with_spread(17.94, 0.02) == "17.94 ± 0.02"
    assert with_spread(0.953, 0.01, as_percent=True) == "95.3 ± 1.0 %"
    assert [compact(v) for v in (838_912, 4_096_000, 20_000, 500)] == ["0.84 M", "4.1 M", "20 k", "500"]
    assert [multiple(n, 128) for n in (128, 2048, 64, 200)] == ["1x", "16x", "0.5x", "1.56x"]


def test_settings_are_no_python(report: Path) -> None:
    assert [setting(v) for v in (None, [128, 512], (), "cpu", 0)] == ["–", "128, 512", "–", "cpu", "0"]
    settings = (report / "report.md").read_text("utf-8").partition("## Settings")[2]
    assert "| train_length |" in settings
    assert not re.search(r"\bNone\b|\\\[", settings)


def test_embedded_json_has_no_bare_nan() -> None:
    assert html.embedded_json({"a": [math.nan, math.inf, 1.5], "b": "</x>"}) == (
        '{"a":[null,null,1.5],"b":"\\u003c/x\\u003e"}'
    )
