"""The report of a comparison: from its results to report.md, report.html and figures/*.png."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from whorl.files import write_atomically
from whorl.reports import charts, html, markdown
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
from whorl.reports.formatting import (
    DASH,
    capital,
    compact,
    duration,
    multiple,
    number,
    plural,
    ratio,
    with_spread,
)
from whorl.reports.png import png
from whorl.reports.summary import Comparison, Encoding, Metric, metrics_of, summarize, turning_in_words
from whorl.reports.words import Findings, findings, partial_notice, pretrained_notice

TASKS = {"language": "Language modelling", "copy": "Copying a segment", "recall": "Recalling values by their keys"}


def write(
    results: dict[str, Any], out: Path, training_curves: dict[str, list[dict[str, Any]]] | None = None
) -> list[Path]:
    """Writes `out/report.md`, `out/report.html` and `out/figures/*.png`, each in one step, and returns their paths.

    results: as in results.json. Trials may be missing (the report then says that it is partial), a length may be
        `unreachable`, and a value may be None or not finite. `wavelengths` with one entry per pair, None where the
        pair stands still, tells which pairs turn; a shorter list is taken as the first pairs.
    training_curves: trial id -> rows with `tokens` seen and `loss` in nats per token.
    """
    document = build(summarize(results), training_curves or {})
    images = {name: image for chart in document.charts for name, image in png(chart).items()}
    written = [write_atomically(out / "figures" / name, image) for name, image in images.items()]
    written.append(write_atomically(out / "report.md", markdown.render(document)))
    written.append(write_atomically(out / "report.html", html.render(document)))
    return written


def build(c: Comparison, curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Document:
    """The document: findings first, then figures and tables of each evaluation, then how it was made."""
    blocks: list[Block] = []
    if (notice := partial_notice(c)) is not None:
        blocks.append(Paragraph(notice, "notice"))
    if c.pretrained is not None:
        blocks.append(Paragraph(pretrained_notice(c), "notice"))
    said = findings(c)
    for kind in c.kinds:
        blocks += _evaluation(c, kind, said[kind])
    caveats = dict.fromkeys(text for found in said.values() for text in found.caveats)
    if caveats:
        blocks += [Heading("What these numbers do not show"), Bullets([Bullet(text) for text in caveats])]
    blocks += _how_they_turn(c)
    blocks += _training(c, curves)
    blocks.append(_settings(c))
    return Document(_title(c), _subtitle(c), _facts(c), blocks, _footer(c))


def _evaluation(c: Comparison, kind: str, found: Findings) -> list[Block]:
    first, second = metrics_of(kind)
    name = "Perplexity" if kind == "perplexity" else f"{capital(kind)} accuracy"
    chart = charts.by_length(c, kind, f"{name} against length", _chart_caption(c, kind))
    blocks: list[Block] = [Heading("Findings" if len(c.kinds) == 1 else f"{name}: findings")]
    blocks += [Paragraph(text, "lead") for text in found.lead]
    blocks += [Paragraph(found.rule, "note")] if found.rule else []
    blocks.append(Bullets([Bullet(text, encoding.name, encoding.index) for encoding, text in found.bullets]))
    blocks += [Paragraph(found.reading, "note")] if found.reading else []
    blocks += [Figure(chart)] if chart is not None else []
    blocks += [_table(c, metric) for metric in (first, second)]
    return blocks


def _chart_caption(c: Comparison, kind: str) -> str:
    spread = " Bands are one standard deviation over seeds, thin lines single seeds." if len(c.seeds) > 1 else ""
    if kind == "perplexity":
        tail = c.config.get("tail")
        level = c.unigram(metrics_of(kind)[0], c.reference(kind) or 0)
        if level is not None:
            spread += " The dotted line is a model that knows how often each token occurs and nothing else."
        return (
            f"Tail: the same last {tail or ''} tokens of every window, with more context before them. Mean: all tokens "
            f"of the window.{spread}"
        ).replace("  ", " ")
    return f"The share of tokens that are right, and of sequences that are right as a whole.{spread}"


def _table(c: Comparison, metric: Metric) -> Table:
    """A row per encoding, a column per length: mean ± spread, and for perplexity the ratio to in-range."""
    lengths, reference = c.lengths(metric.kind), c.reference(metric.kind)
    spread = ", ± one standard deviation over seeds" if len(c.seeds) > 1 else ""
    against = f"; in small print, how many times the value at {reference:,}" if reference and not metric.percent else ""
    unigrams = [c.unigram(metric, n) for n in lengths]
    return Table(
        f"{capital(metric.label)} by length in tokens{spread}{against}.",
        [("encoding", ""), ("pairs turning", ""), *((f"{n:,}", multiple(n, c.train_length)) for n in lengths)],
        [
            Row(
                [(e.name, ""), _turning(e), *(_value(e, metric, n, reference) for n in lengths)],
                e.index,
            )
            for e in c.encodings
        ]
        + ([Row([("a unigram model", ""), (DASH, ""), *((number(u), "") for u in unigrams)])] if any(unigrams) else []),
    )


def _turning(e: Encoding) -> tuple[str, str]:
    """`11, 0 of 32` and, in small print, `layers in turn`."""
    text, _, small = turning_in_words(e).partition(" (")
    return text, small.removesuffix(")")


def _value(e: Encoding, metric: Metric, length: int, reference: int | None) -> tuple[str, str]:
    cell = e.cell(metric, length)
    if cell is None:
        return DASH, ""
    if cell.unreachable:
        return "cannot reach", ""
    small = []
    held = e.ratio(metric, length, reference) if length != reference and not metric.percent else None
    if held is not None and held.finite:
        small.append(ratio(held.mean))
    if cell.diverged and cell.finite:
        small.append(f"{len(cell.diverged)} of {len(cell.values)} diverged")
    return with_spread(cell.mean, cell.spread, metric.percent), ", ".join(small)


def _how_they_turn(c: Comparison) -> list[Block]:
    chart = charts.pairs_turning(c)
    return [] if chart is None else [Heading("Pairs"), Figure(chart)]


def _training(c: Comparison, curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Block]:
    if not c.encodings:
        return []
    chart = charts.training_curves(c, curves)
    rows = []
    for e in c.encodings:
        speed, loss, seconds = (e.training(key) for key in ("tokens_per_second", "loss", "seconds"))
        cells = [
            (e.name, ""),
            (", ".join(str(trial["seed"]) for trial in e.trials), ""),
            (compact(e.training("tokens").mean), ""),
            (with_spread(loss.mean, loss.spread), ""),
            (with_spread(speed.mean, speed.spread), ""),
            (duration(seconds.mean), ""),
        ]
        rows.append(Row(cells, e.index))
    heads = ["encoding", "seeds", "tokens", "final loss", "tokens per second", "time"]
    spread = ", mean ± standard deviation over seeds" if len(c.seeds) > 1 else ""
    table = Table(f"Training, per trial{spread}.", [(head, "") for head in heads], rows)
    return [Heading("Training"), *([Figure(chart)] if chart is not None else []), table]


def _settings(c: Comparison) -> Details:
    groups = {name.capitalize(): dict(c.results.get(name) or {}) for name in ("config", "machine", "versions")}
    groups["Trials"] = {str(trial["id"]): f"{_name(c, trial)}, seed {trial['seed']}" for trial in c.trials}
    return Details("Settings, machine and versions", {name: group for name, group in groups.items() if group})


def _name(c: Comparison, trial: Mapping[str, Any]) -> str:
    name = trial.get("notation") or trial["encoding"]
    parameters = ", ".join(f"{key}={value}" for key, value in (trial.get("parameters") or {}).items())
    return f"{name} ({parameters})" if parameters else str(name)


def _title(c: Comparison) -> str:
    count = len(c.encodings)
    if not count:
        return "A comparison of positional encodings"
    far = any(c.far(kind) for kind in c.kinds)
    return f"{capital(plural(count, 'positional encoding'))}{' past the training length' if far else ''}"


def _subtitle(c: Comparison) -> str:
    task = c.config.get("task")
    longest = max((n for kind in c.kinds for n in c.lengths(kind)), default=None)
    parts = [TASKS.get(str(task), str(task))] if task else []
    if task == "language" and c.config.get("text"):
        parts[0] += f" on {c.config['text']}"
    parts.append(f"trained at {c.train_length:,} tokens")
    if longest is not None:
        parts.append(f"evaluated at up to {longest:,}")
    return ", ".join(parts) + ". Only the encoding differs between the trials."


def _facts(c: Comparison) -> list[tuple[str, str]]:
    config, machine = c.config, c.results.get("machine") or {}
    parameters = config.get("parameters")
    model = " · ".join(
        filter(None, [str(config.get("model") or ""), f"{compact(parameters)} parameters" if parameters else ""])
    )
    device = machine.get("device")
    chip = machine.get("cpu") if device in (None, "cpu") else None
    cores = f"{machine['cores']} cores" if machine.get("cores") else None
    facts = [
        ("Model", model),
        ("Budget", f"{compact(config['tokens'])} tokens a trial{_epochs(c)}" if config.get("tokens") else ""),
        ("Seeds", ", ".join(map(str, c.seeds or config.get("seeds") or []))),
        ("Device", ", ".join(str(part) for part in (device, chip, cores) if part)),
        ("Created", str(c.results.get("created") or "")[:16].replace("T", " ")),
    ]
    return [(name, value) for name, value in facts if value]


def _epochs(c: Comparison) -> str:
    return f", {c.epochs:.2g} epochs of the text" if c.epochs is not None and c.epochs > 1 else ""


def _footer(c: Comparison) -> str:
    return f"Written by whorl {c.results.get('whorl') or ''}".strip() + ", from results.json beside this report."
