"""What committed comparisons say of an encoding past its training length."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from whorl import tasks
from whorl.comparison.planning import THEN
from whorl.encodings import Layers, Sum, parse
from whorl.files import read_json
from whorl.results.comparison import Comparison
from whorl.results.over_seeds import Cell, Encoding, Metric

GUIDES = ("extend", "randomized", "theory")
TIMES = (1, 4, 16)  # training lengths that are told; where there is none past the first, the longest
BESIDE = ("rope", "axial-rope")
TASK = {"language": "text", "mlm": "masked tokens of an encoder"}


def comparisons(experiments: Path) -> list[tuple[Path, Comparison]]:
    """(folder, comparison) of each that is committed, in the order of the studies."""
    found = []
    for path in sorted(experiments.glob("*/**/results*.json")):
        if "trials" in (there := read_json(path)):
            found.append((path.parent, Comparison.from_json(there, str(path))))
    return found


@dataclass
class _Line:
    """What comparisons of the same trials say of the encodings `own`. `also`: where less of the same was measured."""

    setting: tuple[str, int]  # the task, and the training length
    own: frozenset[str]
    seeds: int
    words: str
    links: list[str] = field(default_factory=list)
    also: list[str] = field(default_factory=list)

    def has_all_of(self, other: _Line) -> bool:
        return self.setting == other.setting and self.own >= other.own and self.seeds >= other.seeds


def told(name: str, found: list[tuple[Path, Comparison]], experiments: Path) -> list[str]:
    """A line for each comparison that has it, beside rope (in images, axial-rope): at once, four and sixteen times the
    training length, or in range and at the longest that there is. Of comparisons of the same task and training length
    that with the most seeds is told, and where the others are."""
    lines: dict[str, _Line] = {}
    for folder, comparison in found:
        own = [e for e in comparison.encodings if _is_of(name, e.name)]
        if not own or max(comparison.config.lengths) <= comparison.train_length:
            continue
        own = [e for e in own if ":" not in e.name] or own  # at other arguments only where there is nothing else
        beside = [e for e in comparison.encodings if e.name in BESIDE and e not in own]
        lengths = _told(own, comparison)
        seeds = max(len(e.trials) for e in own)
        rows = "; ".join(_row(e, comparison, lengths, seeds) for e in own)
        others = "".join(f" ({_row(e, comparison, lengths, seeds)})" for e in beside)
        study, task = folder.relative_to(experiments).as_posix(), comparison.config.task
        page = "report.md" if (folder / "report.md").exists() else "README.md"
        trained = f"{comparison.train_length:,} {comparison.unit}"
        words = (
            f"{TASK.get(task, task)}, trained at {trained} ({seeds} seed{'s' * (seeds > 1)}), "
            f"{_metric(comparison).label} at {', '.join(f'{n:,}' for n in lengths)}: {rows}{others}"
        )
        names = frozenset(e.name for e in own)
        line = lines.setdefault(words, _Line((task, comparison.train_length), names, seeds, words))
        line.links.append(f"[{study}](../../experiments/{study}/{page})")
    kept: list[_Line] = []
    for line in sorted(lines.values(), key=lambda line: (line.seeds, len(line.own)), reverse=True):
        fuller = next((other for other in kept if other.has_all_of(line)), None)
        if fuller is None:
            kept.append(line)
        else:
            fuller.also += line.links
    return [
        " ".join([line.words, *line.links, *([f"(also in {', '.join(line.also)})"] if line.also else [])])
        for line in lines.values()
        if line in kept
    ]


def mentioned(name: str, spelled: str, docs: Path, experiments: Path) -> tuple[list[str], list[str]]:
    """Links to the guides and studies that name it: those with a row of a table for it, and the others.

    spelled: its name as papers write it.
    """
    notation = rf"`(?:[^`]*[+/])?{re.escape(name)}(?:[:+/~][^`]*)?`"
    named = re.compile(rf"{notation}|(?<![\w-]){re.escape(spelled)}(?![\w-])")
    row = re.compile(rf"^\| [*]*`{re.escape(name)}(?:[:+/][^`]*)?`", re.MULTILINE)
    rows: list[str] = []
    others: list[str] = []
    for page in [*(docs / f"{page}.md" for page in GUIDES), *sorted(experiments.glob("*/README.md"))]:
        text = page.read_text(encoding="utf-8")
        if named.search(text):
            link = f"[{page.stem}](../{page.name})"
            if page.parent != docs:
                link = f"[{page.parent.name}](../../experiments/{page.parent.name}/README.md)"
            (rows if row.search(text) else others).append(link)
    return rows, others


def _is_of(name: str, notation: str) -> bool:
    """Whether a notation is of this encoding, alone or in a sum, at its usual arguments. One that was trained and then
    read under another is of neither."""
    if THEN in notation:
        return False
    encoding = parse(notation)
    if isinstance(encoding, Layers):
        return False
    parts = encoding.parts if isinstance(encoding, Sum) else (encoding,)
    own = [part for part in parts if part.name == name]
    return bool(own) and (len(parts) == 1 or "rotate" not in own[0].kinds)


def _told(encodings: list[Encoding], comparison: Comparison) -> list[int]:
    """The lengths of which values are told."""
    at = comparison.train_length
    told = [n * at for n in TIMES if _has(encodings, comparison, n * at)]
    longest = max((n for n in comparison.config.lengths if _has(encodings, comparison, n)), default=at)
    return told if max(told, default=at) > at or longest <= at else [*told, longest]


def _has(encodings: list[Encoding], comparison: Comparison, length: int) -> bool:
    cells = (e.cell(_metric(comparison), length) for e in encodings)
    return any(cell is not None and cell.mean is not None for cell in cells)


def _row(encoding: Encoding, comparison: Comparison, lengths: list[int], seeds: int) -> str:
    """seeds: as many as are told of all, where it has no others."""
    cells = (encoding.cell(_metric(comparison), length) for length in lengths)
    own = len(encoding.trials)
    other = "" if own == seeds else f" ({own} seed{'s' * (own > 1)})"
    return f"`{encoding.name}`{other} {', '.join(_shown(cell, _metric(comparison)) for cell in cells)}"


def _shown(cell: Cell | None, metric: Metric) -> str:
    if cell is None or cell.mean is None:
        return "none"
    if not math.isfinite(cell.mean):
        return "diverged"
    value = f"{100 * cell.mean:.1f} %" if metric.share else f"{cell.mean:.1f}"
    return f"{value} ({cell.divergence})" if cell.divergence else value


def _metric(comparison: Comparison) -> Metric:
    """The telling one of its task."""
    return tasks.parse(comparison.config.task)[0].measured()[0]
