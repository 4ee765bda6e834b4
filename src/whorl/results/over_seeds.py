"""The trials of one encoding, and each quantity of them over the seeds, with its spread."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from whorl.results.trial import Row, Trial


@dataclass(frozen=True)
class Metric:
    """A number that a task's rows have, and how to read it.

    key              of a row's values
    label            in words
    unit             "share": of 1, told in percent, and two differ by their difference; "ratio": a positive number, and
                     two differ by the logarithm of their ratio
    chance           what one has that has learnt nothing and guesses; None: it is not known beforehand
    learnt           what must be reached in range for anything beyond it to mean something; None: what a unigram model
                     has, which the results tell
    evaluation       the key of a trial's evaluations that has it, filled in by its task
    has_stderr       the rows' standard error is of this one
    of               what a share is of, in words
    """

    key: str
    label: str
    unit: Literal["share", "ratio"]
    lower_is_better: bool = False
    chance: float | None = None
    learnt: float | None = None
    evaluation: str = ""
    has_stderr: bool = False
    of: str = "tokens"

    @property
    def share(self) -> bool:
        return self.unit == "share"


@dataclass(frozen=True)
class Cell:
    """One quantity of one encoding at one length.

    `values` are by seed: None where a run gave none, NaN or infinity where it diverged. `stderr` is the standard
    error over windows or sequences, averaged over the seeds. `unreachable` is the reason why there is no value.
    """

    length: int
    values: Mapping[int, float | None]
    stderr: float | None = None
    samples: int | None = None
    unreachable: str | None = None

    @property
    def finite(self) -> list[float]:
        return [value for value in self.values.values() if value is not None and math.isfinite(value)]

    @property
    def diverged(self) -> list[int]:
        """The seeds whose value is not finite."""
        return [s for s, value in self.values.items() if value is not None and not math.isfinite(value)]

    @property
    def divergence(self) -> str:
        """`2 of 3 diverged`, which says whose mean it is; nothing where no seed did, or all."""
        return f"{len(self.diverged)} of {len(self.values)} diverged" if self.diverged and self.finite else ""

    @property
    def mean(self) -> float | None:
        """Mean over the seeds that did not diverge, which is not to be held against a mean over all; NaN when all
        did."""
        if self.finite:
            return float(np.mean(self.finite))
        return math.nan if self.diverged else None

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds; None for a single one."""
        return float(np.std(self.finite, ddof=1)) if len(self.finite) > 1 else None


@dataclass(frozen=True)
class Encoding:
    """The trials of one encoding, in the order of their seeds. `index` chooses its colour and mark."""

    name: str
    index: int
    trials: tuple[Trial, ...]

    def rows(self, metric: Metric, length: int) -> dict[int, Row]:
        """The rows of an evaluation at a length, by seed."""
        return {t.seed: row for t in self.trials if (row := t.row(metric.evaluation, length)) is not None}

    def cell(self, metric: Metric, length: int) -> Cell | None:
        """The metric at a length, or None when no trial was evaluated there."""
        rows = self.rows(metric, length)
        if not rows:
            return None
        reasons = [row.unreachable for row in rows.values() if row.unreachable]
        if reasons:
            return Cell(length, {}, unreachable=reasons[0])
        errors = [error for row in rows.values() if (error := _stderr(metric, row)) is not None]
        first = next(iter(rows.values()))
        return Cell(
            length,
            {seed: row.value(metric.key) for seed, row in rows.items()},
            stderr=float(np.mean(errors)) if errors else None,
            samples=first.sequences if first.windows is None else first.windows,
        )

    def solving(self, metric: Metric, in_range: Sequence[int]) -> Encoding:
        """With those of its trials alone that solved the task: which have what the metric asks for (`learnt`) at every
        one of these lengths at which they were evaluated."""
        needed = metric.learnt or 0.0

        def solved(trial: Trial) -> bool:
            rows = [row for row in trial.evaluations.get(metric.evaluation, ()) if row.length in in_range]
            values = [row.value(metric.key) for row in rows]
            return bool(values) and all(value is not None and value >= needed for value in values)

        return replace(self, trials=tuple(filter(solved, self.trials)))

    def on(self, seeds: Sequence[int]) -> Encoding:
        """With its trials of these seeds alone."""
        return replace(self, trials=tuple(trial for trial in self.trials if trial.seed in seeds))

    def ratio(self, metric: Metric, length: int, reference: int | None) -> Cell | None:
        """The metric over its own in-range value, seed by seed."""
        base = self.cell(metric, reference) if reference is not None else None
        far = self.cell(metric, length)
        if base is None or far is None or base.unreachable or far.unreachable:
            return None
        return Cell(length, {s: _divide(far.values[s], base.values[s]) for s in far.values if s in base.values})

    def training(self, key: Literal["tokens", "seconds", "tokens_per_second", "loss"]) -> Cell:
        """A number of the training over the seeds."""
        return Cell(0, {t.seed: float(getattr(t.train, key)) for t in self.trials})

    @property
    def pairs(self) -> int | None:
        """Channel pairs per head that could turn; None for an encoding that is not rotary."""
        return self.trials[0].pairs

    @property
    def pairs_turning(self) -> int | tuple[int, ...] | None:
        """How many turn: one number, or one per layer."""
        return self.trials[0].pairs_turning

    @property
    def wavelengths(self) -> list[list[float | None]] | None:
        """Tokens per full turn, one list per layer (one in all where every layer is alike), one entry per pair;
        None for a pair that does not rotate. A layer whose wavelengths the results do not tell has NaN for every pair
        that turns."""
        turning = self.pairs_turning
        if self.pairs is None or turning is None:
            return None
        if isinstance(turning, int):
            return [_pad(self.trials[0].wavelengths, turning, self.pairs)]
        rows = [_pad(None, count, self.pairs) for count in turning]
        return rows[:1] if all(row == rows[0] for row in rows) else rows


def _pad(layer: tuple[float | None, ...] | None, turning: int, pairs: int) -> list[float | None]:
    given = [math.nan] * turning if layer is None else list(layer)
    padded = [*given, *[None] * (pairs - len(given))]
    return [None if wavelength is None or math.isinf(wavelength) else wavelength for wavelength in padded]


def _divide(a: float | None, b: float | None) -> float | None:
    if a is None or b is None or b == 0:
        return None
    return a / b if math.isfinite(a) and math.isfinite(b) else math.nan


def _stderr(metric: Metric, row: Row) -> float | None:
    """A ratio's: as given. A share's: binomial over sequences, the widest that it can be."""
    if metric.share:
        share, count = row.values.get(metric.key), row.sequences
        return math.sqrt(share * (1 - share) / count) if share is not None and count and 0 <= share <= 1 else None
    return row.error if metric.has_stderr else None
