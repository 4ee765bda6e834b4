"""Attention of one query to many keys, as decoding with a cache has it: a row of logits, and no matrix that could grow.

For what the compiled loops do not take, such as biases of absolute positions. PyTorch's own operations read keys and
values once, whose heads are not copied for the heads of queries that share them.
"""

from __future__ import annotations

import torch

from whorl.numerics import math_dtype
from whorl.ops.axes import bias_at
from whorl.ops.distances import by_hand, fitting, needs_rows
from whorl.ops.impl import reference
from whorl.ops.problem import AttentionProblem
from whorl.ops.scores import product


def missing(problem: AttentionProblem) -> str | None:
    if problem.q.shape[2] != 1:
        return f"it is for one query, and there are {problem.q.shape[2]}"
    return by_hand(problem) or needs_rows(problem)


def run(problem: AttentionProblem) -> torch.Tensor:
    q, k, v = (x.to(math_dtype(problem.q.dtype)) for x in (problem.q, problem.k, problem.v))
    grouped = (*k.shape[:2], -1)  # [batch, key heads, heads of each, ...]
    logits = ((q * problem.scale).reshape(*grouped, q.shape[3]) @ k.mT).view(*q.shape[:3], -1)
    if problem.softcap is not None:
        logits = problem.softcap * torch.tanh(logits / problem.softcap)
    if problem.channels is not None:
        logits = logits + product(*problem.channels)
    sizes = {"batch": len(q), "heads": q.shape[1], "queries": 1, "keys": k.shape[2]}
    for module in problem.biases:
        bias = bias_at(module, problem.query_positions, problem.key_positions)
        logits = logits + fitting(module, bias, sizes)
    if problem.mask is not None:
        logits = logits.masked_fill(~problem.mask.dense(), -torch.inf)
    weights = reference.softmax(logits, problem.sinks)
    return (weights.reshape(*grouped, k.shape[2]) @ v).view(*q.shape[:3], -1)
