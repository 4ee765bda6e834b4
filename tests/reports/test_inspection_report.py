"""The report of an inspection: its sentences, its files, what it does where results are missing, and its page in
headless Chromium."""

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

from whorl.reports.inspected import Inspected, merge, span
from whorl.reports.inspection import build, write
from whorl.reports.inspection_charts import all_charts
from whorl.reports.inspection_words import account, differences, findings

FIGURES = [
    *("ablation", "attention", "departure", "departure-pairs", "divergence", "heads", "logits", "pairs-by-distance"),
    *("positions", "spectrum", "training", "training-pairs", "u-shape-pairs", "usage"),
]


def said(summary: dict[str, Any], arrays: dict[str, np.ndarray] | None = None) -> list[str]:
    return [str(finding) for finding in findings(summary, arrays)]


def verdict(summary: dict[str, Any]) -> str:
    found = account(Inspected(summary))
    return found.text if found is not None else ""


@pytest.fixture
def rope() -> dict[str, Any]:
    return samples.rope()[0]


# Words


def test_positional_heads_are_counted_by_layer_with_the_pairs_that_carry_them(rope) -> None:
    assert said(rope)[1:4] == [
        "Layers 0 and 1 hold 3 previous-token heads, carried by pairs 0 to 5. The strongest, head 1 of layer 0, puts "
        "93 % of its attention on the previous token on the text and 91 % on random tokens.",
        "Layer 3 holds 1 offset head (4 tokens back), carried by pair 6. It puts 40 % of its attention at its distance "
        "on the text and 38 % on random tokens.",
        "Layer 2 holds 1 first-token head. It puts 60 % of its attention on the first token on the text but only 20 % "
        "on random tokens: the text draws it more than the position does.",
    ]


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([3], "carried by pair 3."),
        ([0, 1], "carried by pairs 0 and 1."),
        ([0, 1, 2, 7], "carried by pairs 0 to 2 and 7."),
        ([0, 2, 4, 6, 8], "carried by 5 pairs between 0 and 8."),
    ],
)
def test_pairs_are_named_in_runs(pairs, expected) -> None:
    assert said({"heads": [samples.head(0, 0, pairs=pairs, text=None, random=None)]}) == [
        f"Layer 0 holds 1 previous-token head, {expected}"
    ]


def test_no_positional_head_is_said_and_no_list_of_heads_says_nothing() -> None:
    assert said({"heads": []}) == ["No head is positional: none keeps to a distance, nor to the first token."]
    assert said({}) == []


def test_the_u_shape_is_told_with_its_error_and_the_pairs_that_make_it(rope) -> None:
    told = said(rope)
    assert (
        "On the text the logits have a U-shape: the near end lies 0.50 above the middle and the far end 0.21 ± 0.02 "
        "above it, most in layer 0 (0.42)."
    ) in told
    assert (
        "Pairs 11 to 17, wavelengths 130 to 730, make 81 % of the U-shape on the text and leave their range first, in "
        "layer 0; HoPE would remove 5 of the 7."
    ) in told


@pytest.mark.parametrize(
    ("rise", "near", "expected"),
    [
        (
            0.01,
            0.5,
            "Whether there is a U-shape on the text is not resolved: the far end rises by 0.01 ± 0.02 above the "
            "middle.",
        ),
        (-0.3, 0.5, "No U-shape on the text: the far end falls by 0.30 ± 0.02 below the middle."),
        (
            0.3,
            -0.1,
            "No U-shape on the text: the far end rises by 0.30 ± 0.02 above the middle, and the near end lies 0.10 "
            "below it.",
        ),
    ],
)
def test_where_there_is_no_u_shape_it_is_said_plainly(rise, near, expected) -> None:
    summary = {"u_shape": {"text": samples.u(rise, 0.02, near, 1)}}
    account = (
        "Whether HoPE's account holds for this model is not resolved, as a U-shape on the text is not."
        if "not resolved" in expected
        else "HoPE's account does not hold for this model: its logits have no U-shape on the text."
    )
    assert said(summary) == [account, expected]


def test_one_window_has_no_error_to_tell_a_u_shape_by() -> None:
    shape = {**samples.u(0.3, 0.02, 0.5, 1), "stderr": None, "appears": False}
    assert said({"u_shape": {"text": shape}})[1] == (
        "Whether there is a U-shape on the text is not resolved: the far end rises by 0.30 above the middle."
    )


def test_the_account_of_the_paper_holds_only_where_all_of_its_parts_do(rope) -> None:
    assert verdict(rope) == (
        "HoPE's account holds for this model: a U-shape on random tokens is made by pairs 11 to 17, wavelengths 130 to "
        "730, and these leave their range first; its cut would remove 5 of the 7."
    )
    random = rope["u_shape"]["random"]
    random["activated"]["removed_by_hope"] = 2
    rope["out_of_range"]["first_pair"]["pair"] = 3
    assert verdict(rope) == (
        "HoPE's account holds only in part: there is a U-shape on random tokens, made by pairs 11 to 17, wavelengths "
        "130 to 730, but its cut would remove only 2 of the seven pairs that make it and pair 3, which is not one of "
        "the pairs that make it, leaves its range first."
    )
    rope["out_of_range"]["first_pair"] = None
    random["activated"]["removed_by_hope"] = 7
    assert "but no pair leaves its range beyond it." in verdict(rope)
    del rope["out_of_range"]
    assert verdict(rope).endswith("wavelengths 130 to 730; its cut would remove all 7.")
    rope["u_shape"]["text"]["appears"] = False
    assert verdict(rope).endswith("but there is none on the text.")
    random["activated"] = None
    assert "no group of pairs is known that makes it" in verdict(rope)
    random["appears"] = False
    rope["u_shape"]["text"]["appears"] = True
    assert verdict(rope) == (
        "HoPE's account does not hold for this model: its logits have no U-shape on random tokens, though they have "
        "one on the text."
    )


def test_what_leaves_its_range_is_named_and_so_is_that_nothing_does(rope) -> None:
    assert (
        "Logits leave the range of training in pair 13 (wavelength 250) of layer 0 first, by 0.50 standard deviations "
        "at 2x the training length (at 1x, in range: 0.02); of the layers, layer 0 first, by 0.40 standard deviations "
        "at 2x the training length (at 1x, in range: 0.02); noise is 0.02."
    ) in said(rope)
    rope["out_of_range"].update(first_pair=None, first_layer=None)
    assert (
        "Nothing is seen to leave its range: no pair's logits depart by three times the noise (0.02) more than in "
        "range up to 8x the training length."
    ) in said(rope)


def test_the_ablation_tells_what_hope_s_cut_changes_and_a_better_one(rope) -> None:
    assert (
        "Without training, HoPE's cut (pairs 11 and slower stand still) moves the loss up by 0.09 ± 0.01 in range and "
        "down by 2.50 ± 0.05 at 1,024 tokens, in nats per token."
    ) in said(rope)
    rope["ablation"]["cuts"][-1]["past_change"] = -3.0
    assert any("is lowest with 28 pairs left turning: down by 3.00 ± 0.05." in text for text in said(rope))
    for row in rope["ablation"]["cuts"]:
        row["past_change"] = -0.09
    unresolved = "That a cut lowers the loss at 1,024 tokens is not resolved: at best, down by 0.09 ± 0.05."
    assert any(text.endswith(unresolved) for text in said(rope))
    for row in rope["ablation"]["cuts"]:
        row["past_change"] = 0.5
    assert any(text.endswith("No cut is seen to lower the loss at 1,024 tokens.") for text in said(rope))


def test_norms_are_told_from_the_arrays_against_those_of_values() -> None:
    norms = np.ones((1, 1, 8), np.float32)
    slow = norms.copy()
    slow[..., 6:] = 3
    found = said({}, {"norm_q": slow, "norm_k": slow, "norm_v": norms})
    assert found == [
        "The slowest quarter of the pairs holds 50 % of the norm of queries and 50 % of the norm of keys, against 25 % "
        "of that of values, which no rotation touches: more than an even share."
    ]


def test_parts_above_the_whole_say_that_others_lower_it(rope) -> None:
    rope["u_shape"]["text"]["activated"].update(share=1.4, pairs=[13], wavelengths=[250.0, 250.0], removed_by_hope=1)
    assert (
        "Pair 13, wavelength 250, makes 140 % of the U-shape on the text (others lower it) and leaves its range first, "
        "in layer 0; HoPE would remove it."
    ) in said(rope)


def test_the_first_token_is_told_with_its_layer_where_it_draws_attention(rope) -> None:
    assert "The first token draws most in layer 3: 25 % of the attention on the text, 20 % on random tokens." in said(
        rope
    )
    for row in rope["first_token"]:
        row.update(text=0.01, random=0.01)
    assert "The first token draws little: at most 1 % of a layer's attention on the text." in said(rope)


def test_training_tells_when_the_u_shape_and_the_heads_appear() -> None:
    summary, _ = samples.with_training()
    assert said(summary)[-3:] == [
        "In training the U-shape on the text is first seen at step 64 of 1,024 and is largest at step 64 (0.40); at "
        "the end, step 1,024, it is 0.21.",
        "In training the U-shape on random tokens is first seen at step 64 of 1,024 and is largest at step 64 (0.40); "
        "at the end, step 1,024, it is 0.21.",
        "The first positional heads are seen at step 16 of 1,024; at the end there are 4.",
    ]


def test_two_models_are_told_apart_beyond_their_errors_only() -> None:
    (a, _), (b, _) = samples.two_models()
    told = [f.text for f in differences([Inspected(a), Inspected(b)])]
    assert told[0] == "The rise of the U-shape on the text: 0.21 ± 0.02 in runs/rope, 0.01 ± 0.02 in runs/hope."
    assert (
        "At 2x the training length a layer's logits depart by at most 0.40 standard deviations in runs/rope and 0.03 "
        "in runs/hope."
    ) in told
    assert "Their attention by relative position differs most in layer 0, by 0.20 nats of at most 0.69." in told
    b["u_shape"]["text"]["rise"] = 0.2
    assert differences([Inspected(a), Inspected(b)])[0].text.endswith("their difference is not resolved.")


# Numbers


def test_joined_bins_are_means_by_width_and_skip_what_is_missing() -> None:
    start = np.array([0.0, 1, 2, 3, 4, 6, 8, 12])
    stop = np.array([1.0, 2, 3, 4, 6, 8, 12, 16])
    values = np.array([0.0, 1, 2, 3, 4, np.nan, 8, 10])
    assert span(values, start, stop, 3, 8) == pytest.approx((3 * 1 + 4 * 2) / 3)
    assert np.isnan(span(values, start, stop, 100, 200))
    begin, end, joined = merge(np.arange(512.0), np.arange(1.0, 513), np.arange(512.0), 40)
    assert 40 <= len(begin) < 70
    assert (begin[0], end[-1]) == (0, 512)
    assert (begin[1:] == end[:-1]).all()
    assert joined == pytest.approx((begin + end - 1) / 2)
    assert (end - begin)[:6].tolist() == [1] * 6
    edges = np.cumsum([0, *[1, 2] * 300]).astype(float)  # widths that differ: the middle stays the middle
    begin, end, joined = merge(edges[:-1], edges[1:], (edges[:-1] + edges[1:] - 1) / 2, 40)
    assert joined == pytest.approx((begin + end - 1) / 2)


def test_curves_of_logits_are_drawn_from_their_middle() -> None:
    summary, arrays = samples.rope()
    arrays["logit"] = np.where(arrays["distance_from"] < 100, 5.0, 5.5) + np.zeros((4, 2, 1), np.float32)
    chart = all_charts([Inspected(summary, arrays)])["logits"]
    curve = chart.views[0].panels[0].frames[0].curves[0].y  # type: ignore[union-attr]
    assert (curve[0], curve[-1]) == (0.0, 0.5)


def test_the_rise_of_each_pair_adds_up_to_that_of_the_logit() -> None:
    summary, arrays = samples.rope()
    chart = all_charts([Inspected(summary, arrays)])["u-shape-pairs"]
    cells = chart.views[0].panels[0].frames[0].rows[0].values  # type: ignore[union-attr]
    whole = arrays["logit_by_pair"][0].mean(0).sum(0)
    far, middle = (span(whole, arrays["coarse_from"], arrays["coarse_to"], a, b) for a, b in ((112, 128), (48, 80)))
    assert sum(cells) == pytest.approx(far - middle, abs=2e-3)


def test_pairs_carry_their_wavelength_and_the_cuts_stand_at_their_edge() -> None:
    chart = all_charts([Inspected(*samples.rope())])["usage"]
    (panel,) = chart.views[0].panels  # type: ignore[union-attr]
    assert panel.columns[0].notes[11] == "pair 11, one turn in 149 tokens"
    assert panel.columns[0].marks == ((11.0, "HoPE's cut"), (24.0, "p-RoPE 0.75"))
    still = samples.rope()
    still[1]["wavelength"][:, 11:] = np.inf
    chart = all_charts([Inspected(*still)])["usage"]
    assert chart.views[0].panels[0].columns[0].notes[11] == "pair 11, stands still"  # type: ignore[union-attr]


def test_the_page_of_a_large_model_stays_below_eight_megabytes(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("whorl.reports.inspection.png", lambda chart: {})
    for models in (1, 2):
        results = [samples.rope(f"m{i}", layers=32, heads=32, pairs=64, seed=i) for i in range(models)]
        write(results, tmp_path / str(models))
        size = (tmp_path / str(models) / "report.html").stat().st_size
        assert 1e6 < size < 8e6, f"{models}: {size:,}"


def test_keys_that_heads_share_are_named_so() -> None:
    summary, arrays = samples.rope()
    arrays["norm_k"] = arrays["norm_k"][:, :1]
    views = all_charts([Inspected(summary, arrays)])["usage"].views  # type: ignore[union-attr]
    notes = [view.panels[0].frames[1].rows[0].note for view in views]  # type: ignore[union-attr]
    assert notes == ["layer 0, head 0", "layer 0, key head 0", "layer 0, head 0"]


# Files


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("inspection") / "new"
    written = write([samples.with_training()], out)
    assert sorted(written) == sorted(path for path in out.rglob("*") if path.is_file())
    return out


@pytest.fixture(scope="module")
def side_by_side(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("inspection-two")
    write(samples.two_models(), out)
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
    document = build([samples.rope(), samples.rope()])
    assert document.title == "How runs/rope and runs/rope (2) use positions"
    apart = [build([samples.rope(a), samples.rope(b)]).title for a, b in (("/x/one", "/y/two"), ("/x/one", "/y/one"))]
    assert apart == ["How one and two use positions", "How /x/one and /y/one use positions"]


def test_what_is_absent_says_why(tmp_path: Path) -> None:
    write([samples.without_rotary()], tmp_path)
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
    assert {path.name for path in write([({}, {})], tmp_path)} == {"report.md", "report.html"}
    assert "nothing was measured" in (tmp_path / "report.md").read_text("utf-8")


@pytest.mark.parametrize("name", sorted(samples.rope()[1]))
def test_any_array_may_be_missing_or_hold_nothing(name: str) -> None:
    for replacement in (None, np.float32(np.nan)):
        summary, arrays = samples.rope()
        gone = arrays.pop(name)
        if replacement is not None:
            arrays[name] = np.full_like(gone, replacement)
        json.dumps([len(block.__class__.__name__) for block in build([(summary, arrays), samples.rope()]).blocks])


def every_path(value: Any, path: tuple = ()) -> list[tuple]:
    found = [path] if path else []
    if isinstance(value, dict):
        found += [p for key, item in value.items() for p in every_path(item, (*path, key))]
    elif isinstance(value, list) and value:
        found += every_path(value[0], (*path, 0))
    return found


@pytest.mark.parametrize("section", sorted(samples.with_training()[0]))
def test_any_number_and_any_section_may_be_none(section: str) -> None:
    summary, arrays = samples.with_training()
    summary["divergence"]["models"] = [0.1] * 4
    for path in every_path(summary[section], (section,)):
        broken = copy.deepcopy(summary)
        inner = broken
        for key in path[:-1]:
            inner = inner[key]
        for nothing in (None, float("nan")):
            if nothing is None or isinstance(inner[path[-1]], int | float):
                inner[path[-1]] = nothing
                findings(broken)
                build([(broken, arrays if section in ("model", "settings") else {})])
                differences([Inspected(broken, {}, "a"), Inspected(summary, {}, "b")])


def test_half_of_every_array_missing_leaves_figures_and_valid_json(tmp_path: Path) -> None:
    summary, arrays = samples.rope()
    rng = np.random.default_rng(0)
    for name, values in arrays.items():
        if values.ndim > 1:
            arrays[name] = np.where(rng.random(values.shape) < 0.5, values, np.nan)
    arrays["logit"][1] = np.nan
    arrays["norm_q"][2, 0] = np.nan
    write([(summary, arrays)], tmp_path)
    charts_in((tmp_path / "report.html").read_text("utf-8"))


def test_text_from_the_results_is_escaped(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("whorl.reports.inspection.png", lambda chart: {})
    evil = "</script><img src=x onerror=alert(1)> & |"
    summary, arrays = samples.rope(evil)
    summary["absent"]["x"] = evil
    write([(summary, arrays)], tmp_path)
    for name in ("report.html", "report.md"):
        assert "<img" not in (tmp_path / name).read_text("utf-8")


# The page

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
    monkeypatch.setattr("whorl.reports.inspection.png", lambda chart: {})
    write([samples.rope(layers=9)], tmp_path)
    seen = probed((tmp_path / "report.html").read_text("utf-8"), tmp_path, MANY)
    assert seen["keys"] == [0, "layer 0layer 8"]
    assert seen["colours"] == 9
    assert seen["behind"] == 8
    assert seen["lit"] == "layer 2"
    assert seen["few"] == [1, True]
