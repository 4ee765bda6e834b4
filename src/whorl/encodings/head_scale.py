"""A temperature of attention that each head learns, as in Mistral Large 4; SSMax (arXiv 2501.19399) with a bias.

factor_h(m) = a_h ln(m + 1) + b_h, for the query at position m
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from whorl.encodings.base import Encoding
from whorl.encodings.biases import in_full
from whorl.encodings.effects import Effect, Scale, Shape


class LearnedLine(nn.Module):
    """a ln(m + 1) + b, with a and b [heads]; at the start a is 0 and b is 1, and logits are what they were."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(heads))
        self.b = nn.Parameter(torch.ones(heads))

    def forward(self, counts: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """[batch or 1, heads, queries] for positions [batch or 1, queries]; one before 0 (padding) is as 0."""
        a, b = in_full(self.a)[:, None], in_full(self.b)[:, None]
        return a * positions[:, None].clamp(min=0).to(a.dtype).log1p() + b


@dataclass(frozen=True)
class HeadScale(Encoding):
    """Multiplies a query's logits by a line in the logarithm of its position, which each head and layer learns. It
    starts at 1, where nothing changes. (Mistral Large 4)"""

    name = "head-scale"
    title = "logits times a ln(m + 1) + b at position m, learned per head"
    paper = "2501.19399"
    kinds = ("scale",)
    not_relative = "it goes by the query's own position"

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        return (Scale(LearnedLine(shape.heads), shared=False),)
