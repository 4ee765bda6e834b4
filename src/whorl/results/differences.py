"""Whether two values differ: by the 95 % interval of their paired difference, or not at all.

Trials of one seed begin with the same weights and see the same batches, and all trials are evaluated on the same
windows. So what two encodings (or one at two lengths) have in common cancels in the difference of a pair, which is
known better than either value. Perplexities differ by the logarithm of their ratio, shares by their difference.

Another training and another evaluation text would each move a difference, so its interval has two parts:

    seeds      Student's t over the differences of the seeds. A bootstrap of two or three of them is far too narrow
    windows    a bootstrap: windows (or sequences) are drawn with replacement, each with its differences on all seeds,
               as these have the windows in common. Student's t over Gauss widens it, which windows that are few need

Each end is as far from the mean as the root of the summed squares of both parts' (Zou and Donner 2008). Of 1,000
made-up experiments with 2, 3 or 5 seeds and 96 windows, such an interval holds the truth in 95 to 99 %, where the
percentiles of a bootstrap of seeds and windows hold it in 64 to 96 %, and the seeds alone in 44 to 97 %
(tests/results/test_differences.py). What is drawn is the same every time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Literal

import numpy as np

from whorl.results.over_seeds import Encoding, Metric
from whorl.results.trial import Row

CONFIDENCE = 0.95
RESAMPLES = 2000
Pairs = Literal["seeds and windows", "seeds", "windows", "none"]


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences and the ends of its 95 % interval (None: nothing tells them).

    `pairs` says what was paired: seeds where there are two or more in common, windows (or sequences) where the results
    have the values of each. Without either (results of earlier versions, of one seed) the standard errors of both
    values are combined as if they were independent.
    """

    mean: float
    low: float | None
    high: float | None
    pairs: Pairs

    @property
    def resolved(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def difference(metric: Metric, a: tuple[Encoding, int], b: tuple[Encoding, int]) -> Difference | None:
    """Of a minus b, each an encoding at a length; None where they have no seed with finite values in common, or a seed
    of either diverged there: the others, which may be the easy ones, do not speak for it."""
    if any(cell is not None and cell.diverged for cell in (e.cell(metric, length) for e, length in (a, b))):
        return None
    rows = [encoding.rows(metric, length) for encoding, length in (a, b)]
    common = [s for s in rows[0] if s in rows[1] and all(_usable(metric, r[s]) for r in rows)]
    if not common:
        return None
    each = [_on_scale(metric, rows[0][s]) - _on_scale(metric, rows[1][s]) for s in common]
    by_window = _by_window(metric, [rows[0][s] for s in common], [rows[1][s] for s in common])
    if len(common) == 1 and by_window is None:
        (mean,), errors = each, [_error(metric, r[common[0]]) for r in rows]
        if errors[0] is None or errors[1] is None:
            return Difference(mean, None, None, "none")
        half = 2 * math.hypot(errors[0], errors[1])
        return Difference(mean, mean - half, mean + half, "none")
    pairs: Pairs = "windows" if len(common) == 1 else "seeds" if by_window is None else "seeds and windows"
    return Difference(*mean_and_ends(each, by_window), pairs)


def mean_and_ends(by_seed: Sequence[float], by_sample: np.ndarray | None) -> tuple[float, float, float]:
    """The mean over seeds, and the ends of its interval, which has a part of each that can be told.

    by_seed: a value of each seed, its part where there are two or more. by_sample: a value of each window (prompt,
    task, ...), the mean over the seeds [n]; n is 2 or more, or None for no such part.
    """
    mean = float(np.mean(by_seed))
    seeds = half_width(by_seed) if len(by_seed) > 1 else 0.0
    below, above = (0.0, 0.0) if by_sample is None else resampled(by_sample)
    return mean, mean - math.hypot(seeds, below), mean + math.hypot(seeds, above)


def resampled(values: np.ndarray) -> tuple[float, float]:
    """How far below and above their mean the interval of a bootstrap of the values [n] ends; n is 2 or more."""
    n = len(values)
    means = _draws(n) @ (values - values.mean())
    outside = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [outside, 1 - outside])
    few = student(n - 1) / NormalDist().inv_cdf(1 - outside) * math.sqrt(n / (n - 1))
    return max(0.0, -few * float(low)), max(0.0, few * float(high))


@lru_cache(4)
def _draws(n: int) -> np.ndarray:
    """How often each of n is drawn, over n [RESAMPLES, n], drawing n with replacement."""
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n


def _by_window(metric: Metric, a: Sequence[Row], b: Sequence[Row]) -> np.ndarray | None:
    """The differences of each window, the mean over the seeds [windows]: those of which the rows have the windows' own
    values of this metric, as earlier versions' have not. None where none have."""
    pairs = [(x.samples, y.samples) for x, y in zip(a, b, strict=True) if len(x.samples) == len(y.samples) > 1]
    if not metric.has_stderr or len({len(x) for x, _ in pairs}) != 1:
        return None
    values = np.mean([np.subtract(x, y) for x, y in pairs], 0)
    return values if np.isfinite(values).all() else None


def _usable(metric: Metric, row: Row) -> bool:
    value = row.value(metric.key)
    return value is not None and math.isfinite(value) and (metric.share or value > 0)


def _on_scale(metric: Metric, row: Row) -> float:
    value = row.values[metric.key]
    return value if metric.share else math.log(value)


def _error(metric: Metric, row: Row) -> float | None:
    error, value = row.error, row.values[metric.key]
    if error is None and metric.share and row.sequences:  # binomial, the widest that it can be
        error = math.sqrt(value * (1 - value) / row.sequences)
    if error is None:
        return None
    return error if metric.share else error / value


def half_width(each: Sequence[float]) -> float:
    """Of the interval of a mean by Student's t; there must be two values or more."""
    return student(len(each) - 1) * float(np.std(each, ddof=1)) / math.sqrt(len(each))


def student(freedom: int) -> float:
    """Student's t for a two-sided interval of 95 %: exact for 1 and 2 degrees of freedom, else Abramowitz and Stegun
    26.7.5, at most 2 % too small."""
    p = (1 + CONFIDENCE) / 2
    if freedom == 1:
        return math.tan(math.pi * (p - 0.5))
    if freedom == 2:
        return (2 * p - 1) / math.sqrt(2 * p * (1 - p))
    z = NormalDist().inv_cdf(p)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return sum(term / freedom**i for i, term in enumerate(terms))
