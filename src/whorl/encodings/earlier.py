"""What short causal convolutions over the tokens of a text reach: padding is passed over, and no text begins earlier
than its position 0. In float32, with the states that a cache keeps of tokens before these."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn


def reached(x: torch.Tensor, positions: torch.Tensor, real: torch.Tensor | None, count: int) -> Iterator[torch.Tensor]:
    """x [B, T, C] of each token, of the one before it, and so on: `count` of them, zeros where there is none.

    x: [B, count - 1 + T, C], with that of the latest count - 1 tokens before these, zeros for those that are not there;
    positions [B or 1, T]; real: bool [B or 1, T], False for padding, None where there is none.
    """
    past, tokens = count - 1, positions.shape[1]
    at = torch.arange(past, past + tokens, device=x.device).expand(x.shape[0], -1)
    for back in range(count):
        there = x[:, past - back :][:, :tokens]
        if real is not None:
            there = x.gather(1, at[..., None].expand(-1, -1, x.shape[-1]))
            at = _before(real, past).expand(x.shape[0], -1).gather(1, at)
        yield there * (positions >= back)[..., None]


def latest_real(states: torch.Tensor, real: torch.Tensor, count: int) -> torch.Tensor:
    """The states of the latest tokens that are no padding, [B, `count` or fewer, ...], in their order.

    states: [B, P, ...]; real: bool [B, P].
    """
    slots = torch.arange(states.shape[1], device=states.device)
    at = slots.where(real, slots - states.shape[1]).topk(min(count, states.shape[1])).indices.flip(1)
    return states.gather(1, at.view(*at.shape, *[1] * (states.dim() - 2)).expand(-1, -1, *states.shape[2:]))


def _before(real: torch.Tensor, past: int) -> torch.Tensor:
    """The slot of the last token before each that is no padding, where `past` slots stand before the first of these:
    [B or 1, past + T]."""
    slots = torch.arange(past + real.shape[1], device=real.device)
    known = nn.functional.pad(real, (past, 0), value=True)
    return nn.functional.pad(slots.where(known, 0).cummax(1).values, (1, -1))
