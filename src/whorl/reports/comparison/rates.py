"""The learning rates that were tried: which one each encoding is shown at, and what the others gave."""

from __future__ import annotations

import math
from dataclasses import replace

from whorl.reports.comparison.by_length import value_at
from whorl.reports.document import Block, Heading, Paragraph, Row, Table
from whorl.reports.formatting import DASH, listing, multiple, with_spread
from whorl.results.comparison import Comparison
from whorl.results.over_seeds import Cell
from whorl.results.rates import Rate, best_rate, by_rate, loss_of
from whorl.results.trial import Trial
from whorl.tasks import of_evaluation


def blocks(c: Comparison) -> list[Block]:
    """Nothing where every encoding was trained at one rate."""
    if not c.at_other_rates:
        return []
    rates = by_rate([*c.trials, *c.at_other_rates])
    return [Heading("Learning rates"), Paragraph(_said(c, rates)), _table(c, rates)]


def _said(c: Comparison, rates: dict[str, dict[Rate, list[Trial]]]) -> str:
    several = {name: found for name, found in rates.items() if len(found) > 1}
    best = {name: best_rate(found) for name, found in several.items()}
    told = (
        "Every encoding is shown at the learning rate at which it has the lowest loss on examples as those of the "
        "training, which no seed trains on and no evaluation asks for: "
        f"{listing([f'{name} at {_rate(rate)}' for name, rate in best.items()])}. All trials of an encoding saw the "
        "same tokens."
    )
    lost = [name for name, found in several.items() if not math.isfinite(loss_of(found[best[name]]))]
    if lost:
        told += f" At no rate have all seeds of {listing(lost)} a loss that is finite: shown is the lowest rate."
    ends = [
        name
        for name, found in several.items()
        if name not in lost and best[name] in (min(found, key=_or_0), max(found, key=_or_0))
    ]
    if not ends:
        return told
    whose = "Each of these is" if len(ends) == len(several) > 1 else f"That of {listing(ends)} is"
    return f"{told} {whose} at an end of the rates that were tried: a better one may lie beyond."


def _table(c: Comparison, rates: dict[str, dict[Rate, list[Trial]]]) -> Table:
    """A row per encoding and rate: the validation loss, and what each evaluation gives in range and furthest."""
    asked = [
        (metric, length)
        for name in c.evaluations
        for metric in of_evaluation(name).measured()[:1]
        for length in dict.fromkeys([c.reference(name), *c.far(name)[-1:]])
        if length is not None
    ]
    heads = [(f"{metric.label} at {length:,}", multiple(length, c.train_length)) for metric, length in asked]
    rows = []
    for e in c.encodings:
        found = rates[e.name]
        best = best_rate(found)
        for rate, trials in found.items():
            loss = Cell(0, {trial.seed: trial.validation for trial in trials})
            cells = [
                (e.name, ""),
                (_rate(rate), "shown" if rate == best else ""),
                (", ".join(str(trial.seed) for trial in trials), ""),
                (with_spread(loss.mean, loss.spread), loss.divergence),
                *(value_at(replace(e, trials=tuple(trials)), metric, length, length) for metric, length in asked),
            ]
            rows.append(Row(cells, e.index))
    spread = ", mean ± standard deviation over seeds" if len(c.seeds) > 1 else ""
    first = [("encoding", ""), ("learning rate", ""), ("seeds", ""), ("validation loss", "nats per target")]
    return Table(f"All learning rates{spread}.", [*first, *heads], rows)


def _rate(rate: Rate) -> str:
    return DASH if rate is None else f"{rate:g}"


def _or_0(rate: Rate) -> float:
    return rate or 0.0
