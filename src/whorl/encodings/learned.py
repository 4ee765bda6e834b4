"""Learned absolute positions. Gehring et al., arXiv 1705.03122, section 3.1; so in GPT-2 and BERT.

x_m + P[m] for the token at position m with the embedding x_m; P [max_positions, width] is learned.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from whorl.encodings.base import Encoding
from whorl.encodings.config import of_host, require_positive_int
from whorl.encodings.effects import Add, Effect, Shape


class PositionTable(nn.Module):
    """positions [batch, tokens] -> rows [batch, tokens, width] of a learned table [max_positions, width]."""

    def __init__(self, max_positions: int, width: int, generator: torch.Generator, std: float = 0.02) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(max_positions, width, generator=generator) * std)

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        if positions.numel() and not torch.compiler.is_compiling() and not positions.is_meta:
            last, rows = int(positions.max()), self.weight.shape[0]
            if last >= rows:
                raise ValueError(
                    f"position {last} is past the learned table, which has {rows} positions (0 to {rows - 1}); "
                    f"shorten the input, or attach Learned(max_positions={last + 1}) and train it"
                )
        return torch.nn.functional.embedding(positions, self.weight)


@dataclass(frozen=True)
class Learned(Encoding):
    """Adds to each token's embedding a vector that is learned for its position. Past the last row of the table there
    is none, and a longer text raises. (arXiv 1705.03122)

    max_positions  rows of the table; the model's training length where it is unset, or in a comparison from scratch the
                   run's
    """

    max_positions: int | None = of_host(known="train_length")

    name = "learned"
    title = "a learned vector per position, added to the embedding"
    paper = "1705.03122"
    kinds = ("add",)
    not_relative = "each position has a vector of its own"

    def __post_init__(self) -> None:
        if self.max_positions is not None:
            require_positive_int("max_positions", self.max_positions)

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        rows = self.needed("max_positions", "the size of its table", 1024)
        return (Add(PositionTable(rows, shape.width, shape.generator())),)
