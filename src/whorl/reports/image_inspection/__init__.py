"""The report of an inspection of image models: which axes and frequencies each head uses, and maps of its attention."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whorl.reports import html, writing
from whorl.reports.chart import Chart
from whorl.reports.document import Block, Bullet, Bullets, Details, Document, Figure, Heading, Paragraph, Row, Table
from whorl.reports.formatting import DASH, compact, duration, listing, number, setting
from whorl.reports.image_inspection.charts import Models, all_charts, part_of
from whorl.reports.image_inspection.words import findings, offset_in_words
from whorl.reports.inspection.telling import Finding, share
from whorl.results.image_inspection import ImageInspection
from whorl.results.schema import as_json

__all__ = ["all_charts", "build", "findings", "head", "write"]

MOST_ROWS = 48  # heads in the table


def write(results: Models, out: Path) -> list[Path]:
    """Writes `out/report.md`, `out/report.html` and `out/figures/*.png`, each in one step, and returns their paths."""
    return writing.write(build(results), out)


def head(result: ImageInspection) -> str:
    """The head of one model's report, for a notebook."""
    told = [Paragraph(found.text) for found in findings(result)]
    return html.head(Document(_title([result]), _subtitle([result]), _facts([result]), told, _footer([result])))


def build(results: Models) -> Document:
    """The document: findings first, then axes and frequencies, maps, a table of heads, and how it was made."""
    charts = all_charts(results)
    blocks: list[Block] = [Heading("Findings")]
    for i, m in enumerate(results):
        named = len(results) > 1
        bullets = [
            Bullet(f.text, m.name if named and not n else "", i if named and not n else None, _see(f, charts))
            for n, f in enumerate(findings(m))
        ]
        blocks.append(Bullets(bullets))
    blocks += [Heading("Axes and frequencies"), Paragraph(_AXES), *_figures(charts, "axes", "pairs")]
    blocks += [Paragraph(m.summary.absent["pairs"] + ".", "note") for m in results if "pairs" in m.summary.absent]
    blocks += [Heading("Attention by offset"), Paragraph(_MAPS), *_figures(charts, "maps")]
    for key in ("weights", "windows"):
        blocks += [Paragraph(m.summary.absent[key] + ".", "note") for m in results if key in m.summary.absent]
    blocks += [_table(m, results) for m in results]
    blocks.append(_settings(results))
    return Document(_title(results), _subtitle(results), _facts(results), blocks, _footer(results))


_AXES = (
    "The mean 2-norm of each pair of channels, over images and patches, in queries and in keys; the product of both "
    "bounds what the pair can add to a logit. A rotation keeps norms. A pair that turns by rows and columns together "
    "counts for each by the square of its frequency along it."
)
_MAPS = (
    "The mean weight that a patch gives to the patch so many rows down and columns to the right of it, over images and "
    "all patches that have one there; the middle of a map is the patch itself. Tokens that stand before the patches "
    "are no part of a map."
)


def _figures(charts: Mapping[str, Chart], *names: str) -> list[Block]:
    return [Figure(charts[name]) for name in names if name in charts]


def _see(found: Finding, charts: Mapping[str, Chart]) -> tuple[str, str]:
    chart = charts.get(found.figure)
    return (found.figure, chart.title) if chart is not None else ("", "")


def _table(m: ImageInspection, models: Models) -> Table:
    of = f" of {m.name}" if len(models) > 1 else ""
    shown = m.summary.heads[:MOST_ROWS]
    left = "" if len(shown) == len(m.summary.heads) else f", the first {MOST_ROWS} of {len(m.summary.heads)}"
    header = [
        ("head", ""), ("rows", "of queries"), ("columns", "of queries"), ("rows", "of keys"), ("columns", "of keys"),
        ("no full turn", "pairs"), ("distance", "in patches"), ("before the patches", ""), ("most", "at one offset"),
    ]  # fmt: skip
    rows = []
    for h in shown:
        shares = [share(part_of(axes, key)) for axes in (h.queries, h.keys) for key in ("rows", "columns")]
        unfit = DASH if h.queries is None else str(len(h.unfit))
        at = "" if h.down is None or h.right is None else offset_in_words(h.down, h.right).removeprefix("the patch ")
        values = [*shares, unfit, number(h.distance), share(h.prefix)]
        rows.append(Row([(f"layer {h.layer}, head {h.head}", ""), *((v, "") for v in values), (share(h.there), at)]))
    return Table(f"The heads{of}{left}.", header, rows)


def _settings(models: Models) -> Details:
    groups: dict[str, Mapping[str, Any]] = {}
    for m in models:
        whose = f", {m.name}" if len(models) > 1 else ""
        for name, group in (
            ("Model", as_json(m.summary.model)),
            ("Settings", as_json(m.summary.settings)),
            ("Machine", m.summary.machine),
            ("Versions", m.summary.versions),
            ("Time", {"seconds": duration(m.summary.seconds)}),
            ("Not shown", m.summary.absent),
        ):
            if group:
                groups[f"{name}{whose}"] = {key: setting(value) for key, value in group.items()}
    return Details("Settings, machine and versions", groups)


def _title(models: Models) -> str:
    names = listing([m.name for m in models])
    return f"How {names} use{'s' if len(models) == 1 else ''} positions"


def _subtitle(models: Models) -> str:
    told = []
    for m in models:
        s = m.summary.settings
        on = f"Read on {s.data}: " if s.data else "Read on "
        asked = f" of {s.asked:,}" if s.asked != s.images else ""
        own = m.summary.model
        sizes = f"the model's own grid has {own.rows} x {own.columns}" if own.sized else "the model takes any size"
        told.append(f"{on}{s.images:,}{asked} images of {s.rows} x {s.columns} patches; {sizes}")
    if len(set(told)) == 1:
        return f"{told[0]}."
    return "; ".join(f"{m.name}: {how}" for m, how in zip(models, told, strict=True)) + "."


def _facts(models: Models) -> list[tuple[str, str]]:
    facts = []
    for m in models:
        model = m.summary.model
        shape = f"{model.layers} layers, {model.heads} heads, head dim {model.head_dim}"
        kind = [model.type, model.encoding, f"{compact(model.parameters)} parameters", shape]
        facts.append((m.name if len(models) > 1 else "Model", " · ".join(kind)))
    machine = models[0].summary.machine
    facts.append(("Device", str(machine.get("device") or machine.get("cpu") or "")))
    facts.append(("Created", models[0].summary.created[:16].replace("T", " ")))
    return [(name, value) for name, value in facts if value]


def _footer(models: Models) -> str:
    version = models[0].summary.whorl
    return f"Written by whorl {version}, from inspection.json and inspection.npz beside this report."
