"""What the numbers of a comparison show, and what they do not, in sentences made from the numbers."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from whorl.reports.comparison.differences import Difference, difference
from whorl.reports.comparison.levels import level
from whorl.reports.formatting import DASH, capital, compact, listing, multiple, number, percent, plural, with_spread
from whorl.results.comparison import Comparison
from whorl.results.over_seeds import Cell, Encoding, Metric
from whorl.tasks import of_evaluation
from whorl.tasks.base import Task

HURT = "is hurt by context that it cannot use"
GAINS = "gains from context past its training length"
LARGEST = 700.0
"""A logarithm whose exponential a float still holds."""
UNRESOLVED = "shows neither a gain nor a loss from the added context that these numbers resolve"

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


def findings(comparison: Comparison) -> dict[str, Findings]:
    """The findings of each evaluation that was made, by its name."""
    found = {}
    for name in comparison.evaluations:
        task = of_evaluation(name)
        found[name] = (_shares if task.metrics[0].share else _ratios)(comparison, task)
    return found


def partial_notice(comparison: Comparison) -> str | None:
    """A sentence for a comparison that is still running, or None."""
    done, planned = len(comparison.trials), comparison.config.trials_planned
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


def pretrained_notice(c: Comparison) -> str:
    """What a comparison that begins with trained weights has to say first."""
    return (
        f"The trials began with the pretrained weights of {c.config.model}, which were trained with "
        f"{c.pretrained}. That favours {c.pretrained}: it goes on where it was, and the others have "
        f"{compact(c.config.tokens)} tokens to replace it. This compares how well they take the place of "
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
        learnt = _learnt(c, metric)
        if len(learnt) < len(c.encodings):
            share = metric.share
            said.append(_who_learnt(c, task.name, metric, learnt) if share else _who_learnt_nothing(c, metric, learnt))
    return said


def _learnt(c: Comparison, metric: Metric) -> list[Encoding]:
    """The encodings that learnt something in range, without which nothing is said of longer contexts."""
    if metric.share:
        return [e for e in c.encodings if learnt_in_range(c, e, metric)]
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
    lengths = [*([reference] if reference else []), *_telling(far, c.train_length)]
    learnt = _learnt(c, metric)
    ranks = [_ranking(c, metric, learnt, length, number) for length in lengths]
    lead = " ".join(filter(None, [_who_learnt_nothing(c, metric, learnt), *ranks, _who_gains(c, metric, learnt)]))
    words = task.words()
    at = multiple(reference or c.train_length, c.train_length)
    return Findings(
        lead=[lead] if lead else [],
        bullets=[(e, _turning(e) + _ratio_bullet(c, metric, e) + _against_guessing(c, e, others)) for e in c.encodings],
        rule=_rule(c, metric, words.samples) if learnt else "",
        reading=words.reading.format(config=c.config, at=at) if reference and far else "",
        caveats=_caveats(c, task),
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


def _ratio_bullet(c: Comparison, metric: Metric, e: Encoding) -> str:
    reference, beyond = c.reference(metric.evaluation), c.far(metric.evaluation)
    base = e.cell(metric, reference) if reference is not None else None
    far = [cell for n in beyond if (cell := e.cell(metric, n)) is not None]
    notes = _stopped(e) + _unreachable(far, c.unit) + _diverged(far if base is None else [base, *far], c.unit)
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
    lost = [f"{n:,}" for n in beyond if above_unigram(c, e, metric, n)]
    if lost:
        notes.insert(0, f"At {listing(lost)} {c.unit} it is worse than a unigram model, {number(unigram)}.")
    reached = {cell.length: cell for cell in far if cell.finite}
    verdicts, values = [], []
    for length in _telling(list(reached), c.train_length):
        ratio, apart = e.ratio(metric, length, reference), difference(metric, (e, length), (e, reference))
        if ratio is not None and apart is not None and (found := verdict(apart)) is not None:
            verdicts.append((length, found))
            times = f"{with_spread(ratio.mean, ratio.spread)} times{_interval(apart)}"
            values.append(f"{number(reached[length].mean)} at {multiple(length, c.train_length)} ({times})")
    if not verdicts:
        said = f"has {number(base.mean)} in range and no value beyond the training length."
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
    if apart.resolved or apart.half is None:
        return ""
    low, high = (number(math.exp(min(apart.mean + sign * apart.half, LARGEST))) for sign in (-1, 1))
    return f"; 95 % interval {low} to {high}"


def _judgement(judged: Sequence[tuple[int, str]]) -> str:
    """One verdict for all lengths, or one for each run of lengths."""
    runs = [(found, [n for n, _ in run]) for found, run in groupby(judged, key=lambda item: item[1])]
    if len(runs) == 1:
        return runs[0][0]
    return ", ".join(f"at {listing([f'{n:,}' for n in lengths])} tokens it {found}" for found, lengths in runs)


# Shares: token accuracy and exact match


def _shares(c: Comparison, task: type[Task]) -> Findings:
    metric, *others = task.measured()
    learnt = _learnt(c, metric)
    ranks = [_ranking(c, metric, learnt, n, percent) for n in _telling(c.far(task.evaluation), c.train_length)]
    return Findings(
        lead=[" ".join(filter(None, [_who_learnt(c, task.name, metric, learnt), *ranks]))],
        bullets=[(e, _turning(e) + _share_bullet(c, e, metric, others, e in learnt)) for e in c.encodings],
        rule=_rule(c, metric, task.words().samples) if any(ranks) else "",
        caveats=_caveats(c, task),
    )


def learnt_in_range(c: Comparison, e: Encoding, metric: Metric) -> bool:
    """Whether every seed has what the metric asks for at every length within the training length."""
    lengths = [length for length in c.lengths(metric.evaluation) if length <= c.train_length]
    cells = [cell for length in lengths if (cell := e.cell(metric, length)) is not None]
    values = [value for cell in cells for value in cell.values.values()]
    needed = metric.learnt or 0.0
    return bool(values) and all(value is not None and value >= needed for value in values)


def _who_learnt(c: Comparison, kind: str, metric: Metric, learnt: Sequence[Encoding]) -> str:
    rule = (
        f"at least {_needed(metric)} of the {metric.of} right at every length up to {c.train_length:,}, on every seed"
    )
    if not learnt:
        return (
            f"No encoding learnt the {kind} task in range ({rule}), so nothing here about longer sequences means "
            "anything."
        )
    if len(learnt) == len(c.encodings):
        who = "The encoding" if len(learnt) == 1 else "Both encodings" if len(learnt) == 2 else "All encodings"
        return f"{who} learnt the {kind} task in range ({rule})."
    return (
        f"The {kind} task was learnt in range ({rule}) by {listing([e.name for e in learnt])}. The others did not "
        "learn it, and their values at longer lengths mean nothing."
    )


def _share_bullet(c: Comparison, e: Encoding, metric: Metric, others: Sequence[Metric], learnt: bool) -> str:
    in_range = [
        cell
        for n in c.lengths(metric.evaluation)
        if n <= c.train_length and (cell := e.cell(metric, n)) is not None and not cell.unreachable
    ]
    far = [cell for n in c.far(metric.evaluation) if (cell := e.cell(metric, n)) is not None]
    notes = _stopped(e) + _unreachable(far, c.unit) + _diverged(in_range + far, c.unit)
    if not in_range:
        return " ".join(["was not evaluated within its training length.", *notes])
    worst = min(in_range, key=lambda cell: cell.mean if cell.finite and cell.mean is not None else -1.0)
    if not learnt:
        return " ".join(
            [
                f"did not learn the task in range: {percent(worst.mean)} of the {metric.of} right at "
                f"{_at(worst.length, c)}, where {_needed(metric)} on every seed are needed. Its values at longer "
                "lengths therefore mean nothing.",
                *notes,
            ]
        )
    reached = {cell.length: cell for cell in far if cell.finite}
    said = [f"learnt the task in range, {percent(worst.mean)} of the {metric.of} right at {_at(worst.length, c)}"]
    for length in _telling(list(reached), c.train_length):
        cells = [(other, e.cell(other, length)) for other in others]
        beside = [
            f"{other.label} {percent(cell.mean) if other.share else number(cell.mean)}"
            for other, cell in cells
            if cell is not None and cell.finite
        ]
        also = f" ({', '.join(beside)})" if beside else ""
        said.append(f"{percent(reached[length].mean)} at {_at(length, c)}{also}")
    return " ".join([f"{'; '.join(said)}.", *notes])


def _needed(metric: Metric) -> str:
    return f"{100 * (metric.learnt or 0.0):.0f} %"


# Shared


def _ranking(
    c: Comparison, metric: Metric, encodings: Sequence[Encoding], length: int, show: Callable[[float | None], str]
) -> str:
    """Which encoding has the best value at a length, and which others differ from it."""
    cells = [(e, cell) for e in encodings if (cell := e.cell(metric, length)) is not None and cell.finite]
    if len(cells) < 2:
        return ""
    sign = 1 if metric.lower_is_better else -1
    (best, lead), *others = sorted(cells, key=lambda item: sign * (item[1].mean or 0.0))
    apart = {e.name: difference(metric, (e, length), (best, length)) for e, _ in others}
    told = [(e, cell, (found := apart[e.name]) is not None and found.resolved) for e, cell in others]
    worse = [f"{e.name} ({show(cell.mean)})" for e, cell, resolved in told if resolved]
    same = [f"{e.name} ({show(cell.mean)})" for e, cell, resolved in told if not resolved]
    extreme, beyond = ("lowest", "above") if metric.lower_is_better else ("highest", "below")
    where = f"{'At' if length > c.train_length else 'In range, at'} {_at(length, c)},"
    said = f"{where} {best.name} has the {extreme} {metric.label}, {show(lead.mean)}"
    if worse:
        said += f"; {listing(worse)} {'lies' if len(worse) == 1 else 'lie'} {beyond} it"
    if same:
        said += f"; its difference from {listing(same)} is not resolved"
    return f"{said}."


def _rule(c: Comparison, metric: Metric, samples: str) -> str:
    """What is called a difference here."""
    single = [e.name for e in c.encodings if len(e.trials) == 1]
    rows = [row for e in c.encodings for n in c.lengths(metric.evaluation) for row in e.rows(metric, n).values()]
    paired = all(row.samples for row in rows if not row.unreachable)
    by_sample = (
        f"the 95 % interval of the difference on the same {samples}"
        if paired
        else f"two standard errors over {samples}, as if those were others for each"
    )
    if single and len(single) == len(c.encodings):
        return (
            f"One seed gives no spread, so no difference here is established: one is called so where zero lies outside "
            f"{by_sample}, as an indication only. What is not resolved may still be there."
        )
    rule = (
        "A difference is called one only where it is resolved: where zero lies outside the 95 % interval (Student's t) "
        "of the difference between trials of the same seed, which begin with the same weights and see the same "
        "batches. What is not resolved may still be there."
    )
    if single:
        return f"{rule} Of {listing(single)} only one seed is finished; there {by_sample} stands in."
    return rule


def _caveats(c: Comparison, task: type[Task]) -> list[str]:
    """What the numbers do not show: the task's own words, then what follows from the run's settings."""
    metric, config, seeds = task.measured()[0], c.config, len(c.seeds)
    size = "very small " if config.parameters < 2e7 else "small " if config.parameters < 1e9 else ""
    caveats = [text.format(config=config) for text in task.words().caveats]
    caveats.append(
        f"One {size}model ({compact(config.parameters)} parameters, trained on {compact(config.tokens)} tokens). "
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
            "setting for all: an encoding that would do better with another was not given it."
        )
    return caveats


def _telling(lengths: Sequence[int], train_length: int) -> list[int]:
    """4x the training length, where evaluated, and the longest."""
    return sorted({n for n in lengths if n == 4 * train_length} | set(lengths[-1:]))


def _unreachable(cells: Sequence[Cell], unit: str) -> list[str]:
    """One sentence for each reason."""
    reasons: dict[str, list[int]] = {}
    for cell in cells:
        if cell.unreachable:
            reasons.setdefault(cell.unreachable, []).append(cell.length)
    return [f"Cannot reach {listing([f'{n:,}' for n in ns])} {unit}: {why}." for why, ns in reasons.items()]


def _diverged(cells: Sequence[Cell], unit: str) -> list[str]:
    """One sentence for the lengths at which values are not finite, and the seeds that gave them."""
    lengths = [f"{cell.length:,}" for cell in cells if cell.diverged]
    if not lengths:
        return []
    seeds = sorted({seed for cell in cells for seed in cell.diverged})
    whose = f" for seed {listing(list(map(str, seeds)))}" if any(len(cell.values) > 1 for cell in cells) else ""
    return [f"Diverged at {listing(lengths)} {unit}{whose}: those values are not finite and are left out."]


def _stopped(e: Encoding) -> list[str]:
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


def _turning(e: Encoding) -> str:
    """`(11 of 32 pairs turn) `, or nothing for an encoding that is not rotary."""
    turning = turning_in_words(e)
    if turning == DASH:
        return ""
    return f"({turning} pairs turn) " if "(" not in turning else f"(pairs turning: {turning[:-1].replace(' (', ', ')}) "


def _at(length: int, c: Comparison) -> str:
    return f"{length:,} {c.unit}" + (f" ({multiple(length, c.train_length)})" if length != c.train_length else "")
