"""The report of an inspection: its files, what it does where results are missing, and its page in headless Chromium."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import inspection_samples as samples
import numpy as np
import pytest
from test_comparison_report import PNG, charts_in
from test_report_browser import CHROMIUM, open_page, with_script

from whorl.reports.document import Details, Document
from whorl.reports.inspection import build, differences, write

FIGURES = [
    *("ablation", "attention", "departure", "departure-pairs", "divergence", "heads", "logits", "pairs-by-distance"),
    *("positions", "spectrum", "training", "training-pairs", "u-shape-pairs", "usage"),
]
BINNED = ("distance", "coarse", "position")
NEVER_NULL = {"absent", "created", "versions", "whorl"}


def built(*results: tuple[dict[str, Any], dict[str, np.ndarray]]) -> Document:
    return build([samples.read(*result) for result in results])


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("inspection") / "new"
    written = write([samples.read(*samples.with_training())], out)
    assert sorted(written) == sorted(path for path in out.rglob("*") if path.is_file())
    return out


@pytest.fixture(scope="module")
def side_by_side(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("inspection-two")
    write([samples.read(*model) for model in samples.two_models()], out)
    return out


def test_every_figure_is_written_and_every_link_leads_to_one(report: Path) -> None:
    assert {path.name for path in (report / "figures").iterdir()} == {
        f"{name}{suffix}.png" for name in FIGURES for suffix in ("", "@2x")
    }
    assert all(path.read_bytes().startswith(PNG) for path in (report / "figures").iterdir())
    text = (report / "report.md").read_text("utf-8")
    links = re.findall(r"\((figures/[^)]*)\)", text)
    assert all((report / link).is_file() for link in links)
    assert "## Findings\n\nHoPE's account holds for this model" in text
    assert "([Which pairs make the U-shape](figures/u-shape-pairs.png))" in text
    page = (report / "report.html").read_text("utf-8")
    targets = re.findall(r'href="#(figure-[\w-]+)"', page)
    assert len(targets) > 10
    assert all(f'id="{target}"' in page for target in targets)


def test_windows_of_layers_are_said_in_words(report: Path) -> None:
    assert "| windows | none |" in (report / "report.md").read_text("utf-8")
    summary, arrays = samples.with_training()
    summary["model"] |= {"layers": 4, "windows": [512, None, 4096, 512]}
    (details,) = (block for block in built((summary, arrays)).blocks if isinstance(block, Details))
    assert details.groups["Model"]["windows"] == "512 tokens in 2 of 4 layers and 4,096 tokens in 1 of 4 layers"


def test_two_models_stand_side_by_side_and_each_has_its_findings(side_by_side: Path) -> None:
    text = (side_by_side / "report.md").read_text("utf-8")
    assert "# How runs/rope and runs/hope use positions" in text
    assert "- **runs/rope** HoPE's account holds for this model" in text
    assert "- **runs/hope** Whether HoPE's account holds for this model is not resolved" in text
    assert "## Differences" in text
    charts = {chart["name"]: chart for chart in charts_in((side_by_side / "report.html").read_text("utf-8"))}
    assert [panel["name"] for panel in charts["logits"]["views"][0]["panels"]] == ["runs/rope", "runs/hope"]
    assert charts["usage"]["views"][0]["panels"][1]["frames"][4] is None, "runs/hope has no layer 3"


def test_models_of_one_name_are_told_apart() -> None:
    document = built(samples.rope(), samples.rope())
    assert document.title == "How runs/rope and runs/rope (2) use positions"
    apart = [built(samples.rope(a), samples.rope(b)).title for a, b in (("/x/one", "/y/two"), ("/x/one", "/y/one"))]
    assert apart == ["How one and two use positions", "How /x/one and /y/one use positions"]


def test_what_is_absent_says_why(tmp_path: Path) -> None:
    write([samples.read(*samples.without_rotary())], tmp_path)
    text = (tmp_path / "report.md").read_text("utf-8")
    for heading in ("Frequency usage", "Out of range", "Spectrum"):
        section = text.split(f"## {heading}\n")[1].split("\n## ")[0]
        assert "Alibi has no rotary pairs." in section
        assert "figures/" not in section
    assert "Not asked for (--ablate)." in text
    assert "Whether there is a U-shape on the text is not resolved: the far end rises by 0.01 ± 0.02" in text
    names = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert names.isdisjoint({"usage", "spectrum", "departure", "ablation", "pairs-by-distance"})
    assert {"logits", "attention", "heads"} <= names


def test_an_empty_result_still_has_a_report(tmp_path: Path) -> None:
    assert {path.name for path in write([samples.read(samples.only())], tmp_path)} == {"report.md", "report.html"}
    assert "nothing was measured" in (tmp_path / "report.md").read_text("utf-8")


@pytest.mark.parametrize("name", sorted(set(samples.rope()[1]) - {f"{a}_{b}" for a in BINNED for b in ("from", "to")}))
def test_any_array_may_be_missing_or_hold_nothing(name: str) -> None:
    for replacement in (None, np.float32(np.nan)):
        summary, arrays = samples.rope()
        gone = arrays.pop(name)
        if replacement is not None:
            arrays[name] = np.full_like(gone, replacement)
        json.dumps([len(block.__class__.__name__) for block in built((summary, arrays), samples.rope()).blocks])


def every_path(value: Any, path: tuple = ()) -> list[tuple]:
    found = [path] if path else []
    if isinstance(value, dict):
        found += [p for key, item in value.items() for p in every_path(item, (*path, key))]
    elif isinstance(value, list) and value:
        found += every_path(value[0], (*path, 0))
    return found


@pytest.mark.parametrize("section", sorted(samples.with_training()[0]))
def test_whatever_is_null_is_named_or_the_report_does_without_it(section: str) -> None:
    summary, arrays = samples.with_training()
    summary["divergence"]["models"] = [0.1] * 4
    other = samples.read(summary)
    shown = 0
    for path in every_path(summary[section], (section,)):
        broken = copy.deepcopy(summary)
        inner = broken
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = None
        try:
            found = samples.read(broken, arrays if section in ("model", "settings") else {})
        except ValueError as error:
            assert ".".join(map(str, path)).replace(".0", "[0]") in str(error)  # noqa: PT017
            continue
        build([found])
        differences([found, other])
        shown += 1
    assert bool(shown) != (section in NEVER_NULL)


@pytest.mark.full
def test_half_of_every_array_missing_leaves_figures_and_valid_json(tmp_path: Path) -> None:
    summary, arrays = samples.rope()
    rng = np.random.default_rng(0)
    for name, values in arrays.items():
        if values.ndim > 1:
            arrays[name] = np.where(rng.random(values.shape) < 0.5, values, np.nan)
    arrays["logit"][1] = np.nan
    arrays["norm_q"][2, 0] = np.nan
    write([samples.read(summary, arrays)], tmp_path)
    charts_in((tmp_path / "report.html").read_text("utf-8"))


def test_text_from_the_results_is_escaped(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("whorl.reports.png.png", lambda chart: {})
    evil = "</script><img src=x onerror=alert(1)> & |"
    summary, arrays = samples.rope(evil)
    summary["absent"]["x"] = evil
    write([samples.read(summary, arrays)], tmp_path)
    for name in ("report.html", "report.md"):
        assert "<img" not in (tmp_path / name).read_text("utf-8")


# The page


@pytest.mark.full
def test_the_page_of_a_large_model_stays_below_eight_megabytes(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("whorl.reports.png.png", lambda chart: {})
    for models in (1, 2):
        results = [samples.read(*samples.rope(f"m{i}", layers=32, heads=32, pairs=64, seed=i)) for i in range(models)]
        write(results, tmp_path / str(models))
        size = (tmp_path / str(models) / "report.html").stat().st_size
        assert 1e6 < size < 8e6, f"{models}: {size:,}"


# Uses the page as a person would and leaves what it saw in an element.
PROBE = """
const seen = {};
const at = (name) => document.querySelector(`[data-chart="${name}"]`);
const lines = (figure) => [...figure.querySelectorAll("[data-line]")].map((group) => group.dataset.line);
const choose = (list, i) => { list.selectedIndex = i; list.dispatchEvent(new Event("change")); };
const press = (plot, key) => plot.dispatchEvent(new KeyboardEvent("keydown", { key }));
const drawing = (figure) => figure.querySelector("svg.drawn").innerHTML;
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
seen.charts = all("figure").map((f) => [f.dataset.chart, all("svg.drawn", f).length]);
seen.empty = all("svg.drawn").filter((svg) => !svg.querySelector(".line, .cells, .pair")).length;

const logits = at("logits"), plot = logits.querySelector(".plot"), tip = plot.querySelector(".tip");
seen.layers = lines(logits);
let before = drawing(logits);
logits.querySelectorAll(".switch")[0].children[1].click();
seen.random = [drawing(logits) !== before, logits.querySelector("svg.drawn").getAttribute("aria-label")];
before = drawing(logits);
logits.querySelectorAll(".switch")[1].children[1].click();
seen.linear = drawing(logits) !== before;
choose(logits.querySelector("select"), 1);
seen.heads = lines(logits);
press(plot, "ArrowRight");
seen.hover = [tip.hidden, tip.innerText];
press(plot, "ArrowRight");
seen.next = tip.querySelector("p").textContent;
plot.dispatchEvent(new PointerEvent("pointerleave"));
seen.left = tip.hidden;
logits.querySelector(".legend button").click();
seen.hidden = lines(logits);

const usage = at("usage"), cells = usage.querySelector(".plot"), shown = cells.querySelector(".tip");
seen.cuts = [...usage.querySelectorAll(".plot")].map((p) => [...p.querySelectorAll("text")].map((t) => t.textContent)
  .filter((t) => t.includes("HoPE") || t.includes("p-RoPE")));
before = drawing(usage);
usage.querySelectorAll(".switch button")[2].click();
seen.values = drawing(usage) !== before;
before = drawing(usage);
choose(usage.querySelector("select"), 2);
seen.by_head = drawing(usage) !== before;
for (let i = 0; i < 4; i++) press(cells, "ArrowRight"); // the first one only enters, at the first cell
press(cells, "ArrowDown");
seen.cell = shown.innerText;
const box = cells.getBoundingClientRect();
cells.dispatchEvent(new PointerEvent("pointermove", { clientX: box.left + 60, clientY: box.top + 60 }));
seen.pointed = [shown.hidden, shown.innerText];
const multiples = at("departure-pairs").querySelector("select");
before = drawing(at("departure-pairs"));
choose(multiples, 1);
seen.multiple = [multiples.options[1].textContent, drawing(at("departure-pairs")) !== before];
seen.labels = [...document.querySelectorAll("select")].filter((list) => !list.labels.length).length;
seen.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
document.body.append(Object.assign(document.createElement("pre"), { id: "probe", textContent: JSON.stringify(seen) }));
"""


# More lines than there are colours.
MANY = """
const seen = {};
const figure = document.querySelector('[data-chart="logits"]'), plot = figure.querySelector(".plot");
const lists = [...figure.querySelectorAll("select")];
seen.keys = [figure.querySelectorAll(".legend").length, figure.querySelector(".ramp").textContent];
seen.colours = new Set([...figure.querySelectorAll("[data-line]")].map((group) => group.getAttribute("style"))).size;
lists[1].selectedIndex = 3;
lists[1].dispatchEvent(new Event("change"));
seen.behind = figure.querySelectorAll(".behind").length;
plot.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
seen.lit = plot.querySelector(".tip strong").textContent;
lists[0].selectedIndex = 1;
lists[0].dispatchEvent(new Event("change"));
seen.few = [figure.querySelectorAll(".legend").length, lists[1].closest("label").hidden];
document.body.append(Object.assign(document.createElement("pre"), { id: "probe", textContent: JSON.stringify(seen) }));
"""


def probed(page: str, folder: Path, probe: str = PROBE) -> dict[str, Any]:
    document, console = open_page(with_script(page, probe), folder)
    assert console == []
    found = re.search(r'<pre id="probe">(.*?)</pre>', document, re.S)
    assert found is not None, "the probe did not run to its end"
    return json.loads(found[1].replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH to open the report in")
def test_the_page_draws_every_figure_and_its_controls_change_them(report: Path, tmp_path: Path) -> None:
    seen = probed((report / "report.html").read_text("utf-8"), tmp_path)
    assert sorted(name for name, _ in seen["charts"]) == FIGURES
    assert {count for _, count in seen["charts"]} == {1}
    assert seen["empty"] == 0
    assert seen["layers"] == [f"layer {i}" for i in range(4)]
    assert seen["random"][0]
    assert seen["random"][1].startswith("z-score")
    assert seen["linear"]
    assert seen["heads"] == ["head 0", "head 1"]
    hidden, text = seen["hover"]
    assert not hidden
    for part in ("head 0", "distance 0", "z-score"):
        assert part in text
    assert seen["next"] == "distance 1"
    assert seen["left"]
    assert seen["hidden"] == ["head 1"]
    assert seen["cuts"] == [["HoPE's cut", "p-RoPE 0.75"]]
    assert seen["values"]
    assert seen["by_head"]
    for part in ("layer 1, head 1", "pair 3, one turn in 15 tokens", "mean 2-norm"):
        assert part in seen["cell"]
    assert not seen["pointed"][0]
    assert "layer 1, head 0" in seen["pointed"][1]
    assert seen["multiple"] == ["4x the training length", True]
    assert seen["labels"] == 0
    assert seen["wide"] <= 0


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH to open the report in")
def test_a_long_encoding_does_not_widen_a_narrow_page(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("whorl.reports.png.png", lambda chart: {})
    summary, arrays = samples.rope()
    summary["model"]["encoding"] = "full_attention=rope:base=1000000/sliding_attention=rope:base=10000+window:size=512"
    write([samples.read(summary, arrays)], tmp_path)
    probe = """
    const facts = [...document.querySelectorAll(".facts dd")].map((fact) => fact.scrollWidth - fact.clientWidth);
    document.body.dataset.seen = [Math.max(...facts), innerWidth].join(" ");
    """
    page = (tmp_path / "report.html").read_text("utf-8")
    document, _ = open_page(with_script(page, probe), tmp_path, "--window-size=500,5200")
    assert 'data-seen="0 500"' in document


def test_no_line_ends_between_a_number_and_what_belongs_to_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("whorl.reports.png.png", lambda chart: {})
    write([samples.read(*samples.rope())], tmp_path)
    page = (tmp_path / "report.html").read_text("utf-8")
    told = page[page.index("<h2>Findings") : page.index("<h2>Frequency usage")]
    assert "93&nbsp;% of its attention" in told
    assert "0.21&nbsp;±&nbsp;0.02 above it" in told
    assert not re.search(r"\d [%±]|± \d", told)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH to open the report in")
def test_two_models_are_drawn_in_panels_under_the_same_controls(side_by_side: Path, tmp_path: Path) -> None:
    seen = probed((side_by_side / "report.html").read_text("utf-8"), tmp_path)
    panels = dict(seen["charts"])
    assert (panels["logits"], panels["usage"], panels["divergence"], panels["spectrum"]) == (2, 2, 1, 1)
    assert seen["layers"] == ["layer 0", "layer 1", "layer 2", "layer 3", "layer 0", "layer 1", "layer 2"]
    assert seen["heads"] == ["head 0", "head 1"] * 2
    assert seen["hidden"] == ["head 1"] * 2
    assert seen["cuts"] == [["HoPE's cut", "p-RoPE 0.75"]] * 2


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH to open the report in")
def test_many_layers_have_a_ramp_of_colours_and_one_can_be_highlighted(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("whorl.reports.png.png", lambda chart: {})
    write([samples.read(*samples.rope(layers=9))], tmp_path)
    seen = probed((tmp_path / "report.html").read_text("utf-8"), tmp_path, MANY)
    assert seen["keys"] == [0, "layer 0layer 8"]
    assert seen["colours"] == 9
    assert seen["behind"] == 8
    assert seen["lit"] == "layer 2"
    assert seen["few"] == [1, True]
