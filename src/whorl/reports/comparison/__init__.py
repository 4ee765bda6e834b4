"""The report of a comparison: from its results to report.md, report.html and figures/*.png.

by_length.py, pairs.py, rates.py and training.py are its sections, each with its charts and tables; words.py says what
the numbers show, of shares of right answers in shares.py.
"""

from pathlib import Path

from whorl.reports import html, writing
from whorl.reports.comparison import by_length, pairs, rates, training
from whorl.reports.comparison.sentences import counted, uneven
from whorl.reports.comparison.words import (
    differing_notice,
    failed_notice,
    findings,
    partial_notice,
    pretrained_notice,
    unlearnt,
)
from whorl.reports.document import Block, Bullet, Bullets, Details, Document, Heading, Paragraph
from whorl.reports.formatting import capital, compact, plural, setting
from whorl.results.comparison import Comparison
from whorl.results.schema import as_json
from whorl.results.trial import Trial
from whorl.tasks import of_evaluation, parse

__all__ = ["build", "head", "uneven", "unlearnt", "write"]


def write(results: Comparison, out: Path) -> list[Path]:
    """Writes `out/report.md`, `out/report.html` and `out/figures/*.png`, each in one step, and returns their paths.

    Trials may be missing (the report then says that it is partial), a length may be unreachable, and a value may be not
    finite.
    """
    return writing.write(build(results), out)


def build(c: Comparison) -> Document:
    """The document: findings first, then figures and tables of each evaluation, then how it was made."""
    blocks: list[Block] = []
    for notice in (partial_notice(c), failed_notice(c), uneven(c), differing_notice(c)):
        if notice is not None:
            blocks.append(Paragraph(notice, "notice"))
    if c.pretrained is not None:
        blocks.append(Paragraph(pretrained_notice(c), "notice"))
    said = findings(c)
    for kind in c.evaluations:
        blocks += by_length.blocks(c, kind, said[kind])
    caveats = dict.fromkeys(text for found in said.values() for text in found.caveats)
    if caveats:
        blocks += [Heading("What these numbers do not show"), Bullets([Bullet(text) for text in caveats])]
    blocks += pairs.blocks(c)
    blocks += rates.blocks(c)
    blocks += training.blocks(c)
    blocks.append(_settings(c))
    return Document(_title(c), _subtitle(c), _facts(c), blocks, _footer(c))


def _settings(c: Comparison) -> Details:
    groups = {name.capitalize(): as_json(getattr(c, name)) for name in ("config", "machine", "versions")}
    groups["Trials"] = {trial.id: f"{_name(trial)}, seed {trial.seed}" for e in c.encodings for trial in e.trials}
    told = {name: {key: setting(value) for key, value in group.items()} for name, group in groups.items() if group}
    return Details("Settings, machine and versions", told)


def _name(trial: Trial) -> str:
    parameters = ", ".join(f"{key}={value}" for key, value in trial.parameters.items())
    return f"{trial.notation} ({parameters})" if parameters else trial.notation


def _title(c: Comparison) -> str:
    count = len(c.encodings)
    if not count:
        return "A comparison of positional encodings"
    far = [of_evaluation(kind).words().beyond for kind in c.evaluations if c.far(kind)]
    return " ".join([capital(plural(count, "positional encoding")), *far[:1]])


def _subtitle(c: Comparison) -> str:
    task, arguments = parse(c.config.task)
    longest = max((n for kind in c.evaluations for n in c.lengths(kind)), default=None)
    told = f" on {c.config.text}" if "text" in task.options else f" ({c.config.task})" if arguments else ""
    mixed = f", mixed with {' and '.join(c.config.mix)} of the sequences" if c.config.mix else ""
    parts = [
        task.title + told + mixed,
        f"trained at {'' if c.unit == 'tokens' or c.config.data.one_length else 'up to '}{c.train_length:,} {c.unit}",
    ]
    if longest is not None:
        parts.append(f"evaluated at up to {longest:,}")
    return ", ".join(parts) + ". Only the encoding differs between the trials."


def _facts(c: Comparison) -> list[tuple[str, str]]:
    config, machine = c.config, c.machine
    chip = machine.cpu if machine.device == "cpu" else None
    cores = f"{machine.cores} core{'s' * (machine.cores > 1)}" if machine.cores else None
    return [
        ("Model", f"{config.model} · {compact(config.parameters)} parameters"),
        ("Budget", f"{compact(config.tokens)} {counted(c)} a trial{_epochs(c)}"),
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
    return html.head(build(results))
