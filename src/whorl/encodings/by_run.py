"""What a kernel needs to know of a bias or a score that goes by runs of distance, instead of numbers per query and key.

The distances i - j of a query i fall into runs. In each, what is added to a logit is the same or a line,

    value[r, i] + slope[r, i] feature(i - j),

or weights meet one vector, and the output is given the sum over r of (the sum of weight_ij in run r) vector[r]. So a
query has as many numbers as there are runs, however many keys it sees. iRPE and Shaw have a run per bucket; FIRE's
network, of one number and with ReLUs, is a line between any two of its borders.

A module that can say so has a number `runs`, the most that a query may have (0 where it cannot, after all), and

    by_run(q, query_positions, least, most, channels) -> ByRun

for q [B, H, Q, D] with the scale in it, float32; positions [B or 1, Q]; the least and the most of all distances at
which a query sees a key; and the channels of v.

On the grid of an image a query's runs are those of each row of patches. A module that has them leaves `farthest` and
`rows` out of `by_run`: its attribute `in_rows` (None where it has none, after all) answers

    runs_of(grid) -> (farthest, rows)

in tokens, equal objects the same, so that layers share them: `whorl.ops.raster` puts them together.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class ByRun(NamedTuple):
    """R runs, in the order of keys: that of the most distant keys before the query comes first. B batch, H heads."""

    farthest: torch.Tensor  # the largest distance of each run but the first; int64 [B or 1, R - 1, Q or 1]
    values: torch.Tensor | None = None  # float32 [B or 1, H or 1, R, Q or 1], as slopes
    slopes: torch.Tensor | None = None
    feature: torch.Tensor | None = None  # of the distances least .. most, [most - least + 1]; where there are slopes
    vectors: torch.Tensor | None = None  # [H or 1, R, channels]
    rows: torch.Tensor | None = None  # where several runs share values and vectors, which of these each run has; then R
    # of these is another number: int32 [B or 1, R, Q]
    begin: torch.Tensor | None = None  # in the place of `farthest`, the first key of each run but the first: int32
