"""Relative position representations. Shaw et al., arXiv 1803.02155, equations 3 and 4.

With r = clip(i - j, -k, k), learned vectors a^K_r are added to keys and a^V_r to values, as each query sees them:

    logit_ij = scale q_i . (k_j + a^K_r)        output_i = sum_j weight_ij (v_j + a^V_r)

The paper's base model has vectors of their own for each layer and head, and k = 16. It does not say where they start:
here at zero, where they change nothing. On a causal host r is never negative, and there are k + 1 of each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from whorl.encodings.base import Encoding
from whorl.encodings.config import choices, require_positive_int
from whorl.encodings.effects import Effect, Score, Shape
from whorl.encodings.relative_vectors import RelativeVectors


class ClippedVectors(RelativeVectors):
    """A row for each distance up to `reach`; those of later keys (in an encoder) come first, the farthest first."""

    def __init__(self, reach: int, heads: int, channels: int, bidirectional: bool) -> None:
        nearest = -reach if bidirectional else 0
        super().__init__("kv", heads, (reach - nearest + 1,), channels, tuple(range(nearest + 1, reach + 1)))
        self.nearest, self.reach = nearest, reach

    def row(self, distance: torch.Tensor) -> torch.Tensor:
        return distance.clamp(self.nearest, self.reach) - self.nearest


@dataclass(frozen=True)
class Shaw(Encoding):
    """Adds learned vectors to keys and to values, by their distance from the query. From `reach` tokens on all
    distances share a vector; all start at zero. (arXiv 1803.02155)

    reach  distances of at least so many tokens share a vector (the paper's k)
    heads  "own" vectors for each head, or "shared"
    """

    reach: int = 16
    heads: str = "own"

    name = "shaw"
    title = "learned vectors per clipped distance, added to keys and to values"
    paper = "1803.02155"
    kinds = ("score",)

    def __post_init__(self) -> None:
        require_positive_int("reach", self.reach, " tokens; the paper's is 16")
        choices("heads", self.heads, ("own", "shared"))

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        heads = shape.heads if self.heads == "own" else 1
        return (Score(ClippedVectors(self.reach, heads, shape.channels, shape.bidirectional)),)
