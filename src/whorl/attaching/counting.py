"""What a mask says of tokens and not of pairs: how many keys each query sees, and which tokens are no padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from whorl.attaching.masks import GivenMask
from whorl.hosts.transformers.interface import HostMask
from whorl.ops.axes import bias_at
from whorl.ops.visible import ROWS_AT_ONCE, Visible

Mask = torch.Tensor | HostMask | None


def real_tokens(mask: Mask, tokens: int, start: int, keys: int) -> torch.Tensor | None:
    """Which tokens of a forward are no padding: bool [batch or 1, tokens], or None where all are real.

    mask: bool [batch or 1, heads or 1, queries, keys] or the host's own, whose padding mask has a column for every
    token up to the last. start: the tokens before this forward. A token is real that sees itself.
    """
    if mask is None:
        return None
    if isinstance(mask, HostMask):
        padding = mask.how.get("attention_mask")
        return None if padding is None else padding[:, start : start + tokens].bool()
    if mask.shape[2] == 1 < tokens:  # one row for all queries, as encoders have it
        return mask[:, :, 0, -tokens:].any(1)
    own = start - max(0, start + tokens - keys)  # of the first, among the keys that are handed out
    return mask[:, :, -tokens:, own : own + tokens].diagonal(dim1=2, dim2=3).any(1)


def keys_seen(
    mask: Mask,
    biases: Sequence[nn.Module],
    query_positions: torch.Tensor,
    key_positions: torch.Tensor,
    causal: bool,
) -> torch.Tensor:
    """How many keys each query sees, itself among them: int64 [batch or 1, queries].

    Neither padding nor keys that a window hides are among them, whether the mask hides them or a bias does (one with a
    `reach`, or the caller's own mask). causal: what no mask stands for; else it stands for all keys.
    """
    hiding = [bias for bias in biases if getattr(bias, "reach", None) is not None or isinstance(bias, GivenMask)]
    if mask is None and causal:
        queries, keys = query_positions.shape[1], key_positions.shape[1]
        below = torch.ones(queries, keys, dtype=torch.bool, device=query_positions.device).tril(keys - queries)
        mask = below[None, None]
    if isinstance(mask, Visible):
        return mask.derived(_counted, query_positions, key_positions, *hiding)
    return _counted(mask, query_positions, key_positions, *hiding)


def _counted(
    mask: torch.Tensor | Visible | None, query_positions: torch.Tensor, key_positions: torch.Tensor, *hiding: nn.Module
) -> torch.Tensor:
    queries, keys = query_positions.shape[1], key_positions.shape[1]
    runs = mask.runs() if isinstance(mask, Visible) and not hiding else None
    if runs is not None:
        return (runs.end - runs.first).to(query_positions.device).clamp(min=1)
    if mask is None and not hiding:
        return query_positions.new_full((1, queries), keys)
    counts = []
    step = max(1, ROWS_AT_ONCE // max(1, keys))
    for q0 in range(0, queries, step):
        q1 = min(q0 + step, queries)
        if mask is None:
            seen = torch.ones(1, 1, q1 - q0, keys, dtype=torch.bool, device=query_positions.device)
        elif isinstance(mask, Visible):
            seen = mask.block(q0, q1, 0, keys)
        else:
            seen = mask.expand(*mask.shape[:2], queries, keys)[:, :, q0:q1]
        for bias in hiding:
            of_block = bias.part(q0, q1) if isinstance(bias, GivenMask) else bias
            seen = seen & (bias_at(of_block, query_positions[:, q0:q1], key_positions) > -torch.inf)
        counts.append(seen.any(1).sum(-1))
    return torch.cat(counts, 1).clamp(min=1)  # a query of padding sees none, and has no logarithm of it
