"""Which of several encodings is ahead over several cells (tasks, seeds, or both): mean reciprocal rank (2305.19466).

Those that are equal in a cell share the mean of the ranks that they take up together (two at the top have 1.5 each). So
no order of rows decides, as in the paper's notebook, where ties at 0 go to whoever is listed first; and the ranks of a
cell have the same sum whatever ties there are, which they would not if all of those that tie had the last of theirs.
A value that is not finite is below every other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from whorl.results.over_seeds import Encoding, Metric


def ranks(values: Mapping[str, float], lower_is_better: bool = False) -> dict[str, float]:
    """The rank of each, 1 for the best; those that are equal share the mean of theirs.

    >>> ranks({"nope": 0.4, "rope": 0.0, "alibi": 0.0})
    {'nope': 1.0, 'rope': 2.5, 'alibi': 2.5}
    """
    sign = -1.0 if lower_is_better else 1.0
    points = {name: sign * value if math.isfinite(value) else -math.inf for name, value in values.items()}
    ordered = sorted(points.values(), reverse=True)
    return {name: ordered.index(point) + (ordered.count(point) + 1) / 2 for name, point in points.items()}


def mean_reciprocal_rank(cells: Sequence[Mapping[str, float]], lower_is_better: bool = False) -> dict[str, float]:
    """The mean of 1 / rank over cells, each with a value for every encoding. Raises ValueError for one that lacks some.

    >>> mean_reciprocal_rank([{"nope": 0.4, "rope": 0.1}, {"nope": 0.0, "rope": 0.2}])
    {'nope': 0.75, 'rope': 0.75}
    """
    names = list(cells[0]) if cells else []
    for cell in cells:
        if cell.keys() != set(names):
            raise ValueError(f"every cell must have a value of {', '.join(names)}; one has those of {', '.join(cell)}")
    ranked = [ranks(cell, lower_is_better) for cell in cells]
    return {name: sum(1 / rank[name] for rank in ranked) / len(ranked) for name in names}


def means(encodings: Sequence[Encoding], metric: Metric, lengths: Sequence[int]) -> dict[int, dict[str, float]]:
    """By seed, each encoding's mean share over these lengths, all of them alike.

    What diverged or could not be reached is not right, and counts as 0. Seeds that not every encoding has are left out.
    """
    seeds = [{trial.seed for trial in e.trials} for e in encodings]
    common = sorted(set.intersection(*seeds)) if seeds and lengths else []
    return {seed: {e.name: _mean(e, metric, lengths, seed) for e in encodings} for seed in common}


def _mean(e: Encoding, metric: Metric, lengths: Sequence[int], seed: int) -> float:
    rows = (e.rows(metric, length).get(seed) for length in lengths)
    values = [0.0 if row is None else row.value(metric.key) or 0.0 for row in rows]
    return sum(value if math.isfinite(value) else 0.0 for value in values) / len(lengths)
