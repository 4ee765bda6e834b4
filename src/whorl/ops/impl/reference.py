"""The oracle: each effect in plain eager PyTorch, readable first. Every other implementation is tested against it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from whorl.encodings.scores import At, ScoreModule
from whorl.numerics import math_dtype
from whorl.ops.scores import Channels, product

# Shape letters: B batch, H heads, Q queries, K keys, D head dim.


def rotate_one(
    x: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    first: int,
    width: int,
    *,
    layout: str,
    heads_dim: int,
) -> torch.Tensor:
    """x with pairs first .. first + n - 1 turned, n = cos.shape[-1]; see `whorl.ops.rotate` for the layouts.

    (a, b) -> (a cos - b sin, b cos + a sin)
    """
    count = cos.shape[-1]
    if count == 0:
        return x
    if cos.dim() == 3:
        cos, sin = cos.unsqueeze(heads_dim), sin.unsqueeze(heads_dim)
    a, b = pairs(x, width, layout)
    last = first + count
    a_turn, b_turn = a[..., first:last].to(cos.dtype), b[..., first:last].to(cos.dtype)
    a_new = torch.cat([a[..., :first], (a_turn * cos - b_turn * sin).to(x.dtype), a[..., last:]], -1)
    b_new = torch.cat([b[..., :first], (b_turn * cos + a_turn * sin).to(x.dtype), b[..., last:]], -1)
    if layout == "half":
        return torch.cat([a_new, b_new, x[..., width:]], -1)
    return torch.cat([torch.stack([a_new, b_new], -1).flatten(-2), x[..., width:]], -1)


def pairs(x: torch.Tensor, width: int, layout: str) -> tuple[torch.Tensor, ...]:
    """The first and the second channel of every pair: two views [..., width / 2]."""
    x = x[..., :width].unflatten(-1, (2, width // 2) if layout == "half" else (width // 2, 2))
    return x.unbind(-2 if layout == "half" else -1)


def turning_pairs(
    x: torch.Tensor, first: int, count: int, width: int, layout: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same of the pairs that turn: two views [..., count]."""
    a, b = pairs(x, width, layout)
    return a[..., first : first + count], b[..., first : first + count]


def attention(
    q_BHQD: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    biases: Sequence[torch.Tensor],
    mask: torch.Tensor | None,
    scale: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
    dropout: float,
    channels: Channels | None = None,
    scores: Sequence[tuple[ScoreModule, At]] = (),
) -> tuple[torch.Tensor, torch.Tensor]:
    """Dense softmax attention in float32 (float64 for float64 inputs); see `whorl.ops.biased_attention`.

    scores: those that need all keys of a query at once, with what they know of these queries and keys.
    A query that sees no key has no softmax: its weights and its output are 0, and no gradient comes of them.
    """
    dtype = math_dtype(q_BHQD.dtype)
    heads = q_BHQD.shape[1]
    q_BHQD, k = q_BHQD.to(dtype), k.to(dtype)
    k_BHKD, v_BHKD = (x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], 1) for x in (k, v))
    changes = [(module, at) for module, at in scores if module.does("logits")]
    anew = [(module, at) for module, at in changes if module.scores_anew]
    logits_BHQK: Any = None  # where a score makes them itself
    if not anew:
        logits_BHQK = q_BHQD @ k_BHKD.transpose(-1, -2) * scale
    for module, at in anew:
        logits_BHQK = module.logits(logits_BHQK, q_BHQD * scale, k_BHKD, at)
    if softcap is not None:
        logits_BHQK = softcap * torch.tanh(logits_BHQK / softcap)
    for module, at in changes:
        if not module.scores_anew:
            logits_BHQK = module.logits(logits_BHQK, q_BHQD * scale, k_BHKD, at)
    if channels is not None:
        logits_BHQK = logits_BHQK + product(*channels)
    for bias in biases:
        logits_BHQK = logits_BHQK + bias.to(dtype)
    if mask is not None:
        logits_BHQK = logits_BHQK.masked_fill(~mask, -torch.inf)
    instead = [(module, at) for module, at in scores if module.does("weights")]
    weights = instead[0][0].weights(logits_BHQK, instead[0][1]) if instead else softmax(logits_BHQK, sinks)
    weights = torch.nn.functional.dropout(weights.to(v.dtype), dropout, training=dropout > 0)
    output = weights @ v_BHKD
    for module, at in scores:
        if module.does("values"):
            output = output + module.values(weights.to(dtype), v_BHKD.to(dtype), at).to(v.dtype)
    return output, weights


def softmax(logits_BHQK: torch.Tensor, sinks: torch.Tensor | None) -> torch.Tensor:
    """Weights, of which a row that sees nothing has none, and a sink takes a share."""
    blind_BHQ1 = (logits_BHQK == -torch.inf).all(-1, keepdim=True)
    logits_BHQK = logits_BHQK.masked_fill(blind_BHQ1, 0)  # a softmax of nothing but -inf would be NaN
    if sinks is not None:
        sink = sinks.to(logits_BHQK.dtype)[:, None, None].expand(*logits_BHQK.shape[:-1], 1)
        weights = torch.cat([logits_BHQK, sink], -1).softmax(-1)[..., :-1]
    else:
        weights = logits_BHQK.softmax(-1)
    return weights.masked_fill(blind_BHQ1, 0)
