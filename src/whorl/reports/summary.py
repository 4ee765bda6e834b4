"""The results of a comparison, gathered by encoding: every quantity over its seeds, with its spread."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from whorl.reports.formatting import DASH

LEARNT = 0.95
"""Token accuracy that a synthetic task must reach in range before its extrapolation means anything."""


@dataclass(frozen=True)
class Metric:
    """One quantity of the evaluations: `row[key]` of the rows under `evaluations[kind]`."""

    kind: str
    key: str
    label: str
    percent: bool = False
    lower_is_better: bool = False


TAIL = Metric("perplexity", "tail", "tail perplexity", lower_is_better=True)
MEAN = Metric("perplexity", "mean", "mean perplexity", lower_is_better=True)


def metrics_of(kind: str) -> tuple[Metric, Metric]:
    """The two metrics of an evaluation: the telling one first."""
    if kind == "perplexity":
        return TAIL, MEAN
    return (
        Metric(kind, "token_accuracy", "token accuracy", percent=True),
        Metric(kind, "exact_match", "exact match", percent=True),
    )


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
    def mean(self) -> float | None:
        """Mean over the seeds that did not diverge; NaN when all did."""
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
    trials: tuple[Mapping[str, Any], ...]

    def rows(self, metric: Metric, length: int) -> dict[int, Mapping[str, Any]]:
        """The rows of an evaluation at a length, by seed."""
        return {
            trial["seed"]: row
            for trial in self.trials
            for row in (trial.get("evaluations") or {}).get(metric.kind) or []
            if row["length"] == length
        }

    def cell(self, metric: Metric, length: int) -> Cell | None:
        """The metric at a length, or None when no trial was evaluated there."""
        rows = self.rows(metric, length)
        if not rows:
            return None
        reasons = [row["unreachable"] for row in rows.values() if row.get("unreachable")]
        if reasons:
            return Cell(length, {}, unreachable=reasons[0])
        errors = [error for row in rows.values() if (error := _stderr(metric, row)) is not None]
        first = next(iter(rows.values()))
        return Cell(
            length,
            {seed: _measured(row, metric.key) for seed, row in rows.items()},
            stderr=float(np.mean(errors)) if errors else None,
            samples=first.get("windows", first.get("sequences")),
        )

    def ratio(self, metric: Metric, length: int, reference: int | None) -> Cell | None:
        """The metric over its own in-range value, seed by seed."""
        base = self.cell(metric, reference) if reference is not None else None
        far = self.cell(metric, length)
        if base is None or far is None or base.unreachable or far.unreachable:
            return None
        return Cell(length, {s: _divide(far.values[s], base.values[s]) for s in far.values if s in base.values})

    def training(self, key: str) -> Cell:
        """`train[key]` over the seeds."""
        return Cell(0, {t["seed"]: _float((t.get("train") or {}).get(key)) for t in self.trials})

    @property
    def pairs(self) -> int | None:
        """Channel pairs per head that could turn; None for an encoding that is not rotary."""
        return self.trials[0].get("pairs")

    @property
    def pairs_turning(self) -> int | list[int | None] | None:
        """How many turn: one number, or one per layer."""
        return self.trials[0].get("pairs_turning")

    @property
    def wavelengths(self) -> list[list[float | None]] | None:
        """Tokens per full turn, one list per layer (one in all where every layer is alike), one entry per pair;
        None for a pair that stands still.

        A list of results shorter than the number of pairs holds the first ones. A layer whose wavelengths the
        results do not tell has NaN for every pair that turns.
        """
        turning = self.pairs_turning
        if self.pairs is None or turning is None:
            return None
        counts = turning if isinstance(turning, list) else [turning]
        given = self.trials[0].get("wavelengths")
        layers = given if isinstance(given, list) and any(isinstance(item, list) for item in given) else [given]
        if len(layers) != len(counts):
            layers = [None] * len(counts)
        rows = [_pad(layer, count or 0, self.pairs) for layer, count in zip(layers, counts, strict=True)]
        return rows[:1] if all(row == rows[0] for row in rows) else rows


@dataclass(frozen=True)
class Comparison:
    """The results of a comparison, as its report reads them."""

    results: Mapping[str, Any]
    encodings: tuple[Encoding, ...]

    @property
    def config(self) -> Mapping[str, Any]:
        return self.results.get("config") or {}

    @property
    def trials(self) -> list[Mapping[str, Any]]:
        return [trial for encoding in self.encodings for trial in encoding.trials]

    @property
    def train_length(self) -> int:
        return int(self.config["train_length"])

    @property
    def planned(self) -> int | None:
        """How many trials the whole comparison has, where it says so."""
        planned = self.config.get("trials_planned")
        return len(planned) if isinstance(planned, list) else planned

    @property
    def kinds(self) -> list[str]:
        """The evaluations that were made, e.g. `perplexity`, `copy`."""
        return list(dict.fromkeys(kind for t in self.trials for kind in (t.get("evaluations") or {})))

    @property
    def seeds(self) -> list[int]:
        """The seeds of the finished trials."""
        return sorted({trial["seed"] for trial in self.trials})

    def unigram(self, metric: Metric, length: int) -> float | None:
        """The metric of a model that knows how often each token occurs and nothing else; None where it was not had."""
        rows = (self.config.get("data") or {}).get("unigram") or []
        return next((float(row[metric.key]) for row in rows if row["length"] == length and metric.key in row), None)

    @property
    def epochs(self) -> float | None:
        """Passes over the training text that a trial's tokens amount to."""
        text, tokens = (self.config.get("data") or {}).get("train_tokens"), self.config.get("tokens")
        return tokens / text if text and tokens else None

    @property
    def pretrained(self) -> str | None:
        """The encoding that the weights which the trials began with were trained with; None for random ones."""
        return next((str(t["pretrained"]) for t in self.trials if t.get("pretrained")), None)

    def lengths(self, kind: str) -> list[int]:
        """The lengths at which this evaluation was made, in tokens, ascending."""
        rows = (row for t in self.trials for row in (t.get("evaluations") or {}).get(kind) or [])
        return sorted({int(row["length"]) for row in rows})

    def reference(self, kind: str) -> int | None:
        """The in-range length that the others are held against: the longest within the training length."""
        return max((length for length in self.lengths(kind) if length <= self.train_length), default=None)

    def far(self, kind: str) -> list[int]:
        """The evaluated lengths beyond the training length."""
        return [length for length in self.lengths(kind) if length > self.train_length]


def summarize(results: Mapping[str, Any]) -> Comparison:
    """Groups the trials by their notation, in the order in which they appear."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for trial in results.get("trials") or []:
        groups.setdefault(trial.get("notation") or trial["encoding"], []).append(trial)
    encodings = tuple(
        Encoding(name, index, tuple(sorted(trials, key=lambda trial: trial["seed"])))
        for index, (name, trials) in enumerate(groups.items())
    )
    return Comparison(results, encodings)


def learnt_in_range(comparison: Comparison, encoding: Encoding, metric: Metric) -> bool:
    """Whether every seed has at least 95 % of the tokens right at every length within the training length."""
    lengths = [length for length in comparison.lengths(metric.kind) if length <= comparison.train_length]
    cells = [cell for length in lengths if (cell := encoding.cell(metric, length)) is not None]
    values = [value for cell in cells for value in cell.values.values()]
    return bool(values) and all(value is not None and value >= LEARNT for value in values)


def above_unigram(comparison: Comparison, encoding: Encoding, length: int) -> bool:
    """Whether a seed's tail perplexity at a length is not below a unigram model's: it has learnt nothing of context."""
    level, cell = comparison.unigram(TAIL, length), encoding.cell(TAIL, length)
    return level is not None and cell is not None and any(value >= level for value in cell.finite)


def turning_in_words(encoding: Encoding) -> str:
    """`11 of 32`; per layer `11, 0 of 32 (layers in turn)`; a dash where nothing is rotary."""
    turning, pairs = encoding.pairs_turning, encoding.pairs
    if turning is None:
        return DASH
    of = f" of {pairs}" if pairs is not None else ""
    if isinstance(turning, int):
        return f"{turning}{of}"
    if len(set(turning)) == 1:
        return f"{DASH if turning[0] is None else turning[0]}{of}"
    cycle = _cycle(turning)
    words = ", ".join(DASH if count is None else str(count) for count in cycle)
    return f"{words}{of} ({'by layer' if len(cycle) == len(turning) else 'layers in turn'})"


def _cycle(items: list[Any]) -> list[Any]:
    """The shortest head of the list whose repetition gives the list."""
    return next(
        items[:period]
        for period in range(1, len(items) + 1)
        if all(item == items[i % period] for i, item in enumerate(items))
    )


def _pad(layer: Iterable[float | None] | None, turning: int, pairs: int) -> list[float | None]:
    given = [math.nan] * turning if layer is None else list(layer)
    padded = [*given, *[None] * (pairs - len(given))]
    return [None if wavelength is None or math.isinf(wavelength) else wavelength for wavelength in padded]


def _measured(row: Mapping[str, Any], key: str) -> float | None:
    """JSON has no NaN: a value that is there and null was measured and was not finite."""
    return _float(row[key] if row[key] is not None else math.nan) if key in row else None


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


def _divide(a: float | None, b: float | None) -> float | None:
    if a is None or b is None or b == 0:
        return None
    return a / b if math.isfinite(a) and math.isfinite(b) else math.nan


def _stderr(metric: Metric, row: Mapping[str, Any]) -> float | None:
    """Perplexity: as given, for the tail. Accuracy: binomial over sequences, the widest that it can be."""
    if metric.percent:
        accuracy, sequences = row.get(metric.key), row.get("sequences")
        if accuracy is None or not sequences or not 0 <= accuracy <= 1:
            return None
        return math.sqrt(accuracy * (1 - accuracy) / sequences)
    error = _float(row.get("stderr")) if metric == TAIL else None
    return error if error is not None and math.isfinite(error) else None
