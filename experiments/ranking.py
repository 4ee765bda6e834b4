"""Which encoding is ahead over all parts of a study: mean reciprocal rank, as 2305.19466 has it, with a tie rule.

A cell is a task at a seed. Its value is the mean share of answers that are right, whole and on ids, over all lengths
past the training length. In each cell the encodings are ranked, and the mean of 1 / rank over the cells is taken.

    ties          equal values share the mean of the ranks that they take up (`whorl.results.ranks`)
    guessing      what is not two standard errors above guessing counts as guessing: such values are equal
    not learnt    an encoding that did not learn the task in range on a seed comes last in that cell
    left out      a task that none learnt; an encoding that failed, diverged or is missing in a cell: its other seeds do
                  not speak for it
    seeds         those of which every task that was run has trials

The interval has two parts, as that of a difference of perplexities has (`whorl.results.differences`): Student's t over
the seeds, and a bootstrap over the tasks in place of windows, since other tasks would give other ranks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np
from studies import Paper

from whorl.reports.formatting import DASH, listing, percent, plural
from whorl.results.comparison import Comparison
from whorl.results.differences import mean_and_ends
from whorl.results.over_seeds import Encoding, Metric
from whorl.results.ranks import mean_reciprocal_rank, means, ranks
from whorl.tasks import of_evaluation


@dataclass(frozen=True)
class Overall:
    """Encodings over tasks and seeds.

    reciprocal  of each that is ranked, 1 / rank [seeds, tasks]
    shares      its mean share past the training length [seeds, tasks]
    learnt      on how many of the seeds each learnt each task in range, by task
    left_out    why an encoding is not ranked
    unlearnt    the tasks that none learnt
    """

    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    reciprocal: dict[str, np.ndarray]
    shares: dict[str, np.ndarray]
    learnt: dict[str, dict[str, int]]
    left_out: dict[str, str]
    unlearnt: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """The best first."""
        return sorted(self.reciprocal, key=lambda name: -self.mean(name))

    def mean(self, name: str) -> float:
        return float(self.reciprocal[name].mean())

    def ahead(self, first: str, second: str) -> tuple[float, float, float] | None:
        """By how much the one's mean reciprocal rank is above the other's, and the 95 % interval; None of one seed."""
        apart = self.reciprocal[first] - self.reciprocal[second]
        if len(self.seeds) < 2:
            return None
        return mean_and_ends(apart.mean(1).tolist(), apart.mean(0) if len(self.tasks) > 1 else None)


def overall(comparisons: Mapping[str, Comparison], among: Sequence[str] = ()) -> Overall:
    """Over the comparisons of a study by task. among: these encodings alone."""
    names = list(among) or list(dict.fromkeys(e.name for c in comparisons.values() for e in c.encodings))
    seeds = sorted(set.intersection(*(set(c.seeds) for c in comparisons.values()))) if comparisons else []
    left_out = {name: why for name in names if (why := _why_not(comparisons, name, seeds))}
    ranked = [name for name in names if name not in left_out] if seeds else []
    learnt = {task: _learnt(c, ranked, seeds) for task, c in comparisons.items()}
    tasks = [task for task in comparisons if any(learnt[task].values())] if len(ranked) > 1 else []
    shares = {task: _shares(comparisons[task], ranked, seeds) for task in tasks}
    cells = {
        (seed, task): {name: shares[task][seed][name] if seed in learnt[task][name] else -math.inf for name in ranked}
        for seed in seeds
        for task in tasks
    }
    found = {cell: ranks(values) for cell, values in cells.items()}
    return Overall(
        tuple(tasks),
        tuple(seeds),
        {n: np.array([[1 / found[seed, task][n] for task in tasks] for seed in seeds]) for n in ranked if tasks},
        {n: np.array([[shares[task][seed][n] for task in tasks] for seed in seeds]) for n in ranked if tasks},
        {task: {name: len(on) for name, on in by_name.items()} for task, by_name in learnt.items()},
        left_out,
        tuple(task for task in comparisons if ranked and not any(learnt[task].values())),
    )


def _why_not(comparisons: Mapping[str, Comparison], name: str, seeds: Sequence[int]) -> str:
    """`failed in parity`, `diverged in scan`, `not finished in copy`; or nothing where it can be ranked."""
    for task, c in comparisons.items():
        metric, encoding = measured(c), _named(c, name)
        if c.failed(name) & set(seeds):
            return f"failed in {task}"
        if encoding is None or not c.done(name) >= set(seeds):
            return f"not finished in {task}"
        rows = [row for n in c.lengths(metric.evaluation) for row in encoding.rows(metric, n).values()]
        values = [row.value(metric.key) for row in rows]
        stopped = any(trial.train.diverged for trial in encoding.trials)
        if stopped or any(value is not None and not math.isfinite(value) for value in values):
            return f"diverged in {task}"
    return ""


def _learnt(c: Comparison, names: Sequence[str], seeds: Sequence[int]) -> dict[str, set[int]]:
    """The seeds on which each learnt the task in range."""
    metric = measured(c)
    near = c.near(metric.evaluation)
    solved = {name: e.solving(metric, near) for name in names if (e := _named(c, name)) is not None}
    return {name: {trial.seed for trial in e.trials} & set(seeds) for name, e in solved.items()}


def _shares(c: Comparison, names: Sequence[str], seeds: Sequence[int]) -> dict[int, dict[str, float]]:
    """By seed; what is not above guessing is what guessing gives."""
    metric = measured(c)
    far = c.far(metric.evaluation)
    encodings = [e for e in c.encodings if e.name in names]
    guess = mean([c.guessing(metric, n) or 0.0 for n in far]) if far else 0.0
    asked = sum(row.sequences or 0 for n in far for row in list(encodings[0].rows(metric, n).values())[:1])
    least = guess + 2 * math.sqrt(guess * (1 - guess) / asked) if asked else guess
    by_seed = means(encodings, metric, far)
    return {s: {n: v if v > least else guess for n, v in by_seed[s].items()} for s in seeds}


def measured(c: Comparison, key: str = "") -> Metric:
    """The metric of this key, or the first, of the first of its evaluations."""
    metrics = of_evaluation(c.evaluations[0]).measured()
    return next((metric for metric in metrics if metric.key == key), metrics[0])


def _named(c: Comparison, name: str) -> Encoding | None:
    return next((e for e in c.encodings if e.name == name), None)


def report(comparisons: Mapping[str, Comparison], planned: Sequence[str], paper: Paper) -> str:
    """The ranking as Markdown. planned: all tasks of the study."""
    every = overall(comparisons)
    told = ["# Over all tasks: who generalizes in length\n", ABOUT]
    if missing := [task for task in planned if task not in comparisons]:
        told.append(f"Not measured yet: {listing(missing)}.\n")
    if every.unlearnt:
        told.append(f"Learnt by none, and left out: {listing(every.unlearnt)}.\n")
    if every.left_out:
        told.append(f"Not ranked: {listing([f'`{name}` ({why})' for name, why in every.left_out.items()])}.\n")
    if not every.reciprocal:
        return "\n".join([*told, "There is no ranking yet: it takes two encodings with all of their trials.\n"])
    over = f"{plural(len(every.tasks), 'task')} and {plural(len(every.seeds), 'seed')}"
    told += [f"Over {over}{'' if len(every.seeds) > 1 else ': no claim'}.\n", _standings(every)]
    own = overall(comparisons, tuple(paper.reported))
    if own.reciprocal:
        told += [f"The paper's encodings alone, over {plural(len(own.tasks), 'task')}.\n", _standings(own)]
    told += ["## By task\n", BY_TASK, _by_task(every, paper)]
    return "\n".join([*told, "## Beside the paper\n", _beside(comparisons, paper)])


ABOUT = """Mean reciprocal rank over tasks and seeds, by the mean share of whole answers, graded on ids, that are right
past the training length. Equal values share the mean of the ranks that they take up; what is not two standard errors
above guessing counts as guessing; an encoding that did not learn a task in range on a seed comes last there, and one
that failed, diverged or is missing is not ranked. Intervals are of 95 %, over seeds and tasks ([how](../ranking.py)).
"""
BY_TASK = "Right past the training length, a mean over seeds; in brackets, on how many the task was learnt in range.\n"
BESIDE = """The paper's encodings alone, on the tasks of which its shares token by token are at hand, ranked by one
rule: here over seeds, the paper's by its means over three. Its Figure 1 is over 17 splits, graded as text, with ties
broken by the order of rows. Its Rotary turns a quarter of the channels, as `partial-rope`; its APE is `sinusoidal`.
"""


def _standings(every: Overall) -> str:
    first, *_ = every.names
    rows = []
    for name in every.names:
        apart = every.ahead(first, name) if name != first else None
        rows.append([f"`{name}`", f"{every.mean(name):.2f}", DASH if apart is None else interval(apart)])
    return _table(["encoding", "mean reciprocal rank", f"`{first}` ahead by"], rows)


def interval(apart: tuple[float, float, float]) -> str:
    """`0.16 (0.02 to 0.30)`, or `not resolved (-0.02 to 0.30)`."""
    middle, low, high = apart
    resolved = low > 0 or high < 0
    return f"{f'{middle:.2f}' if resolved else 'not resolved'} ({low:z.2f} to {high:z.2f})"


def _by_task(every: Overall, paper: Paper) -> str:
    rows = []
    for name in every.names:
        shares = every.shares[name].mean(0)
        cells = [f"{percent(s)} ({every.learnt[task][name]})" for task, s in zip(every.tasks, shares, strict=True)]
        rows.append([f"`{name}`", *cells])
    for name in paper.reported:
        cells = [percent(paper.shares[task][name]) if task in paper.shares else DASH for task in every.tasks]
        rows.append([f"`{name}`, the paper's", *cells])
    return _table(["encoding", *every.tasks], rows)


def _beside(comparisons: Mapping[str, Comparison], paper: Paper) -> str:
    shared = {task: c for task, c in comparisons.items() if task in paper.shares}
    ours = overall(shared, tuple(paper.reported))
    theirs = mean_reciprocal_rank([paper.shares[task] for task in ours.tasks])
    rows = [
        [
            f"`{name}`",
            f"{ours.mean(name):.2f}" if name in ours.reciprocal else DASH,
            f"{theirs[name]:.2f}",
            f"{value:.3f}",
        ]
        for name, value in paper.reported.items()
        if name in theirs
    ]
    if not rows:
        return "Nothing to hold beside it yet.\n"
    tasks = f"Tasks: {listing(ours.tasks)}.\n"
    return f"{BESIDE}{tasks}\n{_table(['encoding', 'here', 'the paper, token by token', 'its Figure 1'], rows)}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, ["---", *["---:"] * (len(head) - 1)], *rows))
