"""Linear attention in O(tokens d^2): chunks of tokens, and what has been summed up over the keys before each.

Weights are a quotient of features (`whorl.encodings.scores.Features`), so that for the queries of a chunk all keys
before it are two sums, of_k^T v [F, D] and under_k [F]; the keys in it are met one by one. Sums are float32.

In plain differentiable PyTorch: the backward pass keeps chunks of products and the sums before each, O(tokens).
"""

from __future__ import annotations

from typing import Any

import torch

from whorl.encodings.scores import Features
from whorl.numerics import math_dtype
from whorl.ops.distances import by_hand
from whorl.ops.problem import AttentionProblem
from whorl.ops.visible import Visible

CHUNK = 64  # tokens


def missing(problem: AttentionProblem) -> str | None:
    if len(problem.scores) != 1 or not problem.scores[0].module.does("features"):
        return "its weights are not a quotient of features, as those of `linear` are"
    if problem.biases or problem.channels is not None:
        return "something is added to its logits, of which it has none"
    if (why := by_hand(problem)) is not None:
        return why
    if problem.q.shape[2] < CHUNK:
        return f"{problem.q.shape[2]} queries meet their keys one by one in less time; it begins at {CHUNK}"
    if _first_seen(problem) is None:
        return "queries of a row do not see all keys from one first to their own, or all of the same"
    return None


def _first_seen(problem: AttentionProblem) -> tuple[torch.Tensor, torch.Tensor, bool] | None:
    """The first key and the end of those that a row's queries see, [batch or 1, 1], and whether each sees those up to
    its own alone; None where queries of a row differ in more."""
    return problem.shared(_spans, problem.causal)


def _spans(
    mask: Visible | None, query_positions: torch.Tensor, key_positions: torch.Tensor, causal: bool
) -> tuple[torch.Tensor, torch.Tensor, bool] | None:
    queries, keys, device = query_positions.shape[1], key_positions.shape[1], query_positions.device
    if mask is None:
        ends = torch.tensor([[0], [keys]], device=device)
        return ends[:1], ends[1:], causal
    runs = mask.runs()
    if runs is None:
        return None
    first, end = (x.to(device) for x in runs)
    sees = end > first
    own = torch.arange(keys - queries + 1, keys + 1, device=device)
    if causal:
        end = end.minimum(own)
        sees = end > first
    at = first.where(sees, keys).amin(1, keepdim=True)
    last = end.where(sees, 0).amax(1, keepdim=True)
    alike = (first == at) | ~sees
    if bool((alike & ((end == own) | ~sees)).all()) and bool((sees == (own > at)).all()):
        return at, last, True
    if bool((alike & (end == last) & sees).all()):
        return at, last, False
    return None


def run(problem: AttentionProblem) -> torch.Tensor:
    heads, queries, keys = problem.q.shape[1], problem.q.shape[2], problem.k.shape[2]
    dtype: Any = math_dtype(problem.q.dtype)
    q, k, v = (x.to(dtype).repeat_interleave(heads // x.shape[1], 1) for x in (problem.q, problem.k, problem.v))
    (score,) = problem.scores
    found = score.module.features(q, k, score.at(problem.query_positions, problem.key_positions))
    first, end, own = problem.shared(_spans, problem.causal)  # type: ignore[misc]
    at = torch.arange(keys, device=q.device)
    seen = ((at >= first) & (at < end))[:, None, :, None]
    of_q, of_k, under_q, under_k = found
    of_k, under_k = of_k * seen, under_k * seen
    over, under = (
        _up_to_own(Features(of_q, of_k, under_q, under_k), v, queries)
        if own
        else (of_q @ (of_k.mT @ v), under_q @ under_k.sum(-2, keepdim=True).mT)
    )
    return over / under.masked_fill(under == 0, 1)  # of a query that sees nothing


def _up_to_own(found: Features, v: torch.Tensor, queries: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Numerators [B, H, Q, D] and denominators [B, H, Q, 1] of queries that see the keys up to their own."""
    ahead = v.shape[2] - queries  # keys before the first query's own
    pad = -queries % CHUNK

    def chunks(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(x[:, :, -queries:], (0, 0, 0, pad)).unflatten(2, (-1, CHUNK))

    of_q, of_k, under_q, under_k, values = map(chunks, (*found, v))
    sums = _before(of_k.mT @ values)  # [B, H, chunks, F, D]
    unders = _before(under_k.sum(-2, keepdim=True).mT)
    if ahead:
        sums = sums + (found.of_k[:, :, :ahead].mT @ v[:, :, :ahead])[:, :, None]
        unders = unders + found.under_k[:, :, :ahead].sum(-2)[:, :, None, :, None]
    over = (of_q @ of_k.mT).tril() @ values + of_q @ sums
    under = (under_q @ under_k.mT).tril().sum(-1, keepdim=True) + under_q @ unders
    return over.flatten(2, 3)[:, :, :queries], under.flatten(2, 3)[:, :, :queries]


def _before(of_chunks: torch.Tensor) -> torch.Tensor:
    """The sum over all chunks before each."""
    return torch.nn.functional.pad(of_chunks.cumsum(2)[:, :, :-1], (0, 0, 0, 0, 1, 0))
