"""What committed results say for or against a claim: a verdict, and the numbers with a link to where they are.

Nothing here is decided by hand. A difference is one where zero lies outside its 95 % interval
(`whorl.results.differences`); one seed decides nothing; what is not there is not measured yet.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Protocol

from ranking import interval, measured, overall
from studies import STUDIES

from whorl.comparison.planning import written
from whorl.reports.formatting import listing, multiple, number, percent, plural
from whorl.results.comparison import Comparison
from whorl.results.differences import Difference, difference, half_width
from whorl.results.over_seeds import Encoding, Metric

LANGUAGE = tuple(
    f"{study}/language"
    for study in ("0009-extrapolation", "0010-awareness", "0011-p-rope-table", "0013-content", "0018-gains")
)
"""Comparisons of one task, one text and one budget. They share trials, so any of them may have what is asked for."""

ITSELF = "itself in range"

ALIKE = {"ratio": math.log(1.1), "share": 0.05}
"""Two are alike where the whole interval of their difference is within a tenth of one (shares: within five points)."""

SEEDS_ALONE = ", over seeds alone"
"""Of an interval that has no part of windows: it takes the text as given, and is too narrow where windows decide."""

Says = Literal["better", "worse", "alike", "no better", "no worse"]


class Verdict(StrEnum):
    """What evidence says of a claim."""

    FOR = "holds"
    AGAINST = "does not hold"
    PARTLY = "holds in part"
    OPEN = "not resolved"
    ONE_SEED = "one seed: no claim"
    DIVERGED = "a seed diverged: not judged"
    UNLEARNT = "not learnt in range: nothing to tell"
    MISSING = "not measured yet"


def together(verdicts: Iterable[Verdict]) -> Verdict:
    """What several say between them: a claim that holds here and of which nothing can be told there, though it was
    measured, holds in part; what is not measured takes nothing away. Where none decides, the first reason in the order
    of `Verdict`."""
    found = set(verdicts)
    if len(found & {Verdict.FOR, Verdict.AGAINST}) == 2 or Verdict.PARTLY in found:
        return Verdict.PARTLY
    if Verdict.FOR in found and found & {Verdict.OPEN, Verdict.DIVERGED, Verdict.UNLEARNT}:
        return Verdict.PARTLY
    return next((verdict for verdict in Verdict if verdict in found), Verdict.MISSING)


@dataclass(frozen=True)
class Line:
    """One piece of evidence. `words` are Markdown, with links from the root of the repository."""

    verdict: Verdict
    words: str


@dataclass(frozen=True)
class Known:
    """What is committed in the repository at `root`."""

    root: Path
    _comparisons: dict[str, Comparison | None] = field(default_factory=dict, compare=False)

    def comparison(self, part: str) -> Comparison | None:
        """That of the folder, or the file, `experiments/PART`; None where it is not there yet."""
        if part not in self._comparisons:
            place = self.root / "experiments" / part
            path = place if place.suffix == ".json" else place / "results.json"
            self._comparisons[part] = Comparison.read(path) if path.exists() else None
        return self._comparisons[part]

    def read(self, path: str) -> Any:
        """A JSON file, or the rows of a CSV file, by its path from the root; None where it is not there."""
        place = self.root / path
        if not place.exists():
            return None
        text = place.read_text(encoding="utf-8")
        return list(csv.DictReader(text.splitlines())) if place.suffix == ".csv" else json.loads(text)


def linked(path: str) -> str:
    """To where numbers are: the report of a comparison, the page of a study, or a file of rows."""
    if not path.startswith("experiments/") or path.endswith(".md"):
        return f"[{Path(path).name}]({path})"
    study, *part = (name for name in path.removeprefix("experiments/").split("/") if not name.endswith(".json"))
    return f"[{study}](experiments/{'/'.join([study, *part, 'report.md' if part else 'README.md'])})"


def ran_on(c: Comparison, trial: str) -> str:
    """`a CPU with two cores (AMD EPYC)`, `an NVIDIA H200`: the machine of the trial with this id."""
    name = next((name for name, ids in c.differing.get("device", {}).items() if trial in ids), c.machine.device)
    if name != "cpu":
        return f"an {name}" if name.startswith("NVIDIA") else f"a {name}"
    cpu = next((name for name, ids in c.differing.get("cpu", {}).items() if trial in ids), c.machine.cpu)
    return f"a CPU with {plural(c.machine.cores, 'core')} ({cpu})" if c.machine.cpu == cpu and c.machine.cores else cpu


class Evidence(Protocol):
    """What a claim can be held against. comparisons: those that it may be read from."""

    @property
    def comparisons(self) -> tuple[str, ...]: ...

    def line(self, known: Known) -> Line: ...


@dataclass(frozen=True)
class Versus:
    """One encoding held against another of the same comparison, at multiples of the training length.

    second  or ITSELF: the first in range ("alike" then says that it reads on as in range)
    parts   the comparisons that may have both; the one with the most seeds of both is taken
    says    what the claim says that the first is
    key     of the metric, where it is not the task's first
    """

    first: str
    second: str
    parts: tuple[str, ...] = LANGUAGE
    times: tuple[float, ...] = (4, 16)
    says: Says = "better"
    key: str = ""

    @property
    def comparisons(self) -> tuple[str, ...]:
        return self.parts

    def line(self, known: Known) -> Line:
        found = [(part, c) for part in self.parts if (c := known.comparison(part)) is not None and self._in(c)]
        if not found:
            names = f"`{self.first}`" if self.second == ITSELF else f"`{self.first}` and `{self.second}`"
            return Line(Verdict.MISSING, f"{names}: {Verdict.MISSING} ({self._asked_by()})")
        part, c = max(found, key=lambda item: len(_seeds(self._pair(item[1]))))
        metric = measured(c, self.key)
        every = self._pair(c)
        pair = every if self._asks_what_was_learnt(c, metric) else tuple(learnt(c, e) for e in every)
        second = self.second if self.second == ITSELF else f"`{self.second}`"
        what = f"`{self.first}` {'less' if metric.share else 'over'} {second}, {metric.label}"
        link = linked(f"experiments/{part}")
        if not _seeds(pair):
            return Line(Verdict.UNLEARNT, f"{what}: {_who_learnt(every, pair)} ({link})")
        told = [self._at(c, metric, pair, self._length(c, times)) for times in self.times]
        verdict = together(line.verdict for line in told)
        values = ", ".join(line.words for line in told)
        alone = verdict is Verdict.ONE_SEED
        values = f"{verdict} ({values})" if alone else f"{values}; {plural(len(_seeds(pair)), 'seed')}"
        some = "" if _seeds(pair) == _seeds(every) else f", {_who_learnt(every, pair)}"
        return Line(verdict, f"{what}: {values}{some} ({link})")

    def _asks_what_was_learnt(self, c: Comparison, metric: Metric) -> bool:
        """In range and by the task's first metric, where what was not learnt is a result as well."""
        return metric == measured(c) and all(c.in_range(self._length(c, times)) for times in self.times)

    def _length(self, c: Comparison, times: float) -> int:
        return round(times * c.train_length)

    def _in(self, c: Comparison) -> bool:
        return {written(name) for name in (self.first, self.second) if name != ITSELF} <= {e.name for e in c.encodings}

    def _asked_by(self) -> str:
        """The first study that has both, and the part of it."""
        for name, study in STUDIES.items():
            for part, one in study.parts.items():
                if f"{study.folder}/{part}" in self.parts and {self.first, self.second} - {ITSELF} <= {*one.encodings}:
                    return f"study {name}, {part}"
        return "in no study so far"

    def _pair(self, c: Comparison) -> tuple[Encoding, Encoding]:
        by_name = {e.name: e for e in c.encodings}
        return by_name[written(self.first)], by_name[written(self.first if self.second == ITSELF else self.second)]

    def _at(self, c: Comparison, metric: Metric, pair: Sequence[Encoding], length: int) -> Line:
        reference = c.reference(metric.evaluation) if self.second == ITSELF else length
        where = f"at {multiple(length, c.train_length)}"
        sides = ((pair[0], length), (pair[1], reference or length))
        cells = [e.cell(metric, n) for e, n in sides]
        if lost := [cell.divergence or "diverged" for cell in cells if cell is not None and cell.diverged]:
            return Line(Verdict.DIVERGED, f"not judged {where} ({lost[0]})")
        found = difference(metric, *sides)
        if found is None:
            return Line(Verdict.MISSING, f"{Verdict.MISSING} {where}")
        if found.pairs in ("windows", "none"):  # of one seed
            return Line(Verdict.ONE_SEED, f"{_value(metric, found.mean)} {where}")
        alone = SEEDS_ALONE if found.pairs == "seeds" else ""
        ends = f"({_value(metric, found.low)} to {_value(metric, found.high)}{alone})"
        verdict = judged(metric, found, self.says)
        if found.low == found.mean == found.high == 0:
            value = cells[0].mean if cells[0] is not None else None
            return Line(verdict, f"equal on every seed {where} ({percent(value) if metric.share else number(value)})")
        told = _value(metric, found.mean) if found.resolved else self.says if verdict is Verdict.FOR else "not resolved"
        return Line(verdict, f"{told} {where} {ends}")


@dataclass(frozen=True)
class First:
    """An encoding, first over all parts of a study that ranks (see `ranking.py`). among: these alone."""

    name: str
    study: str
    among: tuple[str, ...] = ()

    @property
    def comparisons(self) -> tuple[str, ...]:
        study = STUDIES[self.study]
        return tuple(f"{study.folder}/{part}" for part in study.parts)

    def line(self, known: Known) -> Line:
        study = STUDIES[self.study]
        parts = {part: known.comparison(f"{study.folder}/{part}") for part in study.parts}
        there = {part: c for part, c in parts.items() if c is not None}
        found = overall(there, self.among)
        of = "the paper's encodings" if self.among else "all encodings"
        if self.name not in found.reciprocal:
            why = found.left_out.get(self.name, f"study {self.study}")
            return Line(Verdict.MISSING, f"`{self.name}` among {of}: {Verdict.MISSING} ({why})")
        ranks = listing([f"`{name}` {found.mean(name):.2f}" for name in found.names])
        over = f"{len(found.tasks)} of {len(study.parts)} tasks"
        words = f"mean reciprocal rank of {of} over {over}: {ranks}"
        link = linked(f"experiments/{study.folder}/ranking.md")
        others = [(name, found.ahead(self.name, name)) for name in found.names if name != self.name]
        if len(found.seeds) < 2:
            return Line(Verdict.ONE_SEED, f"{words}; {Verdict.ONE_SEED} ({link})")
        apart = ", ".join(f"less `{name}` {interval(by)}" for name, by in others if by is not None)
        each = [by_interval(by[1], by[2], "better") for _, by in others if by is not None]
        lost = Verdict.AGAINST in each
        verdict = Verdict.AGAINST if lost else Verdict.OPEN if Verdict.OPEN in each else Verdict.FOR
        return Line(verdict, f"{words}; `{self.name}` {apart}; {plural(len(found.seeds), 'seed')} ({link})")


@dataclass(frozen=True)
class Read:
    """What results that are no comparison say: `reader` makes a line of the file at `path`."""

    path: str
    reader: Callable[[Any], Line]
    comparisons: tuple[str, ...] = ()

    def line(self, known: Known) -> Line:
        found = known.read(self.path)
        if found is None:
            return Line(Verdict.MISSING, f"{Verdict.MISSING} ({self.path})")
        line = self.reader(found)
        return Line(line.verdict, f"{line.words} ({linked(self.path)})")


def judged(metric: Metric, found: Difference, says: Says) -> Verdict:
    """What the interval of a difference says of the claim that the first is this."""
    assert found.low is not None
    assert found.high is not None
    low, high = (-found.high, -found.low) if metric.lower_is_better else (found.low, found.high)
    return by_interval(low, high, says, ALIKE[metric.unit])


def by_interval(low: float, high: float, says: Says, alike: float = 0.0) -> Verdict:
    """Of an interval in which more is better."""
    holds, fails = {
        "better": (low > 0, high < 0),
        "worse": (high < 0, low > 0),
        "alike": (-alike < low and high < alike, low > alike or high < -alike),
        "no better": (high < alike, low > alike),
        "no worse": (low > -alike, high < -alike),
    }[says]
    return Verdict.FOR if holds else Verdict.AGAINST if fails else Verdict.OPEN


def over_seeds(values: Sequence[float], says: Says = "better", decimals: int = 2, alike: float = 0.0) -> Line:
    """A number that is above zero where the claim holds ("worse": below; "alike": near it), by Student's t."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return Line(Verdict.ONE_SEED, f"{mean:.{decimals}f}, {Verdict.ONE_SEED}")
    low, high = mean - half_width(values), mean + half_width(values)
    verdict = by_interval(low, high, says, alike)
    unresolved = "not resolved, " if low <= 0 <= high else ""
    ends = f"{low:z.{decimals}f} to {high:z.{decimals}f}{SEEDS_ALONE}"
    return Line(verdict, f"{unresolved}{mean:z.{decimals}f} ({ends}), {plural(len(values), 'seed')}")


def learnt(c: Comparison, e: Encoding) -> Encoding:
    """With the seeds alone that learnt the task in range, where it has right answers."""
    first = measured(c)
    return e.solving(first, c.near(first.evaluation)) if first.share else e


def _seeds(pair: Sequence[Encoding]) -> set[int]:
    return set.intersection(*({trial.seed for trial in e.trials} for e in pair))


def _who_learnt(every: Sequence[Encoding], solved: Sequence[Encoding]) -> str:
    told = {e.name: f"`{e.name}` on {len(of.trials)} of {len(e.trials)}" for e, of in zip(every, solved, strict=True)}
    return f"seeds that learnt it in range: {listing([*told.values()])}"


def _value(metric: Metric, value: float | None) -> str:
    if value is None:
        return "?"
    return f"{100 * value:+z.1f}" if metric.share else f"{math.exp(min(value, 700.0)):.2f}"
