"""ALiBi on the Euclidean distance of two positions, of any axes. After Press et al., arXiv 2108.12409.

logit(i, j) = q_i.k_j / sqrt(d) - slope_h |p_i - p_j| / unit, with ALiBi's slopes

Turning or moving all points changes nothing in it. On positions of one axis it is ALiBi.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from whorl.encodings.alibi import slopes
from whorl.encodings.base import Encoding
from whorl.encodings.biases import by_length, offsets
from whorl.encodings.config import require_positive
from whorl.encodings.effects import Bias, Effect, Shape


class EuclideanBias(nn.Module):
    """-slope_h x distance / unit, float32 (float64 for float64 positions)."""

    axis = "all"

    def __init__(self, heads: int, unit: float) -> None:
        super().__init__()
        self.slopes = tuple(slope / unit for slope in slopes(heads))

    def forward(self, query_positions: torch.Tensor, key_positions: torch.Tensor) -> torch.Tensor:
        """[batch, heads, queries, keys] for positions [batch, queries, axes] and [batch, keys, axes]."""
        return by_length(self.slopes, offsets(query_positions, key_positions))


@dataclass(frozen=True)
class EuclideanALiBi(Encoding):
    """Takes from each logit a number that grows with the Euclidean distance, steeply in some heads and hardly in
    others. On a text it is ALiBi; turning or moving all patches or points changes nothing. (after arXiv 2108.12409)

    unit  the distance that counts as one: a patch, or for points a part of the cloud
    """

    unit: float = 1.0

    name = "euclidean-alibi"
    title = "a linear penalty on the Euclidean distance, one slope per head"
    paper = "2108.12409"
    kinds = ("bias",)

    def __post_init__(self) -> None:
        require_positive("unit", self.unit, "a distance")

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        return (Bias(EuclideanBias(shape.heads, self.unit), shared=True),)
