"""The report of an inspection: from its summaries and arrays to report.md, report.html and figures/*.png.

Each section is a module that holds its charts, its words and its tables together. drawing.py has what their charts have
in common, telling.py what their words have in common, account.py the verdict that the report opens with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from whorl.reports import html, writing
from whorl.reports.chart import Chart
from whorl.reports.document import Block, Bullet, Bullets, Details, Document, Heading, Paragraph
from whorl.reports.formatting import capital, compact, duration, listing, setting
from whorl.reports.inspection import (
    ablation,
    added,
    attention,
    departure,
    divergence,
    heads,
    logits,
    spectrum,
    training,
    usage,
)
from whorl.reports.inspection.account import account
from whorl.reports.inspection.drawing import Models
from whorl.reports.inspection.telling import Charts, Finding
from whorl.results.inspection import Inspection, Settings
from whorl.results.schema import as_json

__all__ = ["all_charts", "build", "differences", "findings", "head", "write"]


class Section(Protocol):
    """What every section's module has."""

    def charts(self, models: Models) -> list[Chart | None]:
        """Its charts; None, or not there, where nothing of one was measured."""

    def blocks(self, models: Models, charts: Charts) -> list[Block]:
        """What the report shows, given all its charts by name."""

    def findings(self, m: Inspection) -> list[Finding]:
        """What its numbers show of one model, and what they do not."""


SECTIONS: tuple[Section, ...] = (
    usage, logits, added, attention, heads, departure, ablation, spectrum, divergence, training
)  # fmt: skip
TELLING: tuple[Section, ...] = (heads, logits, departure, ablation)
"""Those whose findings tell most, and are said before those of the others."""


def findings(m: Inspection) -> list[Finding]:
    """What one model's inspection shows and what it does not, the most telling first."""
    verdict = account(m)
    sections = [*TELLING, *(section for section in SECTIONS if section not in TELLING)]
    return [*([verdict] if verdict else []), *(found for section in sections for found in section.findings(m))]


def differences(models: Models) -> list[Finding]:
    """What sets two models apart, and where they are not told apart; nothing of one model."""
    if len(models) != 2:
        return []
    a, b = models
    return [
        *logits.differences(a, b),
        *heads.differences(a, b),
        *departure.differences(a, b),
        *ablation.differences(a, b),
        *divergence.differences(a, b),
    ]


def write(results: Sequence[Inspection], out: Path, pictures: bool = True) -> list[Path]:
    """Writes `out/report.md`, `out/report.html` and `out/figures/*.png`, each in one step, and returns their paths.
    Without `pictures` report.html alone.

    results: one model's inspection, or two to be shown side by side. What was not measured says why in its place.
    """
    return writing.write(build(results), out, pictures)


def build(results: Sequence[Inspection]) -> Document:
    """The document: findings first, then a section for each measure, then how it was made."""
    models = _named(results)
    charts = all_charts(models)
    blocks = [
        *_findings(models, charts),
        *(block for section in SECTIONS for block in section.blocks(models, charts)),
        _settings(results, models),
    ]
    return Document(_title(models), _subtitle(models), _facts(models), blocks, _footer(models))


def all_charts(models: Models) -> dict[str, Chart]:
    """Every chart that the results are enough for, by name."""
    return {chart.name: chart for section in SECTIONS for chart in section.charts(models) if chart is not None}


def head(result: Inspection) -> str:
    """The head of one model's report, for a notebook."""
    models = _named([result])
    told = [Paragraph(found.text) for found in findings(result)]
    return html.head(Document(_title(models), _subtitle(models), _facts(models), told, _footer(models)))


def _named(results: Sequence[Inspection]) -> list[Inspection]:
    """Named by the last part of a path where that tells them apart, and by their number where names are the same."""
    full = [m.name for m in results]
    short = [Path(name).name if Path(name).is_absolute() or name.endswith(".gguf") else name for name in full]
    names: list[str] = []
    for name in short if len(set(short)) == len(short) else full:
        names.append(f"{name} ({len(names) + 1})" if name in names else name)
    return [
        replace(m, summary=replace(m.summary, model=replace(m.summary.model, name=name)))
        for m, name in zip(results, names, strict=True)
    ]


def _findings(models: Sequence[Inspection], charts: Mapping[str, Chart]) -> list[Block]:
    blocks: list[Block] = [Heading("Findings")]
    for i, m in enumerate(models):
        found = findings(m)
        verdict = account(m)
        if len(models) > 1:
            bullets = [Bullet("", m.name, i)] if not found else []
            bullets += [
                _bullet(f, charts, m.name if n == 0 else "", i if n == 0 else None) for n, f in enumerate(found)
            ]
        else:
            if verdict is not None:
                blocks.append(Paragraph(verdict.text, "lead"))
            bullets = [_bullet(f, charts) for f in found if f != verdict]
        blocks.append(Bullets(bullets) if bullets else Paragraph("There is nothing to report: nothing was measured."))
    if apart := differences(models):
        blocks += [Heading("Differences"), Bullets([_bullet(f, charts) for f in apart])]
    return blocks


def _bullet(found: Finding, charts: Mapping[str, Chart], label: str = "", series: int | None = None) -> Bullet:
    chart = charts.get(found.figure)
    return Bullet(found.text, label, series, (found.figure, chart.title) if chart is not None else ("", ""))


def _settings(results: Sequence[Inspection], models: Sequence[Inspection]) -> Details:
    """models: the results by the names that tell them apart."""
    groups: dict[str, Mapping[str, Any]] = {}
    for result, m in zip(results, models, strict=True):
        whose = f", {m.name}" if len(models) > 1 else ""
        for name, group in (
            ("Model", as_json(result.summary.model) | {"windows": _windows(result.summary.model.windows)}),
            ("Settings", as_json(m.summary.settings)),
            ("Machine", m.summary.machine),
            ("Versions", m.summary.versions),
            ("Time", {key: duration(seconds) for key, seconds in m.summary.seconds.items()}),
            ("Plan", _plan(m)),
            ("Not shown", m.summary.absent),
        ):
            if group:
                groups[f"{name}{whose}"] = {key: setting(value) for key, value in group.items()}
    return Details("Settings, machine and versions", groups)


def _windows(of_layers: Sequence[int | None]) -> str:
    """The sliding windows of a model's layers, in words."""
    sizes = [size for size in of_layers if size is not None]
    told = [f"{size:,} tokens in {sizes.count(size)} of {len(of_layers)} layers" for size in dict.fromkeys(sizes)]
    return listing(told) if told else "none"


def _plan(m: Inspection) -> dict[str, str]:
    """The stages of the plan, and what there was no time for."""
    plan = m.summary.plan
    if plan is None:
        return {}
    told = {"budget": f"{plan.minutes:g} minutes" if plan.minutes else "none"}
    for stage in plan.stages:
        read = 0 if stage.read is None else stage.read
        told[stage.stage] = f"{read} of {stage.windows} windows of {stage.length:,} tokens"
    return told | ({"left out": "; ".join(plan.left_out)} if plan.left_out else {})


def _title(models: Sequence[Inspection]) -> str:
    names = listing([m.name for m in models])
    return f"How {names} use{'s' if len(models) == 1 else ''} positions"


def _subtitle(models: Sequence[Inspection]) -> str:
    read = [_read(m.summary.settings) for m in models]
    if len(set(read)) == 1:
        return capital(f"{read[0]}.")
    return "; ".join(f"{m.name}: {how}" for m, how in zip(models, read, strict=True)) + "."


def _read(settings: Settings) -> str:
    on = f"read on {settings.text}, at" if settings.text else "read at"
    count = f"{settings.windows} window{'' if settings.windows == 1 else 's'}"
    return f"{on} up to {settings.length:,} tokens, trained at {settings.train_length:,}, {count}"


def _facts(models: Sequence[Inspection]) -> list[tuple[str, str]]:
    facts = []
    for m in models:
        model = m.summary.model
        shape = [f"{model.layers} layers", f"{model.heads} heads"]
        if model.key_heads != model.heads:
            shape.append(f"{model.key_heads} key head{'' if model.key_heads == 1 else 's'}")
        shape.append(f"head dim {model.head_dim}")
        kind = [model.type, model.encoding, f"{compact(model.parameters)} parameters"]
        facts.append((m.name if len(models) > 1 else "Model", " · ".join([*kind, ", ".join(shape)])))
        if m.summary.plan is not None and m.summary.plan.left_out:
            whose = f", {m.name}" if len(models) > 1 else ""
            facts.append((f"Left out for the time{whose}", capital("; ".join(m.summary.plan.left_out)) + "."))
    machine, created = models[0].summary.machine, models[0].summary.created
    facts.append(("Device", str(machine.get("device") or machine.get("cpu") or "")))
    facts.append(("Created", created[:16].replace("T", " ")))
    return [(name, value) for name, value in facts if value]


def _footer(models: Sequence[Inspection]) -> str:
    version = models[0].summary.whorl
    return f"Written by whorl {version}, from inspection.json and inspection.npz beside this report."
