"""A comparison: what it was run with, and its finished trials. `DIR/results.json`, and what `whorl.compare` returns."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from whorl.checking import check_numbers
from whorl.results.failure import Failure
from whorl.results.over_seeds import Cell, Encoding, Metric
from whorl.results.schema import REST, Keyed
from whorl.results.showing import Shown
from whorl.results.trial import Machine, Row, Trial


@dataclass(frozen=True)
class Data:
    """What a task says of its data.

    train_tokens  of the training text, where there is one
    unigram       a row per length: what a model has that knows how often each token occurs and nothing else
    facts         the rest, for people: how much data there is, and of what kind
    unit          what lengths count: tokens, items, digits, ...
    guessing      a row per length: what one has who knows the form of an answer and guesses; none where a metric's
                  own chance says it. Where several evaluations were made, by `evaluation.metric`
    one_length    whether training shows the training length alone, so that shorter ones are out of range too
    """

    task: str
    version: int
    vocab_size: int
    facts: dict[str, Any] = field(default_factory=dict, metadata=REST)
    train_tokens: int | None = None
    unigram: tuple[Row, ...] = ()
    unit: str = "tokens"
    guessing: tuple[Row, ...] = ()
    one_length: bool = False

    def __post_init__(self) -> None:
        check_numbers(tokens=self.train_tokens)
        for row in self.unigram:
            for key, value in row.values.items():
                if not 0 < value < math.inf:
                    raise ValueError(f"unigram must have finite perplexities, got {key} {value} at {row.length} tokens")


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of the run with nothing left open (see `whorl.training.settings.Settings`), and what follows.

    train_tokens  tokens of a training sequence, where `train_length` counts something else
    mix           what was mixed into the text, each task with its share of the sequences
    learning_rates  those that every encoding was trained at, where several were asked for, and not `learning_rate`
    """

    task: str
    text: str
    tokenizer: str | None
    model: str
    train_length: int
    lengths: tuple[int, ...]
    tokens: int
    tail: int
    windows: int
    batch_size: int
    learning_rate: float
    schedule: str
    warmup: float
    weight_decay: float
    precision: str
    compile: bool
    parameters: int
    steps: int
    seeds: tuple[int, ...]
    trials_planned: int
    data: Data
    train_tokens: int | None = None
    mix: tuple[str, ...] = ()
    learning_rates: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_numbers(train_length=self.train_tokens)
        check_numbers(train_length=self.train_length, tokens=self.tokens)
        for length in self.lengths:
            check_numbers(length=length)


@dataclass(frozen=True, kw_only=True, repr=False)
class Comparison(Shown, Keyed):
    """The finished trials of a comparison, and those that failed. Lengths are in tokens.

    trials          those that it shows: where several learning rates were tried, at the best of each encoding
    at_other_rates  the others (see `whorl.results.rates`)
    differing       what not all of them ran on or with (see `whorl.results.differing`)

    >>> results = whorl.compare(["rope", "hope"], seeds=[0, 1, 2])
    >>> results.trials[0].evaluations["perplexity"][0].values["tail"]
    20.43
    """

    schema: ClassVar[int] = 1

    whorl: str
    created: str
    machine: Machine
    versions: dict[str, str]
    config: Config
    trials: tuple[Trial, ...]
    failures: tuple[Failure, ...] = ()
    at_other_rates: tuple[Trial, ...] = ()
    differing: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)

    @property
    def train_length(self) -> int:
        return self.config.train_length

    @property
    def train_tokens(self) -> int:
        """Tokens of a training sequence."""
        return self.config.train_tokens or self.config.train_length

    @property
    def unit(self) -> str:
        """What the lengths count: tokens, items, digits, ..."""
        return self.config.data.unit

    @cached_property
    def encodings(self) -> tuple[Encoding, ...]:
        """The trials by their notation, in the order in which they appear."""
        groups: dict[str, list[Trial]] = {}
        for trial in self.trials:
            groups.setdefault(trial.notation, []).append(trial)
        return tuple(
            Encoding(name, index, tuple(sorted(trials, key=lambda trial: trial.seed)))
            for index, (name, trials) in enumerate(groups.items())
        )

    @property
    def evaluations(self) -> list[str]:
        """The evaluations that were made, e.g. `perplexity`, `copy`."""
        return list(dict.fromkeys(name for trial in self.trials for name in trial.evaluations))

    @property
    def seeds(self) -> list[int]:
        """The seeds of the finished trials."""
        return sorted({trial.seed for trial in self.trials})

    @property
    def shared_seeds(self) -> list[int]:
        """The seeds by which encodings are ranked: those that two or more have finished, or one that is alone."""
        count = Counter(trial.seed for trial in self.trials)
        return [seed for seed in self.seeds if count[seed] > 1 or len(self.encodings) < 2]

    def done(self, name: str) -> set[int]:
        """The seeds that this encoding has finished."""
        return {trial.seed for trial in self.trials if trial.notation == name}

    def failed(self, name: str) -> set[int]:
        """The seeds that this encoding lacks, as their trials came to no result."""
        return {failure.seed for failure in self.failures if failure.notation == name} - self.done(name)

    @property
    def pretrained(self) -> str | None:
        """The encoding that the weights which the trials began with were trained with; None for random ones."""
        return next((trial.pretrained for trial in self.trials if trial.pretrained), None)

    @property
    def epochs(self) -> float | None:
        """Passes over the training text that a trial's tokens amount to."""
        text = self.config.data.train_tokens
        return self.config.tokens / text if text else None

    def unigram(self, metric: Metric, length: int) -> float | None:
        """The metric of a model that knows how often each token occurs and nothing else; None where it was not had."""
        return _value(self.config.data.unigram, metric.key, length)

    def guessing(self, metric: Metric, length: int | None) -> float | None:
        """The metric of one who guesses; None where it is not known."""
        if length is None:
            return metric.chance
        for key in (f"{metric.evaluation}.{metric.key}", metric.key):
            found = _value(self.config.data.guessing, key, length)
            if found is not None:
                return found
        return metric.chance

    def lengths(self, evaluation: str) -> list[int]:
        """The lengths at which this evaluation was made, ascending."""
        return sorted({row.length for trial in self.trials for row in trial.evaluations.get(evaluation, ())})

    def reference(self, evaluation: str) -> int | None:
        """The in-range length that the others are held against: the longest of them."""
        return max(self.near(evaluation), default=None)

    def in_range(self, length: int) -> bool:
        """Whether training shows examples of this length."""
        return length == self.train_length or (length < self.train_length and not self.config.data.one_length)

    def near(self, evaluation: str) -> list[int]:
        """The evaluated lengths in range."""
        return [n for n in self.lengths(evaluation) if self.in_range(n)]

    def far(self, evaluation: str) -> list[int]:
        """The evaluated lengths that training shows nothing of: beyond the training length, or all others."""
        return [n for n in self.lengths(evaluation) if not self.in_range(n)]

    def records(self) -> list[dict[str, Any]]:
        """A row per trial, evaluation and length."""
        return [
            {"encoding": t.notation, "seed": t.seed, "evaluation": name, "length": r.length} | r.values
            | {"stderr": r.stderr}
            for t in self.trials
            for name, rows in t.evaluations.items()
            for r in rows
        ]  # fmt: skip

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """A row per encoding and evaluation: the mean of its first number over the seeds, by length."""
        lengths = sorted({n for name in self.evaluations for n in self.lengths(name)})
        rows = []
        for e in self.encodings:
            for name in self.evaluations:
                found = (row for t in e.trials for row in t.evaluations.get(name, ()) if row.values)
                key = next((key for row in found for key in row.values), "")
                metric = Metric(key, key, "ratio", evaluation=name)
                shown = [_shown(e.cell(metric, n)) for n in lengths]
                rows.append([e.name, f"{name} {key}", str(len(e.trials)), *shown])
        return ["encoding", "value", "seeds", *(f"{n:,}" for n in lengths)], rows


def _shown(cell: Cell | None) -> str:
    """The mean, and of how many seeds it is not: `172.2 (2 of 3 diverged)`."""
    if cell is None or cell.mean is None:
        return ""
    if not math.isfinite(cell.mean):
        return "diverged"
    return f"{cell.mean:.4g} ({cell.divergence})" if cell.divergence else f"{cell.mean:.4g}"


def _value(rows: Sequence[Row], key: str, length: int) -> float | None:
    """What the row of a length has under this key."""
    return next((row.values[key] for row in rows if row.length == length and key in row.values), None)
