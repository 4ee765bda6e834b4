"""biased_attention(): softmax attention with a bias computed from positions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from whorl.ops.impl import reference


def biased_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    biases: Sequence[nn.Module],
    *,
    query_positions: torch.Tensor,
    key_positions: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
    dropout: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention whose logits are softcap(scale q.k) + the sum of `biases` (each a module of two position tensors).

    q                [batch, heads, queries, head_dim]; k, v [batch, key heads, keys, head_dim], grouped heads allowed
    query_positions  integers [batch or 1, queries]; key_positions [batch or 1, keys]
    mask             bool, True where a key may be seen, broadcastable to [batch, heads, queries, keys]; None for all
    scale, softcap   the host's own logit scale and tanh cap (Gemma 2)
    sinks            [heads], an extra logit per head that takes weight and gives no value (gpt-oss)

    Returns the output [batch, heads, queries, head_dim] and the weights, both in v's dtype. Logits and softmax are
    float32 (float64 for float64 inputs), also under autocast.
    """
    with torch.autocast(q.device.type, enabled=False):
        bias = [module(query_positions, key_positions) for module in biases]
        return reference.attention(q, k, v, bias, mask, scale, softcap, sinks, dropout)
