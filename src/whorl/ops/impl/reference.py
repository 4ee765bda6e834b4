"""The oracle: each effect in plain eager PyTorch, readable first. Every other implementation is tested against it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

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
) -> tuple[torch.Tensor, torch.Tensor]:
    """Dense softmax attention in float32 (float64 for float64 inputs); see `whorl.ops.biased_attention`.

    A query that sees no key has no softmax: its weights and its output are 0, and no gradient comes of them.
    """
    dtype = torch.float64 if q_BHQD.dtype == torch.float64 else torch.float32
    groups = q_BHQD.shape[1] // max(1, k.shape[1])
    k_BHKD = k.repeat_interleave(groups, dim=1) if groups != 1 else k
    v_BHKD = v.repeat_interleave(groups, dim=1) if groups != 1 else v
    logits_BHQK = q_BHQD.to(dtype) @ k_BHKD.to(dtype).transpose(-1, -2) * scale
    if softcap is not None:
        logits_BHQK = softcap * torch.tanh(logits_BHQK / softcap)
    for bias in biases:
        logits_BHQK = logits_BHQK + bias.to(dtype)
    if mask is not None:
        logits_BHQK = logits_BHQK.masked_fill(~mask, -torch.inf)
    blind_BHQ1 = (logits_BHQK == -torch.inf).all(-1, keepdim=True)
    logits_BHQK = logits_BHQK.masked_fill(blind_BHQ1, 0)  # a softmax of nothing but -inf would be NaN
    if sinks is not None:
        sink = sinks.to(dtype)[:, None, None].expand(*logits_BHQK.shape[:-1], 1)
        weights = torch.cat([logits_BHQK, sink], -1).softmax(-1)[..., :-1]
    else:
        weights = logits_BHQK.softmax(-1)
    weights = weights.masked_fill(blind_BHQ1, 0).to(v.dtype)
    weights = torch.nn.functional.dropout(weights, dropout, training=dropout > 0)
    return weights @ v_BHKD, weights
