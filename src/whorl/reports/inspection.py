"""The report of an inspection: from its summaries and arrays to report.md, report.html and figures/*.png."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from whorl.files import write_atomically
from whorl.reports import html, inspection_charts, markdown
from whorl.reports.chart import Chart
from whorl.reports.charts import finite
from whorl.reports.document import (
    Block,
    Bullet,
    Bullets,
    Details,
    Document,
    Figure,
    Heading,
    Paragraph,
    Row,
    Table,
)
from whorl.reports.formatting import DASH, capital, compact, duration, listing, number, with_spread
from whorl.reports.inspected import PROTOCOLS, Inspected, rows, tokens, whole, wholes
from whorl.reports.inspection_words import Finding, account, differences, findings
from whorl.reports.png import png

__all__ = ["build", "findings", "write"]

MOST_ROWS = 40
Result = tuple[dict[str, Any], dict[str, np.ndarray]]


def write(results: list[Result], out: Path) -> list[Path]:
    """Writes `out/report.md`, `out/report.html` and `out/figures/*.png`, each in one step, and returns their paths.

    results: one model's (summary, arrays), or two to be shown side by side. Any section or array may be missing, and
        any number None or NaN; `summary["absent"][section]` is then shown in its place.
    """
    document = build(results)
    images = {name: image for chart in document.charts for name, image in png(chart).items()}
    written = [write_atomically(out / "figures" / name, image) for name, image in images.items()]
    written.append(write_atomically(out / "report.md", markdown.render(document)))
    written.append(write_atomically(out / "report.html", html.render(document)))
    return written


def build(results: Sequence[tuple[Mapping[str, Any], Mapping[str, np.ndarray]]]) -> Document:
    """The document: findings first, then a section for each measure, then how it was made."""
    models = _models(results)
    charts = inspection_charts.all_charts(models)
    blocks: list[Block] = [
        *_findings(models, charts),
        *_usage(models, charts),
        *_u_shape(models, charts),
        *_attention(models, charts),
        *_heads(models, charts),
        *_out_of_range(models, charts),
        *_ablation(models, charts),
        *_spectrum(models, charts),
        *_divergence(models, charts),
        *_training(charts),
        _settings(models),
    ]
    return Document(_title(models), _subtitle(models), _facts(models), blocks, _footer(models))


def _models(results: Sequence[tuple[Mapping[str, Any], Mapping[str, np.ndarray]]]) -> list[Inspected]:
    """Named by the last part of a path where that tells them apart, and by their number where names are the same."""
    full = [Inspected(summary).name for summary, _ in results]
    short = [Path(name).name if Path(name).is_absolute() else name for name in full]
    names = short if len(set(short)) == len(short) else full
    models: list[Inspected] = []
    for (summary, arrays), name in zip(results, names, strict=True):
        m = Inspected(summary, arrays, name)
        alike = any(other.name == m.name for other in models)
        models.append(Inspected(summary, arrays, f"{m.name} ({len(models) + 1})") if alike else m)
    return models


# The sections


def _findings(models: Sequence[Inspected], charts: Mapping[str, Chart]) -> list[Block]:
    blocks: list[Block] = [Heading("Findings")]
    for i, m in enumerate(models):
        found = findings(m.summary, m.arrays)
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


def _usage(models: Sequence[Inspected], charts: Mapping[str, Chart]) -> list[Block]:
    said = (
        "How large each pair of channels is in queries, keys and values, read where the rotation is applied. A pair "
        "that is small in queries or keys cannot matter to attention."
    )
    return _section("Frequency usage", said, models, charts, ["usage"], ["usage", "norms", "pairs"])


def _u_shape(models: Sequence[Inspected], charts: Mapping[str, Chart]) -> list[Block]:
    said = (
        "A U-shape is a logit that is higher near and far than in the middle of the training length L. Its rise is the "
        "mean over distances [7/8 L, L) less that over [3/8 L, 5/8 L); it appears where that exceeds two standard "
        "errors and the near end, [1, L/8), also lies above the middle."
    )
    blocks = _section("Logits by distance", said, models, charts, ["logits"], ["u_shape", "logit", "random"])
    if rises := _rise_table(models):
        blocks.append(rises)
    makers = [charts[name] for name in ("u-shape-pairs", "pairs-by-distance") if name in charts]
    blocks += [Figure(chart) for chart in makers]
    blocks += _absent(models, ["logit_by_pair", "pairs"], lambda m: m.array("logit_by_pair", 4) is None)
    return blocks


def _rise_table(models: Sequence[Inspected]) -> Table | None:
    lines = []
    for m in models:
        for protocol, words in PROTOCOLS.items():
            u = m.u_shape(protocol)
            if not u:
                continue
            appears = u.get("appears")
            activated = u.get("activated") or {}
            pairs = [str(p) for p in wholes(activated.get("pairs"))]
            lines.append(
                Row(
                    [
                        (m.name, words) if len(models) > 1 else (capital(words), ""),
                        (DASH if appears is None else "yes" if appears else "no", ""),
                        (with_spread(finite(u.get("rise")), finite(u.get("stderr"))), ""),
                        (number(finite(u.get("near"))), ""),
                        (f"{pairs[0]}–{pairs[-1]}" if len(pairs) > 1 else "".join(pairs) or DASH, ""),
                        (_percent(activated.get("share")), ""),
                        (f"{whole(activated.get('removed_by_hope'))} of {len(pairs)}" if pairs else DASH, ""),
                    ]
                )
            )
    if not lines:
        return None
    heads = [
        ("", ""),
        ("U-shape", ""),
        ("rise", "± standard error"),
        ("near end", "above the middle"),
        ("activated pairs", ""),
        ("their share", "of the rise"),
        ("HoPE removes", ""),
    ]
    return Table("The U-shape, mean over layers and heads; on random tokens in standard deviations.", heads, lines)


def _attention(models: Sequence[Inspected], charts: Mapping[str, Chart]) -> list[Block]:
    said = (
        "What the softmax makes of the logits: the attention paid at each distance, how widely each query spreads it, "
        "and how much falls on the first token."
    )
    return _section(
        "Attention", said, models, charts, ["attention", "positions"], ["attention", "entropy", "first_token"]
    )


def _heads(models: Sequence[Inspected], charts: Mapping[str, Chart]) -> list[Block]:
    said = (
        "A positional head pays most of its attention to one distance, or to the first token, whatever the tokens are: "
        "it should do so on random tokens too. Its pairs are those that carry 80 % of the margin of that logit; the "
        "bound is that of Cauchy and Schwarz, |q||k|, and 1 is at the bound."
    )
    blocks = _section("Positional heads", said, models, charts, ["heads"], ["heads", "attention"])
    for m in models:
        if not m.heads:
            continue
        ordered = sorted(m.heads, key=lambda row: -(finite(row.get("text")) or 0.0))
        left = f", the first {MOST_ROWS} of {len(ordered)}" if len(ordered) > MOST_ROWS else ""
        whose = f" of {m.name}" if len(models) > 1 else ""
        heads = [
            ("head", ""), ("kind", ""), ("attention there", "on the text"), ("attention there", "random tokens"),
            ("pairs", "that carry it"), ("fastest quarter", "of the margin"), ("bound", ""),
        ]  # fmt: skip
        table = [Row(_head_cells(row)) for row in ordered[:MOST_ROWS]]
        blocks.append(Table(f"The positional heads{whose}, by their attention{left}.", heads, table))
    return blocks


def _head_cells(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    offset = whole(row.get("offset")) if row.get("kind") == "offset" else None
    pairs = [str(p) for p in wholes(row.get("pairs"))]
    some = f"{', '.join(pairs[:6])} and {len(pairs) - 6} more" if len(pairs) > 7 else ", ".join(pairs)
    return [
        (f"layer {row.get('layer')}, head {row.get('head', DASH)}", ""),
        (str(row.get("kind") or DASH), f"{offset} tokens back" if offset is not None else ""),
        (_percent(row.get("text")), ""),
        (_percent(row.get("random")), ""),
        (some or DASH, ""),
        (_percent(row.get("fast_share")), ""),
        (number(finite(row.get("bound"))), ""),
    ]


def _out_of_range(models: Sequence[Inspected], charts: Mapping[str, Chart]) -> list[Block]:
    said = (
        "Past the training length a pair meets angles that training never showed it. The departure is how far its "
        "logits then lie from those in range."
    )
    names = ["departure", "departure-pairs"]
    blocks = _section("Out of range", said, models, charts, names, ["out_of_range", "departure"])
    for m in models:
        section = m.summary.get("out_of_range") or {}
        multiples = m.multiples
        if not (listed := rows(section, "pairs")) or not multiples:
            continue
        whose = f" of {m.name}" if len(models) > 1 else ""
        table = []
        for row in listed:
            wave, series = finite(row.get("wavelength")), list(row.get("departure") or [])
            values = [finite(series[i]) if i < len(series) else None for i in range(len(multiples))]
            name = f"layer {row.get('layer')}, pair {row.get('pair')}"
            cells = [name, DASH if wave is None else tokens(wave), *map(number, values)]
            table.append(Row([(cell, "") for cell in cells]))
        heads = [("pair", ""), ("wavelength", "tokens"), *((f"{x:g}x", "") for x in multiples)]
        blocks.append(Table(f"The pairs{whose} that depart most, in standard deviations.", heads, table))
    return blocks


def _ablation(models: Sequence[Inspected], charts: Mapping[str, Chart]) -> list[Block]:
    said = (
        "What the slow pairs' rotation is worth to this model: the loss on the same windows when pairs from a cut on "
        "are made position-independent, as HoPE does, though here without training."
    )
    return _section("Ablation", said, models, charts, ["ablation"], ["ablation"])


def _spectrum(models: Sequence[Inspected], charts: Mapping[str, Chart]) -> list[Block]:
    said = "The wavelength of a pair is the distance in tokens at which it has made one full turn."
    blocks = _section("Spectrum", said, models, charts, ["spectrum"], ["spectrum", "pairs"])
    table = []
    for m in models:
        section = m.summary.get("spectrum") or {}
        groups: dict[tuple[Any, ...], list[int]] = {}
        keys = ("pairs", "turning", "never_full", "hope_cut", "p_rope_cut", "amplitude")
        for row in rows(section, "layers"):
            groups.setdefault(tuple(finite(row.get(key)) for key in keys), []).append(whole(row.get("layer")) or 0)
        for values, layers in groups.items():
            same = len(groups) == 1
            name = m.name if same else f"{m.name}, layers {_listed(layers)}"
            base = finite(section.get("base"))
            cells = [(name, ""), (DASH if base is None else f"{base:,.10g}", ""), (_text(m.model.get("head_dim")), "")]
            cells += [(_text(section.get("layout")), "")]
            table.append(Row(cells + [(DASH if value is None else f"{value:,.4g}", "") for value in values]))
    if table:
        length = f"{models[0].train_length:,} tokens" if models[0].train_length else "the training length"
        heads = [
            ("model", ""), ("base", ""), ("head dim", ""), ("layout", ""), ("pairs", ""), ("turning", ""),
            ("never turn fully", f"within {length}" if len(models) == 1 else "within training"),
            ("HoPE", "keeps"), ("p-RoPE 0.75", "keeps"), ("amplitude", ""),
        ]  # fmt: skip
        blocks.append(Table("The rotation of the pairs.", heads, table))
    return blocks


def _divergence(models: Sequence[Inspected], charts: Mapping[str, Chart]) -> list[Block]:
    if "divergence" not in charts and not any((m.summary.get("absent") or {}).get("divergence") for m in models):
        return []
    said = "How much attention over relative key positions changes with the length of the text, or from model to model."
    return _section("Divergence", said, models, charts, ["divergence"], ["divergence"])


def _training(charts: Mapping[str, Chart]) -> list[Block]:
    shown = [charts[name] for name in ("training", "training-pairs") if name in charts]
    return [Heading("Training"), *map(Figure, shown)] if shown else []


def _section(
    title: str,
    said: str,
    models: Sequence[Inspected],
    charts: Mapping[str, Chart],
    names: Sequence[str],
    sections: Sequence[str],
) -> list[Block]:
    """A heading, what is measured, its charts; without any chart the reason instead."""
    blocks: list[Block] = [Heading(title), Paragraph(said)]
    shown = [Figure(charts[name]) for name in names if name in charts]
    if shown:
        return [*blocks, *shown]
    return [*blocks, *_absent(models, sections, lambda _: True)]


def _absent(models: Sequence[Inspected], sections: Sequence[str], missing: Any) -> list[Block]:
    """One remark for each reason, with the names of the models where there are two."""
    reasons: dict[str, list[str]] = {}
    for m in models:
        if missing(m):
            reasons.setdefault(m.absent(*sections), []).append(m.name)
    several = len(models) > 1
    return [Paragraph(f"{listing(names)}: {why}" if several else why, "note") for why, names in reasons.items()]


# The frame


def _settings(models: Sequence[Inspected]) -> Details:
    groups: dict[str, Mapping[str, Any]] = {}
    for m in models:
        whose = f", {m.name}" if len(models) > 1 else ""
        seconds = {k: duration(finite(v)) for k, v in (m.summary.get("seconds") or {}).items()}
        for name, group in (
            ("Model", m.model),
            ("Settings", m.settings),
            ("Machine", m.summary.get("machine") or {}),
            ("Versions", m.summary.get("versions") or {}),
            ("Time", seconds),
            ("Not shown", m.summary.get("absent") or {}),
        ):
            if group:
                groups[f"{name}{whose}"] = {key: _text(value) for key, value in group.items()}
    return Details("Settings, machine and versions", groups)


def _title(models: Sequence[Inspected]) -> str:
    names = listing([m.name for m in models])
    return f"How {names} use{'s' if len(models) == 1 else ''} positions"


def _subtitle(models: Sequence[Inspected]) -> str:
    m = models[0]
    parts = []
    if m.settings.get("text"):
        parts.append(f"Read on {m.settings['text']}")
    if m.length is not None:
        parts.append(f"{'at' if parts else 'Read at'} up to {m.length:,} tokens")
    if m.train_length is not None:
        parts.append(f"trained at {m.train_length:,}")
    if count := whole(m.settings.get("windows")):
        parts.append(f"{count} window{'' if count == 1 else 's'}")
    return f"{capital(', '.join(parts))}." if parts else ""


def _facts(models: Sequence[Inspected]) -> list[tuple[str, str]]:
    facts = []
    for m in models:
        shape = [
            f"{m.model[key]} {words}" for key, words in (("layers", "layers"), ("heads", "heads")) if m.model.get(key)
        ]
        keys = whole(m.model.get("key_heads"))
        if keys is not None and keys != m.model.get("heads"):
            shape.append(f"{keys} key heads")
        if m.model.get("head_dim"):
            shape.append(f"head dim {m.model['head_dim']}")
        kind = [str(part) for part in (m.model.get("type"), m.model.get("encoding")) if part]
        if parameters := finite(m.model.get("parameters")):
            kind.append(f"{compact(parameters)} parameters")
        facts.append((m.name if len(models) > 1 else "Model", " · ".join([*kind, ", ".join(shape)])))
    machine = models[0].summary.get("machine") or {}
    facts.append(("Device", str(machine.get("device") or machine.get("cpu") or "")))
    facts.append(("Created", str(models[0].summary.get("created") or "")[:16].replace("T", " ")))
    return [(name, value) for name, value in facts if value.strip(" ·")]


def _footer(models: Sequence[Inspected]) -> str:
    version = models[0].summary.get("whorl") or ""
    return f"Written by whorl {version}".strip() + ", from inspection.json and inspection.npz beside this report."


def _percent(value: Any) -> str:
    known = finite(value)
    return DASH if known is None else f"{100 * known:.0f} %"


def _listed(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers)) if len(layers) <= 6 else f"{layers[0]}, {layers[1]}, … {layers[-1]}"


def _text(value: Any) -> str:
    return DASH if value is None else str(value)
