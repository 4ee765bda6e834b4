"""Which encoding to take for a need: the best of a comparison, and those of which no difference from it is resolved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from claims import Need
from evidence import ALIKE, Known, Verdict, linked, measured

from whorl.reports.comparison.words import compared
from whorl.reports.formatting import listing, multiple, number, percent, plural
from whorl.results.comparison import Comparison
from whorl.results.differences import difference
from whorl.results.over_seeds import Encoding, Metric


@dataclass(frozen=True)
class Pick:
    """For one task. `best`: those to take, none where nothing is claimed; `words` why, as Markdown from the root."""

    task: str
    best: tuple[str, ...]
    words: str


@dataclass(frozen=True)
class Ranking:
    """The encodings of a comparison at a length, the best first.

    ranked   those with every seed that was planned, two or more, of which none failed, diverged or did not learn
    others   the rest that have a value and learnt something: no claim is made of them
    """

    comparison: Comparison
    metric: Metric
    length: int
    ranked: tuple[tuple[Encoding, float], ...]
    others: tuple[tuple[Encoding, float], ...]

    @classmethod
    def of(cls, c: Comparison, length: int, among: Sequence[str] = ()) -> Ranking:
        metric = measured(c)
        learnt = compared(c, metric)  # of a task with right answers, with the seeds alone that learnt it
        whole = {e.name for e in learnt if len(c.config.seeds) > 1 and _all_seeds(c, e, metric, length)}
        values = [(e, cell.mean) for e in learnt if (cell := e.cell(metric, length)) is not None and cell.finite]
        values = [(e, mean) for e, mean in values if mean is not None and (not among or e.name in among)]
        values.sort(key=lambda item: item[1] if metric.lower_is_better else -item[1])
        ranked = tuple(item for item in values if item[0].name in whole)
        return cls(c, metric, length, ranked, tuple(item for item in values if item not in ranked))

    @property
    def best(self) -> tuple[str, ...]:
        """The first, and those near it of which no difference from it is resolved; none where there is only one."""
        if len(self.ranked) < 2:
            return ()
        first, top = self.ranked[0]
        return tuple(e.name for e, x in self.ranked if e is first or (self._near(x, top) and not self.behind(e)))

    def behind(self, e: Encoding) -> bool:
        """Whether its difference from the first is resolved."""
        return self._resolved(e, self.ranked[0][0])

    def _near(self, value: float, top: float) -> bool:
        """Within a tenth of one, or five points: what no seed resolves may be far off all the same."""
        apart = value - top if self.metric.share else math.log(value / top)
        return abs(apart) < ALIKE[self.metric.unit]

    def _resolved(self, e: Encoding, first: Encoding) -> bool:
        found = difference(self.metric, (e, self.length), (first, self.length))
        return found is not None and found.resolved


def pick(known: Known, task: str, need: Need, most: int | None = None) -> Pick:
    """Of the comparisons of one task the one that ranks most. most: of the encodings of which nothing is claimed, at
    most so many are named."""
    found = [(part, c) for part in need.parts[task] if (c := known.comparison(part)) is not None]
    rankings = [(part, Ranking.of(c, need.times * c.train_length, need.among)) for part, c in found]
    rankings = [(part, one) for part, one in rankings if one.ranked or one.others]
    lacking = set(need.among) - {e.name for _, one in rankings for e, _ in (*one.ranked, *one.others)}
    if not rankings or lacking:
        names = listing([f"`{name}`" for name in sorted(lacking)])
        return Pick(task, (), f"{names}: {Verdict.MISSING}" if lacking else Verdict.MISSING)
    part, one = max(rankings, key=lambda item: len(item[1].ranked))
    return Pick(task, one.best, f"{_words(one, most)} ({linked(f'experiments/{part}')})")


def _words(one: Ranking, most: int | None) -> str:
    c, best = one.comparison, set(one.best)
    show = percent if one.metric.share else number
    where = f"{one.metric.label} at {multiple(one.length, c.train_length)}"
    told = []
    if best:
        ahead = [f"`{e.name}` {show(mean)}" for e, mean in one.ranked if e.name in best]
        rest = [(e, f"`{e.name}` {show(mean)}") for e, mean in one.ranked if e.name not in best]
        behind = [text for e, text in rest if one.behind(e)]
        unresolved = [text for e, text in rest if not one.behind(e)]
        seeds = plural(len(c.config.seeds), "seed")
        told.append(f"{where}, {seeds}: {listing(ahead)}{f'; behind: {listing(behind)}' if behind else ''}")
        told += [f"below, but not resolved: {listing(unresolved)}"] if unresolved else []
    if rest := one.others if best else (*one.ranked, *one.others):
        named = [f"`{e.name}` {show(mean)}" for e, mean in rest[:most]]
        named += [f"{len(rest) - most} more"] if most is not None and len(rest) > most else []
        why = (
            Verdict.ONE_SEED
            if all(len(e.trials) == 1 for e, _ in rest)
            else "a seed is missing, failed or diverged: no claim"
        )
        told.append(f"{'' if best else f'{where}, '}{why} ({listing(named)})")
    return "; ".join(told)


def _all_seeds(c: Comparison, e: Encoding, metric: Metric, length: int) -> bool:
    failed = {f.seed for f in c.failures if f.notation == e.name} - {t.seed for t in e.trials}
    cell = e.cell(metric, length)
    return (
        {t.seed for t in e.trials} >= set(c.config.seeds)
        and not failed
        and cell is not None
        and len(cell.finite) == len(e.trials)
    )
