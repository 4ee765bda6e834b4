"""Sinusoidal absolute positions. Vaswani et al., "Attention is all you need", arXiv 1706.03762, section 3.5.

p[m, 2t] = sin(m / base^(2t/width)), p[m, 2t+1] = cos(m / base^(2t/width)), added to the embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from whorl.encodings.base import Encoding
from whorl.encodings.config import check_base
from whorl.encodings.effects import Add, Effect, Shape
from whorl.encodings.turns import cos_sin


class SinusoidalVectors(nn.Module):
    """positions [batch, tokens] -> [batch, tokens, width] float32, sine and cosine interleaved."""

    def __init__(self, base: float, width: int) -> None:
        super().__init__()
        self.width = width
        # An odd width ends on a sine: pair the channels of the next even width and drop the last cosine.
        self.frequencies = tuple(base ** (-2.0 * t / width) for t in range((width + 1) // 2))

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        cos, sin = cos_sin(positions, self.frequencies)
        return torch.stack((sin, cos), dim=-1).flatten(-2)[..., : self.width]


@dataclass(frozen=True)
class Sinusoidal(Encoding):
    """Adds a vector of sines and cosines of the position to each token's embedding, from fast to slow. It is fixed,
    and there is one for every position. (arXiv 1706.03762)

    base  of the frequencies base^(-2t/width)
    """

    base: float = 10000.0

    name = "sinusoidal"
    title = "sines and cosines of the position, added to the embedding"
    paper = "1706.03762"
    kinds = ("add",)
    not_relative = "each position has a vector of its own"

    def __post_init__(self) -> None:
        check_base(self.base)

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        return (Add(SinusoidalVectors(self.base, shape.width)),)
