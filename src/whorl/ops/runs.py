"""Biases and scores by runs of distance (`whorl.encodings.by_run`), as a loop over runs of keys reads them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from whorl.encodings.by_run import ByRun
from whorl.ops.distances import not_relative
from whorl.ops.problem import AttentionProblem

MOST = 192  # runs of a query: its numbers by run then take about what q, k and v do


class Tables(NamedTuple):
    """Of R runs, in the order of keys, of `kinds`: as many, but where several share their numbers."""

    begin: torch.Tensor | None = None  # the first key of each run but the first, ascending; int32 [B or 1, R - 1, Q]
    values: torch.Tensor | None = None  # float32 [B, H, kinds, Q], as slopes
    slopes: torch.Tensor | None = None
    feature: torch.Tensor | None = None  # [Q + K - 1], at i - j + K - 1
    vectors: torch.Tensor | None = None  # [H or 1, kinds, channels]
    rows: torch.Tensor | None = None  # the kind of each run, where there are fewer: int32 [B or 1, R, Q]
    kinds: int = 0

    def added(self, mass: torch.Tensor) -> torch.Tensor:
        """What vectors add to the output [B, H, Q, channels], for the sum of weights of each kind [B, H, kinds, Q]."""
        assert self.vectors is not None
        return mass.mT @ self.vectors


def apart(problem: AttentionProblem) -> nn.Module | None:
    """The one module that goes by runs, if there is one. Of two, none is taken: a loop has one set of them."""
    if not problem.scores and not_relative(problem) is None:
        return None
    biases = [module for module in problem.biases if _by_runs(module)]
    scores = [score.module for score in problem.scores if _by_runs(score.module)]
    found: list[Any] = [*biases, *scores]
    return None if len(found) != 1 or problem.query_positions.dim() != 2 else found[0]


def without(problem: AttentionProblem, module: nn.Module | None) -> AttentionProblem:
    """What is left of the problem without a module that was taken apart."""
    if module is None:
        return problem
    return problem._replace(
        biases=tuple(x for x in problem.biases if x is not module),
        scores=tuple(x for x in problem.scores if x.module is not module),
    )


def _by_runs(module: Any) -> bool:
    return 0 < getattr(module, "runs", 0) <= getattr(module, "most_runs", MOST)


def tables(module: Any, problem: AttentionProblem, first: torch.Tensor, end: torch.Tensor, own: int) -> Tables:
    """For queries i that see the keys first[i] <= j < end[i] (int64 [B or 1, Q]), i + own - j tokens away."""
    q, keys = problem.q, problem.k.shape[2]
    batch, heads, queries, _ = q.shape
    at = torch.arange(queries) + own
    sees = first < end
    least = int((at - end + 1).where(sees, own + queries).min())
    most = int((at - first).where(sees, own - keys).max())
    if most < least:  # nothing is seen
        least = most = 0
    found: ByRun = module.by_run(q.float() * problem.scale, problem.query_positions, least, most, problem.v.shape[3])
    begin = found.begin
    if begin is None:
        begin = (at - found.farthest).clamp_(0, keys).int().contiguous()
    numbers = [x for x in (found.values, found.vectors) if x is not None]
    kinds = begin.shape[1] + 1 if found.rows is None else numbers[0].shape[-2]

    def whole(x: torch.Tensor | None) -> torch.Tensor | None:
        return None if x is None else x.expand(batch, heads, kinds, queries)

    feature = found.feature
    if feature is not None:
        before = least - (own - (keys - 1))
        feature = nn.functional.pad(feature, (before, queries + keys - 1 - before - len(feature)))
    return Tables(begin, whole(found.values), whole(found.slopes), feature, found.vectors, found.rows, kinds)
