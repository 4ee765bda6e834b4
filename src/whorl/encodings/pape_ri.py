"""PaPE-RI, the rotation-invariant form of parabolic position encoding. arXiv 2602.01418. For positions of any axes.

logit(i, j) = (q_i.k_j - softplus(a.x_i) s^2 |p_i - p_j|^2) / sqrt(d), s drawn once per head from U(-1, 1) / sqrt(axes)

A head has one gate, a, which goes by the query's hidden state x_i. Turning and moving all points, about whatever
centre, changes nothing in their distances. (`pape` has parabolas along learned directions.)

A few channels of q and of k have the square of the distance as their product, which is how the paper's code takes it.
In float32 that loses the distance: past 4,000 tokens it is what is left of terms above 10^8, where neighbouring numbers
are 8 apart. Here the distance is taken first, and is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import softplus

from whorl.encodings.base import Encoding
from whorl.encodings.biases import in_full, offsets
from whorl.encodings.config import require_positive
from whorl.encodings.effects import Effect, Score, Shape
from whorl.encodings.scores import At, ScoreModule


class Bowls(ScoreModule):
    """A parabola of the distance, the same to all sides, for each query and head. A token's state is how steep it is.

    a [heads, width] is drawn as nn.Linear draws it; s [heads] does not learn.
    """

    sees_hidden = True
    keeps_state = True
    causal = False
    axis = "all"

    def __init__(self, shape: Shape, unit: float) -> None:
        super().__init__()
        self.unit = unit
        generator = shape.generator()
        self.a = nn.Parameter((2 * torch.rand(shape.heads, shape.width, generator=generator) - 1) / shape.width**0.5)
        drawn = (2 * torch.rand(shape.heads, generator=generator) - 1) / shape.axes**0.5
        self.s = nn.Parameter(drawn, requires_grad=False)  # a buffer would not outlive the meta device

    def tokens(
        self,
        hidden: torch.Tensor | None,
        positions: torch.Tensor,
        real: torch.Tensor | None,
        before: torch.Tensor | None,
    ) -> torch.Tensor:
        assert hidden is not None
        gate = softplus(hidden @ in_full(self.a).to(hidden.dtype).T)
        return (gate * (in_full(self.s.detach()).to(hidden.dtype) / self.unit) ** 2)[..., None]

    def logits(self, s: torch.Tensor, q: torch.Tensor, k: torch.Tensor, at: At) -> torch.Tensor:
        assert at.query_state is not None
        squared = offsets(at.query_positions, at.key_positions).to(s.dtype).square().sum(-1)
        return s - at.scale * at.query_state.to(s.dtype) * squared


@dataclass(frozen=True)
class PaPERI(Encoding):
    """Takes from each logit a penalty on the square of the distance, as steep as the query's content decides in each
    head. It is the same to all sides, so that turning all points changes nothing. (arXiv 2602.01418)

    unit  the distance that counts as one: a token or patch, or for points a part of the cloud
    """

    unit: float = 1.0

    name = "pape-ri"
    title = "a penalty on the squared distance in each head, as wide as the query's content decides"
    paper = "2602.01418"
    kinds = ("score",)

    def __post_init__(self) -> None:
        require_positive("unit", self.unit, "a distance")

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        return (Score(Bowls(shape, self.unit)),)
