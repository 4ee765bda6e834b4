"""Biased attention through PyTorch's FlexAttention, which compiles a fused kernel for a GPU.

Every relative bias is one vector per head, read by distance inside the kernel; its gradient is summed there with
atomics. Asked for by name (`impl="flex"`): no GPU has run it yet, so "auto" does not choose it. On a CPU FlexAttention
has no backward pass, and this serves to check the forward one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention

from whorl.ops.impl.blocked import Visible


def missing(modules: Sequence[nn.Module], device: torch.device, grad: bool) -> str | None:
    """None when FlexAttention can serve, else the reason why not."""
    other = [type(m).__name__ for m in modules if not hasattr(m, "of_distance")]
    if other:
        return f"{other[0]} is not a bias of distance alone"
    if device.type == "cpu" and grad:
        return "FlexAttention has no backward pass on a CPU"
    return None


@cache
def _compiled() -> Callable[..., Any]:
    return torch.compile(flex_attention)


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    modules: Sequence[nn.Module],
    query_positions: torch.Tensor,
    key_positions: torch.Tensor,
    mask: Visible | None,
    causal: bool,
    scale: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """See `whorl.ops.biased_attention`; the output [batch, heads, queries, head_dim]."""
    batch, heads, queries, keys = q.shape[0], q.shape[1], q.shape[2], k.shape[2]
    query_positions, key_positions = (p.expand(batch, -1) for p in (query_positions, key_positions))
    least = int((query_positions.amin(1) - key_positions.amax(1)).min())
    most = int((query_positions.amax(1) - key_positions.amin(1)).max())
    span = torch.arange(least, most + 1, device=q.device)
    vector = torch.zeros(heads, len(span), device=q.device)
    for module in modules:
        one: Any = module
        vector = vector + one.of_distance(span)
    reach = min((r for m in modules if (r := getattr(m, "reach", None)) is not None), default=None)
    seen = mask.mod() if mask is not None else None
    ahead = keys - queries

    def score(logit: Any, b: Any, h: Any, i: Any, j: Any) -> Any:
        if softcap is not None:
            logit = softcap * torch.tanh(logit / softcap)
        return logit + vector[h, query_positions[b, i] - key_positions[b, j] - least]

    def visible(b: Any, h: Any, i: Any, j: Any) -> Any:
        ok = i >= 0
        if causal:
            ok = ok & (i + ahead >= j)
        if reach is not None:
            ok = ok & ((query_positions[b, i] - key_positions[b, j]).abs() < reach)
        return ok & seen(b, h, i, j) if seen is not None else ok

    blocks = create_block_mask(visible, batch, None, queries, keys, device=q.device)
    run: Any = _compiled() if q.device.type == "cuda" else flex_attention
    grouped = heads != k.shape[1]
    how: dict[str, Any] = {"score_mod": score, "block_mask": blocks, "scale": scale, "enable_gqa": grouped}
    if sinks is None:
        return run(q, k, v, **how)
    out, aux = run(q, k, v, return_aux=AuxRequest(lse=True), **how)
    total = aux.lse
    return out * torch.sigmoid(total - sinks[:, None].to(total.dtype))[..., None].to(out.dtype)
