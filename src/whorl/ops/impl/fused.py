"""Attention through PyTorch's own fused kernels, for a GPU: of queries and keys to which no bias is added.

What channels add to a logit is a float32 product, and these kernels know one product alone, that of bfloat16 rows. So
channels become columns of q and k: a number is the sum of three bfloat16 ones to 24 bits, the products of these are
exact, and the kernel sums them in float32 with all others.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import pad
from torch.nn.functional import scaled_dot_product_attention as sdpa

from whorl.ops.by_token import of_heads
from whorl.ops.distances import needs_rows
from whorl.ops.problem import AttentionProblem

# Which part of q's number stands in a column, and which of k's: all products but those that float32 cannot tell from 0.
OF_Q, OF_K = (0, 0, 0, 1, 1, 2), (0, 1, 2, 0, 1, 0)
ALIGNED, WIDEST = 8, 256  # channels that the kernels take: a multiple, and at most


def missing(problem: AttentionProblem) -> str | None:
    """Nothing is read from the device."""
    q, k, v = problem[:3]
    if problem.biases:
        return "it adds no bias"
    if (why := needs_rows(problem)) is not None:
        return why
    if problem.softcap is not None or problem.sinks is not None:
        return "it knows no softcap and no sinks"
    if problem.mask is not None and problem.mask.known is None:
        return "it takes no mask but of all keys, or of those up to a query's own"
    if _causal(problem) and q.shape[2] != k.shape[2]:
        return f"causal, it is for as many queries as keys, and there are {q.shape[2]} and {k.shape[2]}"
    if not q.dtype == k.dtype == v.dtype:
        return f"q, k and v are {q.dtype}, {k.dtype} and {v.dtype}"
    if q.dtype == torch.float64:
        return "the kernels add up in float32, and the inputs are float64"
    if problem.channels is None:
        return None
    if torch.is_grad_enabled() and any(x.requires_grad for x in problem.channels):
        return "the gradients of its channels would be sums of numbers that are rounded to bfloat16"
    if q.dtype != torch.bfloat16:
        return f"it writes channels as bfloat16 numbers, and the inputs are {q.dtype}"
    if q.shape[3] != v.shape[3] or _width(problem) > WIDEST:
        return f"with channels, q and v have {_width(problem)} and {v.shape[3]} numbers a head"
    return None


def run(problem: AttentionProblem) -> torch.Tensor:
    q, k, v = problem[:3]
    how: dict[str, Any] = {"is_causal": _causal(problem), "scale": problem.scale, "dropout_p": problem.dropout}
    if problem.channels is None:
        return sdpa(q, k, v, enable_gqa=q.shape[1] != k.shape[1], **how)
    of_q, of_k = problem.channels
    if of_k.shape[1] != 1:  # each head has keys of its own
        k, v = of_heads(k, of_k.shape[1]), of_heads(v, of_k.shape[1])
    spare = _width(problem) - v.shape[3]
    q, k = (
        pad(torch.cat([x, columns.expand(*x.shape[:3], -1)], -1), (0, spare - columns.shape[3]))
        for x, columns in ((q, _columns(of_q / problem.scale, OF_Q)), (k, _columns(of_k, OF_K)))
    )
    out = sdpa(q, k, pad(v, (0, spare)), enable_gqa=q.shape[1] != k.shape[1], **how)
    return out[..., : v.shape[3]]


def _causal(problem: AttentionProblem) -> bool:
    """Whether keys after the query's own are hidden; one query is the last, and has none."""
    known = None if problem.mask is None else problem.mask.known
    return problem.q.shape[2] > 1 and (problem.causal or known == "causal")


def _width(problem: AttentionProblem) -> int:
    """Numbers a head has in q and k, with columns."""
    assert problem.channels is not None
    columns = problem.q.shape[3] + len(OF_Q) * problem.channels[0].shape[3]
    return columns + -columns % ALIGNED


def _columns(x: torch.Tensor, parts: tuple[int, ...]) -> torch.Tensor:
    """x [..., channels], float32, to bfloat16 columns [..., channels x len(parts)]: of each the parts named."""
    of_x: list[torch.Tensor] = []
    for _ in range(3):
        of_x.append(x.bfloat16())
        x = x - of_x[-1]
    return torch.stack([of_x[part] for part in parts], -1).flatten(-2)
