"""Which learning rate an encoding is shown at, where several were tried: that of the lowest validation loss.

The loss is a mean over the seeds that the encoding has at all of its rates. It is taken in range, on examples that the
evaluation does not ask for: the rate must not be picked by the numbers that are then reported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from whorl.results.trial import Trial

Rate = float | None  # None: results of earlier versions


def by_rate(trials: Sequence[Trial]) -> dict[str, dict[Rate, list[Trial]]]:
    """The trials by notation and learning rate, lowest first."""
    found: dict[str, dict[Rate, list[Trial]]] = {}
    for trial in sorted(trials, key=lambda trial: trial.learning_rate or 0.0):
        found.setdefault(trial.notation, {}).setdefault(trial.learning_rate, []).append(trial)
    return found


def best_rate(rates: Mapping[Rate, Sequence[Trial]]) -> Rate:
    """Of one encoding's trials by learning rate, the rate with the lowest validation loss, the lower one of two equal.

    A trial that diverged or has no validation loss has the worst that there is.
    """
    seeds = [{trial.seed for trial in trials} for trials in rates.values()]
    common = set.intersection(*seeds) or set.union(*seeds)
    return min(rates, key=lambda rate: loss_of([trial for trial in rates[rate] if trial.seed in common]))


def loss_of(trials: Sequence[Trial]) -> float:
    """The mean validation loss; infinite where one diverged, or there is none."""
    losses = [math.inf if trial.validation is None else trial.validation for trial in trials]
    return float(np.mean(losses)) if losses and all(map(math.isfinite, losses)) else math.inf


def picked(trials: Sequence[Trial]) -> tuple[list[Trial], list[Trial]]:
    """The trials at their encoding's best learning rate, and those at the others, both in their order."""
    best = {notation: best_rate(rates) for notation, rates in by_rate(trials).items()}
    shown = [trial for trial in trials if trial.learning_rate == best[trial.notation]]
    return shown, [trial for trial in trials if trial.learning_rate != best[trial.notation]]
