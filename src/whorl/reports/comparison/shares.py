"""What is said of shares of right answers (token accuracy, exact match), by the seeds that solved the task in range.

A task of retrieval is learnt or it is not, by the seed: a mean over both kinds is what no model has. So it is said how
many seeds solved it in range, and what lies beyond is told of these alone.
"""

from collections.abc import Sequence

from whorl.reports.comparison.sentences import (
    Findings,
    at_length,
    diverged,
    limits,
    ranking,
    stopped,
    telling,
    turning_first,
    unreachable,
    what_counts,
)
from whorl.reports.formatting import listing, number, percent
from whorl.results.comparison import Comparison
from whorl.results.over_seeds import Cell, Encoding, Metric
from whorl.tasks import of_evaluation
from whorl.tasks.base import Task


def shares(c: Comparison, task: type[Task]) -> Findings:
    metric, *others = task.measured()
    solved = solving(c, metric)
    ranks = [ranking(c, metric, solved, n, percent) for n in telling(c.far(task.evaluation), c.train_length)]
    return Findings(
        lead=[" ".join(filter(None, [who_learnt(c, task, metric, solved), *ranks]))],
        bullets=[(e, turning_first(e) + _bullet(c, e, metric, others)) for e in c.encodings],
        rule=what_counts(c, metric, task.words().samples) if any(ranks) else "",
        caveats=limits(c, task),
    )


def solving(c: Comparison, metric: Metric) -> list[Encoding]:
    """The encodings that solved the task in range, each with the seeds that did alone."""
    found = [e.solving(metric, c.near(metric.evaluation)) for e in c.encodings]
    return [e for e in found if e.trials]


def who_learnt(c: Comparison, task: type[Task], metric: Metric, solved: Sequence[Encoding]) -> str:
    """Who has solved the task in range: on every seed, or on some of them."""
    seeds = {e.name: len(e.trials) for e in c.encodings}
    kind, words = task.name, task.words()
    where = "at" if c.config.data.one_length else "at every length up to"
    rule = f"at least {_needed(metric)} of the {metric.of} right {where} {c.train_length:,}"
    on_all = [e.name for e in solved if len(e.trials) == seeds[e.name]]
    on_some = [f"{e.name} ({len(e.trials)} of {seeds[e.name]})" for e in solved if len(e.trials) < seeds[e.name]]
    if not solved:
        return (
            f"No encoding learnt the {kind} task in range ({rule}, on any seed), so nothing here about "
            f"{words.others} means anything."
        )
    if len(on_all) == len(c.encodings):
        who = "The encoding" if len(on_all) == 1 else "Both encodings" if len(on_all) == 2 else "All encodings"
        return f"{who} learnt the {kind} task in range ({rule}, on every seed)."
    said = []
    if on_all:
        said.append(f"The {kind} task was learnt in range ({rule}, on every seed) by {listing(on_all)}.")
    if on_some:
        if not on_all:
            said.append(f"No encoding learnt the {kind} task in range ({rule}) on every seed.")
        said.append(
            f"It was learnt on some seeds only by {listing(on_some)}; {words.beyond}, these seeds alone are compared."
        )
    if len(solved) < len(c.encodings):
        said.append(f"The others did not learn it, and their values {words.at_others} mean nothing.")
    return " ".join(said)


def _bullet(c: Comparison, every: Encoding, metric: Metric, others: Sequence[Metric]) -> str:
    near = c.near(metric.evaluation)
    solved = every.solving(metric, near)
    far = _cells(every, metric, c.far(metric.evaluation))
    in_range = _cells(every, metric, near)
    notes = stopped(every) + unreachable(far, c.unit) + diverged(in_range + far, c.unit)
    in_range = [cell for cell in in_range if not cell.unreachable]
    if not in_range:
        return " ".join(["was not evaluated within its training length.", *notes])
    if not solved.trials:
        worst = min(in_range, key=_mean)
        return " ".join(
            [
                f"did not learn the task in range: {percent(worst.mean)} of the {metric.of} right at "
                f"{at_length(worst.length, c)}, where {_needed(metric)} are needed. Its values "
                f"{of_evaluation(metric.evaluation).words().at_others} therefore mean nothing.",
                *notes,
            ]
        )
    worst = min(_cells(solved, metric, [cell.length for cell in in_range]), key=_mean)
    reached = {
        cell.length: cell
        for cell in _cells(solved, metric, [cell.length for cell in far])
        if cell.finite and not cell.diverged
    }
    told = telling(list(reached), c.train_length)
    said = [
        f"learnt the task in range{_on_which(every, solved)}, {percent(worst.mean)} of the {metric.of} right at "
        f"{at_length(worst.length, c)}"
    ]
    for length in told:
        cells = [(other, solved.cell(other, length)) for other in others]
        beside = [
            f"{other.label} {percent(cell.mean) if other.share else number(cell.mean)}"
            for other, cell in cells
            if cell is not None and cell.finite
        ]
        also = f" ({', '.join(beside)})" if beside else ""
        said.append(f"{percent(reached[length].mean)} at {at_length(length, c)}{also}")
    if len(solved.trials) < len(every.trials) and told:
        every_seed = [cell for cell in far if cell.length in told and not cell.diverged]
        whole = [f"{percent(cell.mean)} at {at_length(cell.length, c)}" for cell in every_seed]
        notes[:0] = [f"Over all seeds: {listing(whole)}."] if whole else []
    return " ".join([f"{'; '.join(said)}.", *notes])


def _on_which(every: Encoding, solved: Encoding) -> str:
    """` on 2 of 3 seeds (0 and 2), which are told alone`; nothing where it is on every one."""
    if len(solved.trials) == len(every.trials):
        return ""
    which = listing([str(trial.seed) for trial in solved.trials])
    return f" on {len(solved.trials)} of {len(every.trials)} seeds ({which}), which are told alone"


def _cells(e: Encoding, metric: Metric, lengths: Sequence[int]) -> list[Cell]:
    return [cell for n in lengths if (cell := e.cell(metric, n)) is not None]


def _mean(cell: Cell) -> float:
    return cell.mean if cell.finite and cell.mean is not None else -1.0


def _needed(metric: Metric) -> str:
    return f"{100 * (metric.learnt or 0.0):.0f} %"
