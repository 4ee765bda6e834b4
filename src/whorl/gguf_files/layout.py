"""Which channels of a head pair up, changed in the weights: rows of q and k in another order."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from whorl.checking import shown
from whorl.ops.rotation import LAYOUTS


def head_order(head_dim: int, pairs: int, first: Sequence[int], to: str) -> tuple[int, ...]:
    """For each channel of a head as a runtime wants it, the channel of a head in halves that goes there.

    pairs   in the head as it is: channels i and i + pairs turn together, for i below it
    first   those that go to the front, in this order; all other channels follow as they stood
    to      "interleaved": the two channels of each of them become neighbours; "half": all their first channels come
            before all their second ones

    >>> head_order(8, 3, (0, 1, 2), "interleaved")  # [x0 x1 x2 y0 y1 y2 a b] becomes [x0 y0 x1 y1 x2 y2 a b]
    (0, 3, 1, 4, 2, 5, 6, 7)
    >>> head_order(8, 4, (0, 2), "half")
    (0, 2, 4, 6, 1, 3, 5, 7)
    """
    if to not in LAYOUTS:
        raise ValueError(f"to must be one of {', '.join(LAYOUTS)}, got {to!r}")
    if not 0 <= 2 * pairs <= head_dim or len(set(first)) != len(first) or not all(0 <= i < pairs for i in first):
        raise ValueError(f"a head of {head_dim} channels has no {pairs} pairs of which {tuple(first)} could go first")
    front = [c for i in first for c in (i, i + pairs)]
    if to == "half":
        front = [*first, *(i + pairs for i in first)]
    rest = sorted(set(range(head_dim)) - set(front))
    return (*front, *rest)


def reorder_heads(weight: torch.Tensor, heads: int, order: Sequence[int]) -> torch.Tensor:
    """The rows of a q or k projection (of its bias, of a norm's weight), [heads x head_dim, ...], in this order in each
    head. Reordering q and k alike changes no logit, if the runtime pairs channels so."""
    if not isinstance(weight, torch.Tensor) or not isinstance(heads, int):
        raise ValueError(f"the rows of a tensor and a number of heads are wanted, got {shown(weight)}, {heads!r}")
    if heads < 1 or weight.shape[0] != heads * len(order):
        raise ValueError(f"{weight.shape[0]} rows are not {heads} heads of {len(order)} channels")
    return weight.unflatten(0, (heads, -1))[:, list(order)].flatten(0, 1)


def back(order: Sequence[int]) -> tuple[int, ...]:
    """The order that undoes this one."""
    undone = [0] * len(order)
    for place, channel in enumerate(order):
        undone[channel] = place
    return tuple(undone)
