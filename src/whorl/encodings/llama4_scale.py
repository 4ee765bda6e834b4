"""Llama 4's temperature of attention ("attention temperature tuning"), which its report takes from arXiv 2501.19399.

factor(m) = 1 + attn_scale ln(1 + floor((m + 1) / floor_scale)), for the query at position m

Llama 4 has it on its layers without rotary alone: rope/rope/rope/nope+llama4-scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from whorl.encodings.base import Encoding
from whorl.encodings.config import require_number, require_positive_int
from whorl.encodings.effects import Effect, Scale, Shape


class Steps(nn.Module):
    """1 + scale ln(1 + floor((m + ahead) / every)), one number for all heads; whole numbers are divided as such."""

    def __init__(self, every: int, scale: float, ahead: int) -> None:
        super().__init__()
        self.every, self.scale, self.ahead = every, scale, ahead

    def forward(self, counts: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """[batch or 1, 1, queries] for positions [batch or 1, queries]; one before 0 (padding) is as 0."""
        steps = torch.div(positions.long().clamp(min=0) + self.ahead, self.every, rounding_mode="floor")
        return (1 + self.scale * steps.float().log1p())[:, None]


@dataclass(frozen=True)
class Llama4Scale(Encoding):
    """Multiplies a query's logits by a number that grows with the logarithm of its position, in steps of 8,192 tokens.
    Llama 4 has it on its layers without rotary alone; before the first step nothing changes. (Llama 4, after
    arXiv 2501.19399)

    floor_scale  tokens of a step, as Llama 4's config names it
    attn_scale   by how much the factor grows with the logarithm of the steps
    """

    floor_scale: int = 8192
    attn_scale: float = 0.1

    name = "llama4-scale"
    title = "logits times 1 + 0.1 ln(1 + steps of 8,192 tokens), as in Llama 4"
    paper = "2501.19399"
    kinds = ("scale",)
    not_relative = "it goes by the query's own position"

    def __post_init__(self) -> None:
        require_positive_int("floor_scale", self.floor_scale, " tokens")
        require_number("attn_scale", self.attn_scale)

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        return (Scale(Steps(self.floor_scale, self.attn_scale, ahead=1)),)
