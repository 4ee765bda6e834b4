"""PaPE, parabolic position encoding, and its rotation-invariant form. arXiv 2602.01418. For positions of any axes.

logit(i, j) = (q_i.k_j - sum_m softplus(a_m.x_i) (u_m.(p_i - p_j))^2 + sum_m (b_m.x_i) u_m.(p_i - p_j)) / sqrt(d)

M parabolas in each head: a_m and b_m go by the query's hidden state x_i, u_m are learned directions of positions. All
of them are one, - D^T A_i D + B_i.D for the distance D = p_i - p_j, with A_i = sum softplus(a_m.x_i) u_m u_m^T and
B_i = sum (b_m.x_i) u_m: these numbers are the state of a token, two in each head of a text. A_i is above 10 to start
from (50 parabolas with u in -1 .. 1), so that heads begin narrow, and widen as they learn.

PaPE-RI has one gate in each head and the distance of two points, which turning and moving all of them changes nothing
in, about whatever centre:

logit(i, j) = (q_i.k_j - softplus(a.x_i) s^2 |p_i - p_j|^2) / sqrt(d), s drawn once per head from U(-1, 1) / sqrt(axes)

A few channels of q and of k have the parabola as their product, which is how the paper's code takes it. In float32
that loses the distance: past 4,000 tokens it is what is left of terms above 10^8, where neighbouring numbers are 8
apart. Here the distance is taken first, and is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import softplus

from whorl.encodings.base import Encoding
from whorl.encodings.biases import in_full
from whorl.encodings.config import require_positive, require_positive_int
from whorl.encodings.effects import Effect, Score, Shape
from whorl.encodings.scores import At, ScoreModule


class Parabolas(ScoreModule):
    """A parabola of the distance for each query and head. A token's state is A and B, P P + P numbers for P axes.

    a, b [heads, parabolas, width] and u [heads, parabolas, axes] are drawn as nn.Linear draws them.
    """

    sees_hidden = True
    keeps_state = True
    causal = False
    axis = "all"

    def __init__(self, shape: Shape, parabolas: int) -> None:
        super().__init__()
        self.axes = axes = shape.axes
        generator = shape.generator()

        def drawn(inputs: int) -> nn.Parameter:
            uniform = torch.rand(shape.heads, parabolas, inputs, generator=generator)
            return nn.Parameter((2 * uniform - 1) / inputs**0.5)

        self.u, self.a, self.b = drawn(axes), drawn(shape.width), drawn(shape.width)

    def tokens(
        self,
        hidden: torch.Tensor | None,
        positions: torch.Tensor,
        real: torch.Tensor | None,
        before: torch.Tensor | None,
    ) -> torch.Tensor:
        assert hidden is not None
        a, b = (torch.einsum("btw,hmw->bthm", hidden, in_full(p).to(hidden.dtype)) for p in (self.a, self.b))
        u = in_full(self.u).to(hidden.dtype)
        curved = torch.einsum("bthm,hmp,hmr->bthpr", softplus(a), u, u)
        tilted = torch.einsum("bthm,hmp->bthp", b, u)
        return torch.cat([curved.flatten(-2), tilted], -1)

    def logits(self, s: torch.Tensor, q: torch.Tensor, k: torch.Tensor, at: At) -> torch.Tensor:
        assert at.query_state is not None
        distance = _offsets(at).to(s.dtype).unbind(-1)  # each [B, 1, Q, K]
        state = at.query_state.to(s.dtype)[:, :, :, None].unbind(-1)  # each [B, H, Q, 1]
        parabola = torch.zeros((), dtype=s.dtype, device=s.device)
        for i, along in enumerate(distance):
            curve = sum(state[i * self.axes + j] * other for j, other in enumerate(distance))
            parabola = parabola + (state[self.axes**2 + i] - curve) * along
        return s + at.scale * parabola


def _offsets(at: At) -> torch.Tensor:
    """p_i - p_j, [B or 1, 1, Q, K, axes], as positions are: exact for whole numbers."""
    of_queries, of_keys = (p if p.is_floating_point() else p.long() for p in (at.query_positions, at.key_positions))
    return of_queries[:, None, :, None] - of_keys[:, None, None]


class Bowls(ScoreModule):
    """The same parabola to all sides of a query, for each query and head. A token's state is how steep it is.

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
        return (gate * (in_full(self.s).to(hidden.dtype) / self.unit) ** 2)[..., None]

    def logits(self, s: torch.Tensor, q: torch.Tensor, k: torch.Tensor, at: At) -> torch.Tensor:
        assert at.query_state is not None
        return s - at.scale * at.query_state.to(s.dtype) * _offsets(at).to(s.dtype).square().sum(-1)


@dataclass(frozen=True)
class PaPE(Encoding):
    """Adds to the logits of each query a parabola of the distance, whose width and tilt its content decides in each
    head. Heads begin narrow, and widen as they learn. (arXiv 2602.01418)

    parabolas  how many are summed to the one of a head
    """

    parabolas: int = 50

    name = "pape"
    title = "a parabola of the distance in each head, its width and tilt by the query's content"
    paper = "2602.01418"
    kinds = ("score",)

    def __post_init__(self) -> None:
        require_positive_int("parabolas", self.parabolas)

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        return (Score(Parabolas(shape, self.parabolas)),)


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
