"""An additive mask that a caller made, a mask of some of the queries, and what travels with a mask."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn


class GivenMask(nn.Module):
    """An additive mask that the caller made, as one more bias. Its dtype's lowest number hides a key, as -inf does."""

    axis = "any"  # of the positions: it does not look at them

    def __init__(self, mask: torch.Tensor) -> None:
        super().__init__()
        self.mask = mask

    def part(self, first: int, last: int) -> GivenMask:
        """Of the queries first .. last - 1."""
        return GivenMask(of_queries(self.mask, first, last))

    @property
    def shown(self) -> torch.Tensor:
        """True where it does not hide a key. Scores ask it before the mask is added."""
        return self.mask > torch.finfo(self.mask.dtype).min

    def forward(self, query_positions: torch.Tensor, key_positions: torch.Tensor) -> torch.Tensor:
        return self.mask.masked_fill(~self.shown, -torch.inf)


class MaskWith(NamedTuple):
    """A mask and arguments of the attention function, which hosts hand on untouched: some hand on no others."""

    mask: Any
    arguments: dict[str, Any]


def of_queries(mask: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """A mask [batch, heads, queries or 1, keys] of the queries first .. last - 1."""
    return mask[:, :, first:last] if mask.shape[2] > 1 else mask
