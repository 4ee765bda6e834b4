"""Whether two values differ: by the interval of their paired difference, or not at all.

Trials of one seed begin with the same weights and see the same batches, and all trials are evaluated on the same
windows. So what two encodings (or one at two lengths) have in common cancels in the difference of a pair, which is
known better than either value. Perplexities differ by the logarithm of their ratio, shares by their difference.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from whorl.results.over_seeds import Encoding, Metric
from whorl.results.trial import Row

CONFIDENCE = 0.95
Pairs = Literal["seeds", "windows", "none"]


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences and half the width of its 95 % interval (None: nothing tells it).

    `pairs` are seeds where there are two or more in common, else the windows or sequences of the one seed; without
    those (results of earlier versions) the standard errors of both values are combined as if they were independent.
    """

    mean: float
    half: float | None
    pairs: Pairs

    @property
    def resolved(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.half is not None and abs(self.mean) > self.half


def difference(metric: Metric, a: tuple[Encoding, int], b: tuple[Encoding, int]) -> Difference | None:
    """Of a minus b, each an encoding at a length; None where they have no seed with finite values in common."""
    rows = [encoding.rows(metric, length) for encoding, length in (a, b)]
    common = [s for s in rows[0] if s in rows[1] and all(_usable(metric, r[s]) for r in rows)]
    if not common:
        return None
    each = [_on_scale(metric, rows[0][s]) - _on_scale(metric, rows[1][s]) for s in common]
    mean = float(np.mean(each))
    if len(common) > 1:
        return Difference(mean, _half(each), "seeds")
    x, y = (r[common[0]] for r in rows)
    if len(x.samples) == len(y.samples) > 1 and all(map(math.isfinite, (*x.samples, *y.samples))):
        return Difference(mean, _half(np.subtract(x.samples, y.samples).tolist()), "windows")
    errors = [_error(metric, row) for row in (x, y)]
    if errors[0] is None or errors[1] is None:
        return Difference(mean, None, "none")
    return Difference(mean, 2 * math.hypot(errors[0], errors[1]), "none")


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


def _half(each: Sequence[float]) -> float:
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
