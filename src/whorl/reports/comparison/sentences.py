"""Sentences of findings of every kind: who is ahead, what is called a difference, what the numbers do not show."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from whorl.reports.comparison.levels import level
from whorl.reports.formatting import DASH, capital, compact, listing, multiple, out_of_reach, plural
from whorl.results.comparison import Comparison
from whorl.results.differences import difference
from whorl.results.over_seeds import Cell, Encoding, Metric
from whorl.tasks import parse
from whorl.tasks.base import Task

LARGEST = 700.0
"""A logarithm whose exponential a float still holds."""

NO_UNIGRAM = (
    "These results do not tell what a unigram model has on the same tokens, so whether a model learnt anything from "
    "context at all is not checked."
)


@dataclass
class Findings:
    """`lead` are paragraphs on all encodings, `bullets` a sentence on each, `rule` is what is
    called a difference, `reading` how to read the values, `caveats` what they do not show."""

    lead: list[str] = field(default_factory=list)
    bullets: list[tuple[Encoding, str]] = field(default_factory=list)
    rule: str = ""
    reading: str = ""
    caveats: list[str] = field(default_factory=list)


def ranking(
    c: Comparison, metric: Metric, encodings: Sequence[Encoding], length: int, show: Callable[[float | None], str]
) -> str:
    """Which encodings have the best value at a length, and which others differ from it, by the seeds that two or more
    encodings have. One of which such a seed diverged there, failed or is not there is not ranked: the others may be the
    easy ones, and their mean is not that of all."""
    shared = [e.on(c.shared_seeds) for e in encodings]
    there = [(e, cell) for e in shared if (cell := e.cell(metric, length)) is not None]
    lost = {e.name: in_seeds(cell) if cell.diverged else _failed(c, e.name) or _fewer(c, e.name) for e, cell in there}
    cells = [(e, cell) for e, cell in there if cell.finite and not lost[e.name]]
    unranked = [f"{name} {how}" for name, how in lost.items() if how]
    where = f"{'In range, at' if c.in_range(length) else 'At'} {at_length(length, c)},"
    left_out = f"{listing(unranked)} and {'is' if len(unranked) == 1 else 'are'} not ranked" if unranked else ""
    if len(cells) < 2:
        return f"{where} {left_out}." if left_out and len(there) > 1 else ""
    sign = 1 if metric.lower_is_better else -1
    ordered = sorted(cells, key=lambda item: sign * (item[1].mean or 0.0))
    lead = ordered[0][1]
    best = [e for e, cell in ordered if cell.mean == lead.mean]
    others = ordered[len(best) :]

    def differs(e: Encoding) -> bool:
        found = [difference(metric, (e, length), (first, length)) for first in best]
        return all(one is not None and one.resolved for one in found)

    told = [(e, cell, differs(e)) for e, cell in others]
    worse = [f"{e.name} ({show(cell.mean)})" for e, cell, resolved in told if resolved]
    same = [f"{e.name} ({show(cell.mean)})" for e, cell, resolved in told if not resolved]
    extreme, beyond = ("lowest", "above") if metric.lower_is_better else ("highest", "below")
    have, it, its = ("have", "them", "their") if len(best) > 1 else ("has", "it", "its")
    said = f"{where} {listing([e.name for e in best])} {have} the {extreme if others else 'same'} {metric.label}, "
    said += show(lead.mean)
    if worse:
        said += f"; {listing(worse)} {'lies' if len(worse) == 1 else 'lie'} {beyond} {it}"
    if same:
        said += f"; {its} difference from {listing(same)} is not resolved"
    if left_out:
        said += f"; {left_out}"
    return f"{said}."


def _failed(c: Comparison, name: str) -> str:
    """`failed in 1 of 3 seeds`, or nothing."""
    failed = c.failed(name)
    return f"failed in {len(failed)} of {len(c.done(name) | failed)} seeds" if failed else ""


def _fewer(c: Comparison, name: str) -> str:
    """`has 1 of 3 seeds`: of those by which encodings are ranked, where it lacks some; or nothing."""
    done = c.done(name).intersection(c.shared_seeds)
    return f"has {len(done)} of {len(c.shared_seeds)} seeds" if len(done) < len(c.shared_seeds) else ""


def uneven(c: Comparison) -> str | None:
    """Which encodings have fewer seeds than there are, where it was not that trials failed; None where none have."""
    fewer = {e.name: len(e.trials) for e in c.encodings if len(e.trials) < len(c.seeds) and not _failed(c, e.name)}
    if not fewer:
        return None
    told = listing([f"{name} has {count}" for name, count in fewer.items()])
    return (
        f"Not every encoding has all of the {len(c.seeds)} seeds: {told}. A mean over fewer seeds is not to be held "
        "against one over all."
    )


def in_seeds(cell: Cell) -> str:
    """`diverged in 2 of 3 seeds`, or `diverged` where there is one."""
    return f"diverged in {len(cell.diverged)} of {len(cell.values)} seeds" if len(cell.values) > 1 else "diverged"


def what_counts(c: Comparison, metric: Metric, samples: str) -> str:
    """What is called a difference here."""

    def paired(encodings: Sequence[Encoding]) -> bool:
        rows = [row for e in encodings for n in c.lengths(metric.evaluation) for row in e.rows(metric, n).values()]
        return all(row.samples for row in rows if not row.unreachable)

    alone = [e for e in c.encodings if len(e.trials) == 1]
    single = [e.name for e in alone]
    by_sample = (
        f"the 95 % interval of the difference on the same {samples} (a bootstrap of these)"
        if paired(alone)
        else f"two standard errors over {samples}, as if those were others for each"
    )
    if single and len(single) == len(c.encodings):
        return (
            f"One seed gives no spread, so no difference here is established: one is called so where zero lies outside "
            f"{by_sample}, as an indication only. What is not resolved may still be there."
        )
    over = ""
    if paired(c.encodings):
        over = f" and a bootstrap over the {samples}, the same for all"
    elif any(paired([e]) for e in c.encodings):
        over = f" and, of two that have both kept their {samples}, a bootstrap over these"
    rule = (
        "A difference is called one only where it is resolved: where zero lies outside its 95 % interval, from the "
        "differences between trials of the same seed, which begin with the same weights and see the same batches "
        f"(Student's t over the seeds{over}). What is not resolved may still be there."
    )
    if single:
        return f"{rule} Of {listing(single)} only one seed is finished; there {by_sample} stands in."
    return rule


def counted(c: Comparison) -> str:
    """What a budget counts: tokens, or patches or points where these are what a model reads."""
    return parse(c.config.task)[0].words().tokens


def limits(c: Comparison, task: type[Task]) -> list[str]:
    """What the numbers do not show: the task's own words, then what follows from the run's settings."""
    metric, config, seeds = task.measured()[0], c.config, len(c.seeds)
    size = "very small " if config.parameters < 2e7 else "small " if config.parameters < 1e9 else ""
    caveats = [text.format(config=config) for text in task.words().caveats]
    caveats.append(
        f"One {size}model ({compact(config.parameters)} parameters, trained on {compact(config.tokens)} {counted(c)}). "
        "Whether the order stays the same in a larger or longer-trained one is not tested here."
    )
    if c.epochs is not None and c.epochs > 1:
        caveats.append(
            f"{c.epochs:.2g} epochs: a trial's {compact(config.tokens)} tokens are drawn from a text of "
            f"{compact(config.data.train_tokens)}, so that part of what is learnt is this text itself, and more tokens "
            "are not more text."
        )
    if seeds == 1:
        caveats.append(
            "One seed. Another one could move every value by an amount that this run cannot tell; the standard error "
            "covers the choice of evaluation data only."
        )
    elif seeds < 5:
        caveats.append(
            f"{capital(plural(seeds, 'seed'))}: their standard deviation is a rough spread, not a confidence interval."
        )
    if metric.learnt is None and level(c, metric, c.reference(task.evaluation)) is None:
        caveats.append(NO_UNIGRAM)
    if "text" in task.options:
        caveats.append(
            f"One kind of text ({config.text}), one training length ({c.train_length:,} tokens) and one optimiser "
            f"setting for all{', but for the learning rate' if c.at_other_rates else ''}: an encoding that would do "
            "better with another was not given it."
        )
    return caveats


def as_ratio(logarithm: float) -> float:
    """How many times one value is another, by the logarithm of it; no larger than a float holds."""
    return math.exp(min(logarithm, LARGEST))


def telling(lengths: Sequence[int], train_length: int) -> list[int]:
    """Of the lengths that training shows nothing of: 4x the training length, where evaluated, the longest, and the
    shortest where that is below it."""
    return sorted(
        {n for n in lengths if n == 4 * train_length} | {n for n in lengths[:1] if n < train_length} | set(lengths[-1:])
    )


def unreachable(cells: Sequence[Cell], unit: str) -> list[str]:
    """One sentence for each reason."""
    return [f"Cannot reach {lengths} {unit}: {why}." for why, lengths in out_of_reach(cells).items()]


def diverged(cells: Sequence[Cell], unit: str) -> list[str]:
    """One sentence for the lengths at which values are not finite, and the seeds that gave them."""
    lengths = [f"{cell.length:,}" for cell in cells if cell.diverged]
    if not lengths:
        return []
    seeds = sorted({seed for cell in cells for seed in cell.diverged})
    whose = f" for seed {listing(list(map(str, seeds)))}" if any(len(cell.values) > 1 for cell in cells) else ""
    return [f"Diverged at {listing(lengths)} {unit}{whose}: those values are not finite and are left out."]


def stopped(e: Encoding) -> list[str]:
    """A sentence on the trainings that diverged, and so ended before their time."""
    steps = [f"at step {step:,} (seed {t.seed})" for t in e.trials if (step := t.train.diverged)]
    return [f"Its training diverged and was stopped {listing(steps)}."] if steps else []


def turning_in_words(encoding: Encoding) -> str:
    """`11 of 32`; per layer `11, 0 of 32 (layers in turn)`; a dash where nothing is rotary."""
    turning, pairs = encoding.pairs_turning, encoding.pairs
    if turning is None:
        return DASH
    of = f" of {pairs}" if pairs is not None else ""
    if isinstance(turning, int):
        return f"{turning}{of}"
    if len(set(turning)) == 1:
        return f"{turning[0]}{of}"
    cycle = _cycle(turning)
    words = ", ".join(map(str, cycle))
    return f"{words}{of} ({'by layer' if len(cycle) == len(turning) else 'layers in turn'})"


def _cycle(items: Sequence[int]) -> Sequence[int]:
    """The shortest head of the items whose repetition gives them."""
    return next(
        items[:period]
        for period in range(1, len(items) + 1)
        if all(item == items[i % period] for i, item in enumerate(items))
    )


def turning_first(e: Encoding) -> str:
    """`(11 of 32 pairs turn) `, or nothing for an encoding that is not rotary."""
    turning = turning_in_words(e)
    if turning == DASH:
        return ""
    return f"({turning} pairs turn) " if "(" not in turning else f"(pairs turning: {turning[:-1].replace(' (', ', ')}) "


def at_length(length: int, c: Comparison) -> str:
    return f"{length:,} {c.unit}" + (f" ({multiple(length, c.train_length)})" if length != c.train_length else "")
