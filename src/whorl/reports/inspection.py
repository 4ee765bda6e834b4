"""The report of an inspection: from its summaries and arrays to report.md, report.html and figures/*.png."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from whorl.files import write_atomically
from whorl.reports import html, inspection_charts, markdown
from whorl.reports.chart import Chart
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
from whorl.reports.formatting import DASH, capital, compact, duration, listing, number, tokens, with_spread
from whorl.reports.inspection_words import PROTOCOLS, Finding, account, differences, findings
from whorl.reports.png import png
from whorl.results.inspection import Head, Inspection, LayerSpectrum
from whorl.results.schema import as_json

__all__ = ["build", "findings", "write"]

MOST_ROWS = 40


def write(results: Sequence[Inspection], out: Path) -> list[Path]:
    """Writes `out/report.md`, `out/report.html` and `out/figures/*.png`, each in one step, and returns their paths.

    results: one model's inspection, or two to be shown side by side. What was not measured says why in its place.
    """
    document = build(results)
    images = {name: image for chart in document.charts for name, image in png(chart).items()}
    written = [write_atomically(out / "figures" / name, image) for name, image in images.items()]
    written.append(write_atomically(out / "report.md", markdown.render(document)))
    written.append(write_atomically(out / "report.html", html.render(document)))
    return written


def build(results: Sequence[Inspection]) -> Document:
    """The document: findings first, then a section for each measure, then how it was made."""
    models = _named(results)
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
        _settings(results, models),
    ]
    return Document(_title(models), _subtitle(models), _facts(models), blocks, _footer(models))


def _named(results: Sequence[Inspection]) -> list[Inspection]:
    """Named by the last part of a path where that tells them apart, and by their number where names are the same."""
    full = [m.name for m in results]
    short = [Path(name).name if Path(name).is_absolute() else name for name in full]
    names: list[str] = []
    for name in short if len(set(short)) == len(short) else full:
        names.append(f"{name} ({len(names) + 1})" if name in names else name)
    return [
        replace(m, summary=replace(m.summary, model=replace(m.summary.model, name=name)))
        for m, name in zip(results, names, strict=True)
    ]


# The sections


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


def _usage(models: Sequence[Inspection], charts: Mapping[str, Chart]) -> list[Block]:
    said = (
        "How large each pair of channels is in queries, keys and values, read where the rotation is applied. A pair "
        "that is small in queries or keys cannot matter to attention."
    )
    return _section("Frequency usage", said, models, charts, ["usage"], ["usage", "norms", "pairs"])


def _u_shape(models: Sequence[Inspection], charts: Mapping[str, Chart]) -> list[Block]:
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
    blocks += _absent(models, ["logit_by_pair", "pairs"], lambda m: m.measured("logit_by_pair") is None)
    return blocks


def _rise_table(models: Sequence[Inspection]) -> Table | None:
    lines = []
    for m in models:
        for protocol, words in PROTOCOLS.items():
            u = m.summary.u_shape.on(protocol)
            if u is None:
                continue
            pairs = u.activated.pairs if u.activated is not None else ()
            cells = [
                "yes" if u.appears else "no",
                with_spread(u.rise, u.stderr),
                number(u.near),
                f"{pairs[0]}–{pairs[-1]}" if len(pairs) > 1 else "".join(map(str, pairs)) or DASH,
                _percent(u.activated.share) if u.activated is not None else DASH,
                f"{u.activated.removed_by_hope} of {len(pairs)}" if u.activated is not None else DASH,
            ]
            of = (m.name, words) if len(models) > 1 else (capital(words), "")
            lines.append(Row([of, *((cell, "") for cell in cells)]))
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


def _attention(models: Sequence[Inspection], charts: Mapping[str, Chart]) -> list[Block]:
    said = (
        "What the softmax makes of the logits: the attention paid at each distance, how widely each query spreads it, "
        "and how much falls on the first token."
    )
    return _section(
        "Attention", said, models, charts, ["attention", "positions"], ["attention", "entropy", "first_token"]
    )


def _heads(models: Sequence[Inspection], charts: Mapping[str, Chart]) -> list[Block]:
    said = (
        "A positional head pays most of its attention to one distance, or to the first token, whatever the tokens are: "
        "it should do so on random tokens too. Its pairs are those that carry 80 % of the margin of that logit; the "
        "bound is that of Cauchy and Schwarz, |q||k|, and 1 is at the bound."
    )
    blocks = _section("Positional heads", said, models, charts, ["heads"], ["heads", "attention"])
    for m in models:
        if not m.summary.heads:
            continue
        ordered = sorted(m.summary.heads, key=lambda head: -head.text)
        left = f", the first {MOST_ROWS} of {len(ordered)}" if len(ordered) > MOST_ROWS else ""
        whose = f" of {m.name}" if len(models) > 1 else ""
        heads = [
            ("head", ""), ("kind", ""), ("attention there", "on the text"), ("attention there", "random tokens"),
            ("pairs", "that carry it"), ("fastest quarter", "of the margin"), ("bound", ""),
        ]  # fmt: skip
        table = [Row(_head_cells(head)) for head in ordered[:MOST_ROWS]]
        blocks.append(Table(f"The positional heads{whose}, by their attention{left}.", heads, table))
    return blocks


def _head_cells(head: Head) -> list[tuple[str, str]]:
    pairs = [str(pair) for pair in head.pairs]
    some = f"{', '.join(pairs[:6])} and {len(pairs) - 6} more" if len(pairs) > 7 else ", ".join(pairs)
    return [
        (f"layer {head.layer}, head {head.head}", ""),
        (head.kind, f"{head.offset} tokens back" if head.kind == "offset" else ""),
        (_percent(head.text), ""),
        (_percent(head.random), ""),
        (some or DASH, ""),
        (_percent(head.fast_share), ""),
        (number(head.bound), ""),
    ]


def _out_of_range(models: Sequence[Inspection], charts: Mapping[str, Chart]) -> list[Block]:
    said = (
        "Past the training length a pair meets angles that training never showed it. The departure is how far its "
        "logits then lie from those in range."
    )
    names = ["departure", "departure-pairs"]
    blocks = _section("Out of range", said, models, charts, names, ["out_of_range", "departure"])
    for m in models:
        section = m.summary.out_of_range
        if section is None or not section.pairs:
            continue
        whose = f" of {m.name}" if len(models) > 1 else ""
        table = []
        for row in section.pairs:
            wave = DASH if row.wavelength is None else tokens(row.wavelength)
            cells = [f"layer {row.layer}, pair {row.pair}", wave, *map(number, row.departure)]
            table.append(Row([(cell, "") for cell in cells]))
        heads = [("pair", ""), ("wavelength", "tokens"), *((f"{x:g}x", "") for x in section.multiples)]
        blocks.append(Table(f"The pairs{whose} that depart most, in standard deviations.", heads, table))
    return blocks


def _ablation(models: Sequence[Inspection], charts: Mapping[str, Chart]) -> list[Block]:
    said = (
        "What the slow pairs' rotation is worth to this model: the loss on the same windows when pairs from a cut on "
        "are made position-independent, as HoPE does, though here without training."
    )
    return _section("Ablation", said, models, charts, ["ablation"], ["ablation"])


def _spectrum(models: Sequence[Inspection], charts: Mapping[str, Chart]) -> list[Block]:
    said = "The wavelength of a pair is the distance in tokens at which it has made one full turn."
    blocks = _section("Spectrum", said, models, charts, ["spectrum"], ["spectrum", "pairs"])
    table = []
    for m in models:
        section = m.summary.spectrum
        groups: dict[LayerSpectrum, list[int]] = {}
        for row in section.layers:
            groups.setdefault(replace(row, layer=0), []).append(row.layer)
        for row, layers in groups.items():
            name = m.name if len(groups) == 1 else f"{m.name}, layers {_listed(layers)}"
            base = DASH if section.base is None else f"{section.base:,.10g}"
            counts = (row.pairs, row.turning, row.never_full, row.hope_cut, row.p_rope_cut, row.amplitude)
            cells = [name, base, str(m.summary.model.head_dim), _text(section.layout), *(f"{n:,.4g}" for n in counts)]
            table.append(Row([(cell, "") for cell in cells]))
    if table:
        length = f"{models[0].train_length:,} tokens"
        heads = [
            ("model", ""), ("base", ""), ("head dim", ""), ("layout", ""), ("pairs", ""), ("turning", ""),
            ("never turn fully", f"within {length}" if len(models) == 1 else "within training"),
            ("HoPE", "keeps"), ("p-RoPE 0.75", "keeps"), ("amplitude", ""),
        ]  # fmt: skip
        blocks.append(Table("The rotation of the pairs.", heads, table))
    return blocks


def _divergence(models: Sequence[Inspection], charts: Mapping[str, Chart]) -> list[Block]:
    if "divergence" not in charts and not any("divergence" in m.summary.absent for m in models):
        return []
    said = "How much attention over relative key positions changes with the length of the text, or from model to model."
    return _section("Divergence", said, models, charts, ["divergence"], ["divergence"])


def _training(charts: Mapping[str, Chart]) -> list[Block]:
    shown = [charts[name] for name in ("training", "training-pairs") if name in charts]
    return [Heading("Training"), *map(Figure, shown)] if shown else []


def _section(
    title: str,
    said: str,
    models: Sequence[Inspection],
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


def _absent(
    models: Sequence[Inspection], sections: Sequence[str], missing: Callable[[Inspection], bool]
) -> list[Block]:
    """One remark for each reason, with the names of the models where there are two."""
    reasons: dict[str, list[str]] = {}
    for m in models:
        if missing(m):
            reasons.setdefault(_why(m, sections), []).append(m.name)
    several = len(models) > 1
    return [Paragraph(f"{listing(names)}: {why}" if several else why, "note") for why, names in reasons.items()]


def _why(m: Inspection, sections: Sequence[str]) -> str:
    """Why there is nothing to show of a section, in a sentence."""
    told = next((m.summary.absent[section] for section in sections if section in m.summary.absent), "Not measured")
    return told if told.endswith((".", "!", "?")) else f"{capital(told)}."


# The frame


def _settings(results: Sequence[Inspection], models: Sequence[Inspection]) -> Details:
    """models: the results by the names that tell them apart."""
    groups: dict[str, Mapping[str, Any]] = {}
    for result, m in zip(results, models, strict=True):
        whose = f", {m.name}" if len(models) > 1 else ""
        for name, group in (
            ("Model", as_json(result.summary.model)),
            ("Settings", as_json(m.summary.settings)),
            ("Machine", m.summary.machine),
            ("Versions", m.summary.versions),
            ("Time", {key: duration(seconds) for key, seconds in m.summary.seconds.items()}),
            ("Not shown", m.summary.absent),
        ):
            if group:
                groups[f"{name}{whose}"] = {key: _text(value) for key, value in group.items()}
    return Details("Settings, machine and versions", groups)


def _title(models: Sequence[Inspection]) -> str:
    names = listing([m.name for m in models])
    return f"How {names} use{'s' if len(models) == 1 else ''} positions"


def _subtitle(models: Sequence[Inspection]) -> str:
    settings = models[0].summary.settings
    read = f"Read on {settings.text}, at" if settings.text else "Read at"
    count = f"{settings.windows} window{'' if settings.windows == 1 else 's'}"
    return f"{read} up to {settings.length:,} tokens, trained at {settings.train_length:,}, {count}."


def _facts(models: Sequence[Inspection]) -> list[tuple[str, str]]:
    facts = []
    for m in models:
        model = m.summary.model
        shape = [f"{model.layers} layers", f"{model.heads} heads"]
        if model.key_heads != model.heads:
            shape.append(f"{model.key_heads} key heads")
        shape.append(f"head dim {model.head_dim}")
        kind = [model.type, model.encoding, f"{compact(model.parameters)} parameters"]
        facts.append((m.name if len(models) > 1 else "Model", " · ".join([*kind, ", ".join(shape)])))
    machine, created = models[0].summary.machine, models[0].summary.created
    facts.append(("Device", str(machine.get("device") or machine.get("cpu") or "")))
    facts.append(("Created", created[:16].replace("T", " ")))
    return [(name, value) for name, value in facts if value]


def _footer(models: Sequence[Inspection]) -> str:
    version = models[0].summary.whorl
    return f"Written by whorl {version}, from inspection.json and inspection.npz beside this report."


def _percent(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:.0f} %"


def _listed(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers)) if len(layers) <= 6 else f"{layers[0]}, {layers[1]}, … {layers[-1]}"


def _text(value: Any) -> str:
    return DASH if value is None else str(value)
