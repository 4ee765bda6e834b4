"""biased_attention(): softmax attention with a bias computed from positions."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import nn

from whorl.ops.impl import blocked, flex, reference
from whorl.ops.impl.blocked import DenseVisible, Visible

IMPLS = ("auto", "reference", "blocked", "flex")


def biased_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    biases: Sequence[nn.Module],
    *,
    query_positions: torch.Tensor,
    key_positions: torch.Tensor,
    mask: torch.Tensor | Visible | None = None,
    causal: bool = False,
    scale: float,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
    dropout: float = 0.0,
    impl: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention whose logits are softcap(scale q.k) + the sum of `biases` (each a module of two position tensors).

    q                [batch, heads, queries, head_dim]; k, v [batch, key heads, keys, head_dim], grouped heads allowed
    query_positions  integers [batch or 1, queries]; key_positions [batch or 1, keys]
    mask             True where a key may be seen: bool, broadcastable to [batch, heads, queries, keys], or a `Visible`
                     that is asked block by block; None for all
    causal           the last query sees all keys, the one before it one fewer, and so on, whatever their positions
    scale, softcap   the host's own logit scale and tanh cap (Gemma 2)
    sinks            [heads], an extra logit per head that takes weight and gives no value (gpt-oss)
    impl             "reference": dense; "blocked": memory that grows with the number of tokens and not its square, and
                     windows skip what they hide; "flex": PyTorch's FlexAttention, for relative biases on a GPU.
                     "auto" is "blocked", but "reference" with dropout, under torch.compile, and where the environment
                     says WHORL_IMPL=reference.

    Returns the output [batch, heads, queries, head_dim] in v's dtype, and the weights, or None where they are never
    made. Logits and softmax are float32 (float64 for float64 inputs), also under autocast. Gradients reach q, k, v, the
    sinks and the biases' parameters. Raises ValueError for arguments that do not fit one another.
    """
    _check(q, k, v, query_positions, key_positions, sinks)
    impl = _choose(impl, dropout)
    if impl == "flex":
        learned = (p for module in biases for p in module.parameters())
        grad = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v, *learned))
        if (why := flex.missing(biases, q.device, grad)) is not None:
            raise ValueError(f"impl='flex' cannot run here: {why}")
    with torch.autocast(q.device.type, enabled=False):
        if impl != "reference":
            if isinstance(mask, torch.Tensor):
                mask = DenseVisible(mask, q.shape[2], k.shape[2])
            arguments = (query_positions, key_positions, mask, causal, scale, softcap, sinks)
            backend = flex if impl == "flex" else blocked
            return backend.attention(q, k, v, biases, *arguments).to(v.dtype), None
        seen = mask.block(0, q.shape[2], 0, k.shape[2]) if isinstance(mask, Visible) else mask
        if causal:
            ones = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device)
            below = ones.tril(k.shape[2] - q.shape[2])
            seen = below if seen is None else seen & below
        bias = [module(query_positions, key_positions) for module in biases]
        return reference.attention(q, k, v, bias, seen, scale, softcap, sinks, dropout)


def _choose(impl: str, dropout: float) -> str:
    if impl not in IMPLS:
        raise ValueError(f"impl must be one of {', '.join(IMPLS)}, got {impl!r}")
    if impl in ("blocked", "flex") and dropout:
        raise ValueError(
            f"impl={impl!r} has no dropout on its weights, and dropout is {dropout}; take impl='reference'"
        )
    if impl == "auto":
        asked = os.environ.get("WHORL_IMPL")
        return "reference" if dropout or asked == "reference" or torch.compiler.is_compiling() else "blocked"
    return impl


def _check(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    query_positions: torch.Tensor,
    key_positions: torch.Tensor,
    sinks: torch.Tensor | None,
) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.dim() != 4:
            raise ValueError(f"{name} must have four dimensions, got the shape {tuple(x.shape)}")
    if k.shape[:3] != v.shape[:3]:
        raise ValueError(f"k and v must agree in batch, heads and keys, got {tuple(k.shape)} and {tuple(v.shape)}")
    if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise ValueError(f"q and k must agree in batch and head dim, got {tuple(q.shape)} and {tuple(k.shape)}")
    if q.shape[1] % k.shape[1]:
        raise ValueError(f"q's {q.shape[1]} heads must be a multiple of k's {k.shape[1]}")
    for name, positions, x in (("query_positions", query_positions, q), ("key_positions", key_positions, k)):
        if positions.dim() != 2 or positions.shape[0] not in (1, q.shape[0]) or positions.shape[1] != x.shape[2]:
            raise ValueError(
                f"{name} must be [batch or 1, tokens] = [{q.shape[0]} or 1, {x.shape[2]}], got {tuple(positions.shape)}"
            )
    if sinks is not None and sinks.shape != q.shape[1:2]:
        raise ValueError(f"sinks must hold one number for each of {q.shape[1]} heads, got {tuple(sinks.shape)}")
