"""Curves over bins, and tables of cells: their means, joined bins, and the digits that a page shows."""

import math
from collections.abc import Sequence

import numpy as np

FEW, FAR = 0.02, 1.25
"""At most so few cells lie past the limits of colours: those of more than so many times what the others stay below."""


def mean(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """The mean of what is there; NaN where nothing is."""
    there = np.isfinite(values)
    count = there.sum(axis)
    total = np.where(there, values, 0.0).sum(axis, dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def merge(
    start: np.ndarray, stop: np.ndarray, values: np.ndarray, about: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bins joined to `about` many, wider in proportion to their distance but none wider than a 24th of the whole.

    values: [..., bins]; a joined one is the mean over its bins by their widths, of those that are there.
    """
    if len(start) <= about:
        return start, stop, values
    last = float(stop[-1])
    growth = max(last, 2.0) ** (1 / about)
    groups, first = [], 0
    for i in range(len(start)):
        begin = start[first]
        full = i + 1 == len(start) or stop[i + 1] > max(begin * growth, begin + 1) or stop[i + 1] - begin > last / 24
        if full:
            groups.append((first, i + 1))
            first = i + 1
    joined = np.full((*values.shape[:-1], len(groups)), np.nan)
    for column, (a, b) in enumerate(groups):
        there = np.isfinite(values[..., a:b])
        weight = there * (stop - start)[a:b]
        total, width = (np.where(there, values[..., a:b], 0.0) * weight).sum(-1), weight.sum(-1)
        joined[..., column] = np.where(width > 0, total / np.where(width > 0, width, 1.0), np.nan)
    return np.array([start[a] for a, _ in groups]), np.array([stop[b - 1] for _, b in groups]), joined


def span(values: np.ndarray, start: np.ndarray, stop: np.ndarray, low: float, high: float, tokens: int) -> np.ndarray:
    """The mean over the bins of distances whose middle lies in [low, high); NaN where there is none.

    Each has the weight of the (query, key) pairs that it holds in a window of so many tokens, the first token being no
    key: far bins hold fewer.
    """
    middle = (start + stop - 1) / 2
    pairs = (stop - start) * np.maximum(tokens - 1 - middle, 0)
    weight = np.where((middle >= low) & (middle < high), pairs, 0.0) * np.isfinite(values)
    total, width = (np.where(weight > 0, values, 0.0) * weight).sum(-1), weight.sum(-1)
    return np.where(width > 0, total / np.where(width > 0, width, 1.0), np.nan)


def rounded(values: Sequence[float] | np.ndarray, digits: int = 4) -> tuple[float | None, ...]:
    """To significant digits, for a page that stays small; None for what is not finite."""
    return tuple(float(f"{v:.{digits}g}") if math.isfinite(v) else None for v in np.asarray(values, dtype=float))


def graded(table: np.ndarray) -> list[tuple[float | None, ...]]:
    """The rows of a table of cells, to three significant digits of the largest value that has a colour of its own:
    colours tell no more."""
    there = np.abs(table[np.isfinite(table)])
    top = largest(there) if there.size else 0.0
    decimals = 2 - math.floor(math.log10(top)) if top > 0 else 0
    whole_rows = (np.round(table.astype(float), decimals) + 0.0).tolist()  # + 0.0: no minus before a zero
    return [tuple(v if math.isfinite(v) else None for v in row) for row in whole_rows]


def largest(sizes: np.ndarray) -> float:
    """The largest that is not more than `FAR` times what all but `FEW` keep below; 0 where there is none."""
    most = float(np.quantile(sizes, 1 - FEW)) if sizes.size else 0.0
    return float(sizes[sizes <= FAR * most].max() if most > 0 else sizes.max(initial=0.0))
