"""The report of a comparison: from its results to report.md, report.html and figures/*.png."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from whorl.files import write_atomically
from whorl.reports import html, markdown
from whorl.reports.comparison import charts
from whorl.reports.comparison.levels import Level, level
from whorl.reports.comparison.words import Findings, findings, partial_notice, pretrained_notice, turning_in_words
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
    plural,
    ratio,
    with_spread,
)
from whorl.results.comparison import Comparison
from whorl.results.over_seeds import Encoding, Metric
from whorl.results.schema import as_json
from whorl.results.training import Step
from whorl.results.trial import Trial
from whorl.tasks import get, of_evaluation


def write(results: Comparison, out: Path, training_curves: Mapping[str, Sequence[Step]] | None = None) -> list[Path]:
    """Writes `out/report.md`, `out/report.html` and `out/figures/*.png`, each in one step, and returns their paths.

    Trials may be missing (the report then says that it is partial), a length may be unreachable, and a value may be not
    finite. training_curves: by trial id.
    """
    from whorl.reports.png import png

    document = build(results, training_curves or {})
    images = {name: image for chart in document.charts for name, image in png(chart).items()}
    written = [write_atomically(out / "figures" / name, image) for name, image in images.items()]
    written.append(write_atomically(out / "report.md", markdown.render(document)))
    written.append(write_atomically(out / "report.html", html.render(document)))
    return written


def build(c: Comparison, curves: Mapping[str, Sequence[Step]]) -> Document:
    """The document: findings first, then figures and tables of each evaluation, then how it was made."""
    blocks: list[Block] = []
    if (notice := partial_notice(c)) is not None:
        blocks.append(Paragraph(notice, "notice"))
    if c.pretrained is not None:
        blocks.append(Paragraph(pretrained_notice(c), "notice"))
    said = findings(c)
    for kind in c.evaluations:
        blocks += _evaluation(c, kind, said[kind])
    caveats = dict.fromkeys(text for found in said.values() for text in found.caveats)
    if caveats:
        blocks += [Heading("What these numbers do not show"), Bullets([Bullet(text) for text in caveats])]
    blocks += _how_they_turn(c)
    blocks += _training(c, curves)
    blocks.append(_settings(c))
    return Document(_title(c), _subtitle(c), _facts(c), blocks, _footer(c))


def _evaluation(c: Comparison, kind: str, found: Findings) -> list[Block]:
    task = of_evaluation(kind)
    name = task.words().measure
    chart = charts.by_length(c, kind, f"{name} against length", _chart_caption(c, kind))
    blocks: list[Block] = [Heading("Findings" if len(c.evaluations) == 1 else f"{name}: findings")]
    blocks += [Paragraph(text, "lead") for text in found.lead]
    blocks += [Paragraph(found.rule, "note")] if found.rule else []
    blocks.append(Bullets([Bullet(text, encoding.name, encoding.index) for encoding, text in found.bullets]))
    blocks += [Paragraph(found.reading, "note")] if found.reading else []
    blocks += [Figure(chart)] if chart is not None else []
    blocks += [_table(c, metric) for metric in task.measured()]
    return blocks


def _chart_caption(c: Comparison, kind: str) -> str:
    task = of_evaluation(kind)
    said = [task.words().caption.format(config=c.config)]
    if len(c.seeds) > 1:
        said.append("Bands are one standard deviation over seeds, thin lines single seeds.")
    found = level(c, task.measured()[0], c.reference(kind))
    return " ".join([*said, f"The dotted line is {found.meaning}."] if found is not None else said)


def _table(c: Comparison, metric: Metric) -> Table:
    """A row per encoding, a column per length: mean ± spread, and for perplexity the ratio to in-range."""
    lengths, reference = c.lengths(metric.evaluation), c.reference(metric.evaluation)
    spread = ", ± one standard deviation over seeds" if len(c.seeds) > 1 else ""
    against = f"; in small print, how many times the value at {reference:,}" if reference and not metric.share else ""
    levels = [level(c, metric, n) for n in lengths]
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
        + _levels_row(levels),
    )


def _levels_row(levels: Sequence[Level | None]) -> list[Row]:
    """What a model has that has learnt nothing, where that is known."""
    known = [one for one in levels if one is not None]
    shown = [(DASH if one is None else one.shown, "") for one in levels]
    return [Row([(known[0].name, ""), (DASH, ""), *shown])] if known else []


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
    held = e.ratio(metric, length, reference) if length != reference and not metric.share else None
    if held is not None and held.finite:
        small.append(ratio(held.mean))
    if cell.diverged and cell.finite:
        small.append(f"{len(cell.diverged)} of {len(cell.values)} diverged")
    return with_spread(cell.mean, cell.spread, metric.share), ", ".join(small)


def _how_they_turn(c: Comparison) -> list[Block]:
    chart = charts.pairs_turning(c)
    return [] if chart is None else [Heading("Pairs"), Figure(chart)]


def _training(c: Comparison, curves: Mapping[str, Sequence[Step]]) -> list[Block]:
    if not c.encodings:
        return []
    chart = charts.training_curves(c, curves)
    rows = []
    for e in c.encodings:
        speed, loss, seconds = (e.training("tokens_per_second"), e.training("loss"), e.training("seconds"))
        cells = [
            (e.name, ""),
            (", ".join(str(trial.seed) for trial in e.trials), ""),
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
    groups = {name.capitalize(): as_json(getattr(c, name)) for name in ("config", "machine", "versions")}
    groups["Trials"] = {trial.id: f"{_name(trial)}, seed {trial.seed}" for e in c.encodings for trial in e.trials}
    return Details("Settings, machine and versions", {name: group for name, group in groups.items() if group})


def _name(trial: Trial) -> str:
    parameters = ", ".join(f"{key}={value}" for key, value in trial.parameters.items())
    return f"{trial.notation} ({parameters})" if parameters else trial.notation


def _title(c: Comparison) -> str:
    count = len(c.encodings)
    if not count:
        return "A comparison of positional encodings"
    far = any(c.far(kind) for kind in c.evaluations)
    return f"{capital(plural(count, 'positional encoding'))}{' past the training length' if far else ''}"


def _subtitle(c: Comparison) -> str:
    task = get(c.config.task)
    longest = max((n for kind in c.evaluations for n in c.lengths(kind)), default=None)
    parts = [task.title + (f" on {c.config.text}" if "text" in task.options else "")]
    parts.append(f"trained at {c.train_length:,} tokens")
    if longest is not None:
        parts.append(f"evaluated at up to {longest:,}")
    return ", ".join(parts) + ". Only the encoding differs between the trials."


def _facts(c: Comparison) -> list[tuple[str, str]]:
    config, machine = c.config, c.machine
    chip = machine.cpu if machine.device == "cpu" else None
    cores = f"{machine.cores} cores" if machine.cores else None
    return [
        ("Model", f"{config.model} · {compact(config.parameters)} parameters"),
        ("Budget", f"{compact(config.tokens)} tokens a trial{_epochs(c)}"),
        ("Seeds", ", ".join(map(str, c.seeds or config.seeds))),
        ("Device", ", ".join(part for part in (machine.device, chip, cores) if part)),
        ("Created", c.created[:16].replace("T", " ")),
    ]


def _epochs(c: Comparison) -> str:
    return f", {c.epochs:.2g} epochs of the text" if c.epochs is not None and c.epochs > 1 else ""


def _footer(c: Comparison) -> str:
    return f"Written by whorl {c.whorl}, from results.json beside this report."


def head(results: Comparison) -> str:
    """The head of the report, for a notebook."""
    return html.head(build(results, {}))
