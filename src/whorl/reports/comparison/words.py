"""What the numbers of a comparison show, and what they do not, in sentences made from the numbers."""

from collections.abc import Sequence
from itertools import groupby

from whorl.reports.comparison.sentences import (
    Findings,
    as_ratio,
    counted,
    diverged,
    in_seeds,
    limits,
    ranking,
    stopped,
    telling,
    turning_first,
    unreachable,
    what_counts,
)
from whorl.reports.comparison.shares import shares, solving, who_learnt
from whorl.reports.formatting import capital, compact, listing, multiple, number, percent, plural, with_spread
from whorl.results.comparison import Comparison
from whorl.results.differences import Difference, difference
from whorl.results.over_seeds import Encoding, Metric
from whorl.tasks import of_evaluation
from whorl.tasks.base import Task

HURT = "is hurt by context that it cannot use"
GAINS = "gains from context past its training length"
UNRESOLVED = "shows neither a gain nor a loss from the added context that these numbers resolve"


def findings(comparison: Comparison) -> dict[str, Findings]:
    """The findings of each evaluation that was made, by its name."""
    found = {}
    for name in comparison.evaluations:
        task = of_evaluation(name)
        found[name] = (shares if task.metrics[0].share else _ratios)(comparison, task)
    return found


def partial_notice(comparison: Comparison) -> str | None:
    """A sentence for a comparison that is still running, or None."""
    done, planned = len(comparison.trials) + len(comparison.at_other_rates), comparison.config.trials_planned
    if not done:
        return f"None of the {planned} trials has finished yet."
    if done >= planned:
        return None
    return f"This report is partial: {done} of {planned} trials are finished. Every number in it may still move."


def failed_notice(c: Comparison) -> str | None:
    """Which trials failed, and why; None where none did."""
    if not c.failures:
        return None
    told = "; ".join(f"{f.notation} with seed {f.seed} ({f.error[:200]})" for f in c.failures)
    return f"{capital(plural(len(c.failures), 'trial'))} failed: {told}."


def differing_notice(c: Comparison) -> str | None:
    """What the trials did not all run on or with; None where they did, or where their results do not say."""
    if not c.differing:
        return None
    told = []
    for name, values in c.differing.items():
        each = [f"{value} ({plural(len(ids), 'trial')})" for value, ids in values.items()]
        told.append(f"{name} {' or '.join(each)}")
    return (
        f"The trials did not all run on the same machine with the same versions: {'; '.join(told)}. By that alone the "
        "last digits of a training differ; results.json says which trials these are."
    )


def pretrained_notice(c: Comparison) -> str:
    """What a comparison that begins with trained weights has to say first."""
    return (
        f"The trials began with the pretrained weights of {c.config.model}, which were trained with "
        f"{c.pretrained}. That favours {c.pretrained}: it goes on where it was, and the others have "
        f"{compact(c.config.tokens)} {counted(c)} to replace it. This compares how well they take the place of "
        f"{c.pretrained}, not how well they would do from the start."
    )


def unlearnt(c: Comparison) -> list[str]:
    """What is said of encodings that learnt nothing, of each evaluation; nothing where all of them learnt."""
    said = []
    for name in c.evaluations:
        try:
            task = of_evaluation(name)
        except ValueError:  # of a later whorl's: its table is shown all the same
            continue
        metric = task.measured()[0]
        whole = compared(c, metric)
        if sum(len(e.trials) for e in whole) < len(c.trials):
            share = metric.share
            said.append(who_learnt(c, task, metric, whole) if share else _who_learnt_nothing(c, metric, whole))
    return said


def compared(c: Comparison, metric: Metric) -> list[Encoding]:
    """The encodings that learnt something in range, without which nothing is said of longer contexts; of a task with
    right answers, each with the seeds alone that solved it."""
    if metric.share:
        return solving(c, metric)
    reference = c.reference(metric.evaluation)
    return [e for e in c.encodings if reference is None or not above_unigram(c, e, metric, reference)]


def verdict(found: Difference | None) -> str | None:
    """HURT, GAINS or UNRESOLVED: on which side of zero the interval of the difference from in range lies."""
    if found is None:
        return None
    if not found.resolved:
        return UNRESOLVED
    return HURT if found.mean > 0 else GAINS


# Ratios: perplexity


def _ratios(c: Comparison, task: type[Task]) -> Findings:
    metric, *others = task.measured()
    reference, far = c.reference(task.evaluation), c.far(task.evaluation)
    lengths = [*([reference] if reference else []), *telling(far, c.train_length)]
    learnt = compared(c, metric)
    ranks = [ranking(c, metric, learnt, length, number) for length in lengths]
    lead = " ".join(filter(None, [_who_learnt_nothing(c, metric, learnt), *ranks, _who_gains(c, metric, learnt)]))
    words = task.words()
    at = multiple(reference or c.train_length, c.train_length)
    return Findings(
        lead=[lead] if lead else [],
        bullets=[(e, turning_first(e) + _bullet(c, metric, e) + _against_guessing(c, e, others)) for e in c.encodings],
        rule=what_counts(c, metric, words.samples) if learnt else "",
        reading=words.reading.format(config=c.config, at=at) if reference and far else "",
        caveats=limits(c, task),
    )


def above_unigram(c: Comparison, e: Encoding, metric: Metric, length: int) -> bool:
    """Whether a seed's value at a length is not below a unigram model's: it has learnt nothing of context."""
    nothing, cell = c.unigram(metric, length), e.cell(metric, length)
    return nothing is not None and cell is not None and any(value >= nothing for value in cell.finite)


def _who_learnt_nothing(c: Comparison, metric: Metric, learnt: Sequence[Encoding]) -> str:
    """The gate that shares have in `Metric.learnt`: nothing that is no better than counting tokens is compared."""
    nothing = [e.name for e in c.encodings if e not in learnt]
    if not nothing:
        return ""
    unigram = number(c.unigram(metric, c.reference(metric.evaluation) or 0))
    model = f"a unigram model, which knows how often each token occurs and nothing else ({unigram})"
    if not learnt:
        return (
            f"No encoding learnt anything from context: in range, none is below {model}. Nothing here about longer "
            "contexts means anything; train for longer."
        )
    return f"In range, {listing(nothing)} {'is' if len(nothing) == 1 else 'are'} not below {model}, and not compared."


def _who_gains(c: Comparison, metric: Metric, learnt: Sequence[Encoding]) -> str:
    """One sentence over all encodings and all lengths beyond the training length."""
    reference = c.reference(metric.evaluation)
    if reference is None:
        return ""
    apart = {e.name: [difference(metric, (e, n), (e, reference)) for n in c.far(metric.evaluation)] for e in learnt}
    verdicts = {name: [v for one in found if (v := verdict(one)) is not None] for name, found in apart.items()}
    if not any(verdicts.values()):
        return ""
    gaining = [name for name, found in verdicts.items() if GAINS in found]
    if gaining:
        who = "Every encoding" if len(gaining) == len(verdicts) > 1 else listing(gaining)
        gain = "gains" if len(gaining) == 1 or who == "Every encoding" else "gain"
        only = "Only " if 0 < len(gaining) < len(verdicts) else ""
        return f"{only}{who} {gain} from context past the training length, at one length or more."
    open_ones = [name for name, found in verdicts.items() if UNRESOLVED in found]
    if open_ones:
        return (
            "No encoding is seen to gain from context past the training length; whether "
            f"{listing(open_ones)} {'does' if len(open_ones) == 1 else 'do'} is not resolved at every length."
        )
    return (
        "No encoding gains from context past the training length: on these tokens each does better when the far "
        "context is dropped."
    )


def _bullet(c: Comparison, metric: Metric, e: Encoding) -> str:
    reference, beyond = c.reference(metric.evaluation), c.far(metric.evaluation)
    base = e.cell(metric, reference) if reference is not None else None
    far = [cell for n in beyond if (cell := e.cell(metric, n)) is not None]
    notes = stopped(e) + unreachable(far, c.unit) + diverged(far if base is None else [base, *far], c.unit)
    if base is None or reference is None:
        return " ".join(["was not evaluated within its training length.", *notes])
    if not base.finite:
        return " ".join(["has no finite value in range, so nothing beyond it means anything.", *notes])
    unigram = c.unigram(metric, reference)
    if above_unigram(c, e, metric, reference):
        return " ".join(
            [
                f"learnt nothing from context: {with_spread(base.mean, base.spread)} in range, where a unigram model "
                f"has {number(unigram)}. Its values at longer lengths mean nothing.",
                *notes,
            ]
        )
    if base.diverged:
        others = f"the others have {with_spread(base.mean, base.spread)}"
        return " ".join([f"{in_seeds(base)} in range, where {others}: nothing beyond it is judged.", *notes])
    lost = [f"{n:,}" for n in beyond if above_unigram(c, e, metric, n)]
    if lost:
        notes.insert(0, f"At {listing(lost)} {c.unit} it is worse than a unigram model, {number(unigram)}.")
    reached = {cell.length: cell for cell in far if cell.finite and not cell.diverged}
    verdicts, values = [], []
    for length in telling(list(reached), c.train_length):
        ratio, apart = e.ratio(metric, length, reference), difference(metric, (e, length), (e, reference))
        if ratio is not None and apart is not None and (found := verdict(apart)) is not None:
            verdicts.append((length, found))
            times = f"{with_spread(ratio.mean, ratio.spread)} times{_interval(apart)}"
            values.append(f"{number(reached[length].mean)} at {multiple(length, c.train_length)} ({times})")
    if not verdicts:
        value = "length at which every seed has a value" if any(cell.divergence for cell in far) else "value"
        said = f"has {number(base.mean)} in range and no {value} beyond the training length."
    else:
        said = f"{_judgement(verdicts)}: from {number(base.mean)} in range to {listing(values)}."
    return " ".join([said, *notes])


def _against_guessing(c: Comparison, e: Encoding, others: Sequence[Metric]) -> str:
    """` Word order in range: 96.4 %, where guessing gives 50.0 %.`, of what can be guessed."""
    told = ""
    for metric in others:
        reference = c.reference(metric.evaluation)
        cell = None if metric.chance is None or reference is None else e.cell(metric, reference)
        if cell is not None and cell.finite:
            value = with_spread(cell.mean, cell.spread, metric.share)
            told += f" {capital(metric.label)} in range: {value}, where guessing gives {percent(metric.chance)}."
    return told


def _interval(apart: Difference) -> str:
    """`; 95 % interval 0.98 to 1.04`, where that is what keeps a ratio from being one."""
    if apart.resolved or apart.low is None or apart.high is None:
        return ""
    return f"; 95 % interval {number(as_ratio(apart.low))} to {number(as_ratio(apart.high))}"


def _judgement(judged: Sequence[tuple[int, str]]) -> str:
    """One verdict for all lengths, or one for each run of lengths."""
    runs = [(found, [n for n, _ in run]) for found, run in groupby(judged, key=lambda item: item[1])]
    if len(runs) == 1:
        return runs[0][0]
    return ", ".join(f"at {listing([f'{n:,}' for n in lengths])} tokens it {found}" for found, lengths in runs)
