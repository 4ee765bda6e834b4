"""Which encoding to take for a need: the best that was measured, and those of which no difference from it is resolved.

Studies of the same task and settings are read as one: an encoding counts with a study of which it has every seed.
Values are over the seeds that all who count have, and a difference is over every seed that its two encodings share.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from claiming import Need
from evidence import ALIKE, Known, Verdict, linked
from ranking import measured

from whorl.comparison.planning import THEN
from whorl.reports.comparison.words import compared
from whorl.reports.formatting import listing, multiple, number, percent, plural
from whorl.results.comparison import Comparison, Config
from whorl.results.differences import difference
from whorl.results.over_seeds import Encoding, Metric

NEARLY_ALL = 0.9  # of the answers right


@dataclass(frozen=True)
class Pick:
    """For one task. `best`: those to take, none where nothing is claimed; `words` why, as Markdown from the root.

    every     each encoding with its value and what is said of it, the best first; `measured`: what the values are of
    """

    task: str
    best: tuple[str, ...]
    words: str
    every: tuple[tuple[str, str, str], ...] = ()
    measured: str = ""


@dataclass(frozen=True)
class Ranking:
    """The encodings of comparisons of one task and the same settings, at a length, the best first.

    parts    the comparisons, by what they are called
    seeds    those that all of them planned: what the values of those that are ranked are over
    ranked   those that have every seed of one of them, two or more, and of which none in any of them failed, diverged
             or did not learn
    others   the rest that have a value and learnt something: no claim is made of them
    spoilt   those of which a seed failed, diverged or did not learn
    unlearnt those that no seed of learnt the task: they are compared nowhere
    """

    parts: Mapping[str, Comparison]
    metric: Metric
    length: int
    seeds: tuple[int, ...]
    ranked: tuple[tuple[Encoding, float], ...]
    others: tuple[tuple[Encoding, float], ...]
    spoilt: frozenset[str]
    unlearnt: tuple[str, ...]

    @classmethod
    def of(cls, parts: Mapping[str, Comparison], length: int, among: Sequence[str] = ()) -> Ranking:
        metric = measured(next(iter(parts.values())))
        seeds = tuple(sorted(set.intersection(*(set(c.config.seeds) for c in parts.values()))))
        spoilt = frozenset(name for c in parts.values() for name in _spoilt(c, metric, length))
        whole: dict[str, Encoding] = {}
        rest: dict[str, Encoding] = {}
        in_range = length <= next(iter(parts.values())).train_length

        def asked(name: str) -> bool:  # in range, what a trained model is read with besides is no choice
            return name in among if among else not (in_range and THEN in name)

        for c in parts.values():
            for e in compared(c, metric):  # of a task with right answers, with the seeds alone that learnt it
                counts = len(c.config.seeds) > 1 and _all_seeds(c, e, metric, length) and e.name not in spoilt
                kept = whole if counts else rest
                if asked(e.name) and len(e.trials) > len(kept[e.name].trials if e.name in kept else ()):
                    kept[e.name] = e
        ranked = _best_first(metric, length, [(e, e.on(seeds)) for e in whole.values()])
        others = _best_first(metric, length, [(e, e) for name, e in rest.items() if name not in whole])
        trained = dict.fromkeys(e.name for c in parts.values() for e in c.encodings if asked(e.name))
        unlearnt = tuple(name for name in trained if name not in whole and name not in rest)
        return cls(parts, metric, length, seeds, ranked, others, spoilt, unlearnt)

    @property
    def train_length(self) -> int:
        return next(iter(self.parts.values())).train_length

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
    """Of the comparisons of one task, those of the same settings together; where settings differ, those that rank most.
    most: at most so many encodings are named, ahead and behind, and none of which nothing is claimed."""
    found = {part: c for part in need.parts[task] if (c := known.comparison(part)) is not None}
    groups = _alike(found)
    rankings = [
        Ranking.of(one, round(need.times * next(iter(one.values())).train_length), need.among) for one in groups
    ]
    rankings = [one for one in rankings if one.ranked or one.others]
    lacking = set(need.among) - {e.name for one in rankings for e, _ in (*one.ranked, *one.others)}
    if not rankings or lacking:
        names = listing([f"`{name}`" for name in sorted(lacking)])
        return Pick(task, (), f"{names}: {Verdict.MISSING}" if lacking else Verdict.MISSING)
    one = max(rankings, key=lambda ranking: len(ranking.ranked))
    links = [linked(f"experiments/{part}") for part in one.parts]
    apart = [linked(f"experiments/{part}") for other in rankings if other is not one for part in other.parts]
    beside = f"; of other settings or seeds, and not in this row: {listing(apart)}" if apart else ""
    words = f"{_words(one, most)} ({listing(links)}{beside})"
    return Pick(task, one.best, words, _every(one), f"{_where(one)}, {plural(len(one.seeds), 'seed')}")


def _alike(found: Mapping[str, Comparison]) -> list[dict[str, Comparison]]:
    """The comparisons by their settings; those together share two seeds or more, as far as they have several."""
    groups: list[dict[str, Comparison]] = []
    for part, c in found.items():
        for group in groups:
            seeds = set.intersection(*(set(other.config.seeds) for other in (*group.values(), c)))
            if len(seeds) > 1 and _settings(c) == _settings(next(iter(group.values()))):
                group[part] = c
                break
        else:
            groups.append({part: c})
    return groups


def _settings(c: Comparison) -> Config:
    """All that a value depends on but the encoding and the seed."""
    return replace(c.config, seeds=(), trials_planned=0, parameters=0)


def _best_first(
    metric: Metric, length: int, encodings: Sequence[tuple[Encoding, Encoding]]
) -> tuple[tuple[Encoding, float], ...]:
    """Encodings, each with what its value is read from."""
    cells = [(e, of.cell(metric, length)) for e, of in encodings]
    values = [(e, cell.mean) for e, cell in cells if cell is not None and cell.finite and cell.mean is not None]
    return tuple(sorted(values, key=lambda item: item[1] if metric.lower_is_better else -item[1]))


def _where(one: Ranking) -> str:
    return f"{one.metric.label} at {multiple(one.length, one.train_length)}"


def _every(one: Ranking) -> tuple[tuple[str, str, str], ...]:
    best, rows = set(one.best), []
    for e, mean in one.ranked if best else ():
        behind = "behind" if one.behind(e) else "behind, but not resolved"
        rows.append((e, mean, "to take" if e.name in best else behind))
    for why, some in _without_claim(one.others if best else (*one.ranked, *one.others), one.spoilt).items():
        rows += [(e, mean, why) for e, mean in some]
    told = [(f"`{e.name}`", _value(one, e, mean), said) for e, mean, said in rows]
    return (*told, *((f"`{name}`", "", "did not learn it") for name in one.unlearnt))


def _words(one: Ranking, most: int | None) -> str:
    best = set(one.best)
    where = _where(one)
    told = []
    if best:
        ahead = [_told(one, e, mean) for e, mean in one.ranked if e.name in best]
        rest = [(e, _told(one, e, mean)) for e, mean in one.ranked if e.name not in best]
        behind = [text for e, text in rest if one.behind(e)]
        unresolved = [text for e, text in rest if not one.behind(e)]
        seeds = plural(len(one.seeds), "seed")
        told.append(f"{where}, {seeds}: {_named(ahead, most)}{f'; behind: {_named(behind, most)}' if behind else ''}")
        told += [f"behind, but not resolved: {_named(unresolved, most)}"] if unresolved else []
    rest = one.others if best else (*one.ranked, *one.others)
    for why, some in _without_claim(rest, one.spoilt).items():
        if most is None:
            told.append(f"{'' if told else f'{where}, '}{why} ({listing([_told(one, e, mean) for e, mean in some])})")
        elif not best:
            told.append(f"{'' if told else f'{where}, '}{why}")
    if one.unlearnt:
        told.append(f"did not learn it: {_named([f'`{name}`' for name in one.unlearnt], most)}")
    return "; ".join(told)


def _value(one: Ranking, e: Encoding, mean: float) -> str:
    """An encoding's value; past the training length with that in range beside, unless whatever learnt the task has
    nearly all right there."""
    show = percent if one.metric.share else number
    near = None
    if one.length != one.train_length and (one.metric.learnt or 0.0) < NEARLY_ALL:
        read = e.on(one.seeds) if any(e is ranked for ranked, _ in one.ranked) else e
        near = read.cell(one.metric, one.train_length)
    in_range = "" if near is None or near.mean is None else f" ({show(near.mean)} at 1x)"
    return f"{show(mean)}{in_range}"


def _told(one: Ranking, e: Encoding, mean: float) -> str:
    return f"`{e.name}` {_value(one, e, mean)}"


def _without_claim(
    rest: Sequence[tuple[Encoding, float]], spoilt: frozenset[str]
) -> dict[str, list[tuple[Encoding, float]]]:
    """Encodings by why nothing is claimed of them."""
    found: dict[str, list[tuple[Encoding, float]]] = {}
    for e, mean in rest:
        if e.name in spoilt:
            why = "a seed failed, diverged or did not learn: no claim"
        else:
            why = str(Verdict.ONE_SEED) if len(e.trials) == 1 else "a seed is missing: no claim"
        found.setdefault(why, []).append((e, mean))
    return found


def _named(texts: Sequence[str], most: int | None) -> str:
    """All of them, or the first `most` and how many more there are."""
    left = 0 if most is None else max(0, len(texts) - most)
    return listing([*texts[: len(texts) - left], *([f"{left} more"] if left else [])])


def _all_seeds(c: Comparison, e: Encoding, metric: Metric, length: int) -> bool:
    return {t.seed for t in e.trials} >= set(c.config.seeds) and e.cell(metric, length) is not None


def _spoilt(c: Comparison, metric: Metric, length: int) -> set[str]:
    """The encodings of which a seed failed, diverged or did not learn: its other seeds do not speak for it."""
    learnt = {e.name: e for e in compared(c, metric)}
    found = {failure.notation for failure in c.failures if c.failed(failure.notation)}
    for e in c.encodings:
        cell = e.cell(metric, length)
        all_learnt = e.name in learnt and len(learnt[e.name].trials) == len(e.trials)
        if not all_learnt or (cell is not None and len(cell.finite) < len(e.trials)):
            found.add(e.name)
    return found
