"""PaPE, parabolic position encoding. arXiv 2602.01418. For positions of any axes.

logit(i, j) = (q_i.k_j - sum_m softplus(a_m.x_i) (u_m.(p_i - p_j))^2 + sum_m (b_m.x_i) u_m.(p_i - p_j)) / sqrt(d)

M parabolas in each head: a_m and b_m go by the query's hidden state x_i, u_m are learned directions of positions. All
of them are one, - D^T A_i D + B_i.D for the distance D = p_i - p_j, with A_i = sum softplus(a_m.x_i) u_m u_m^T and
B_i = sum (b_m.x_i) u_m: these numbers are the state of a token, two in each head of a text. A_i is above 10 to start
from (50 parabolas with u in -1 .. 1), so that heads begin narrow, and widen as they learn.

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
from whorl.encodings.biases import in_full, offsets
from whorl.encodings.config import require_positive_int
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
        distance = offsets(at.query_positions, at.key_positions).to(s.dtype).unbind(-1)  # each [B, 1, Q, K]
        state = at.query_state.to(s.dtype)[:, :, :, None].unbind(-1)  # each [B, H, Q, 1]
        parabola = torch.zeros((), dtype=s.dtype, device=s.device)
        for i, along in enumerate(distance):
            curve = sum(state[i * self.axes + j] * other for j, other in enumerate(distance))
            parabola = parabola + (state[self.axes**2 + i] - curve) * along
        return s + at.scale * parabola


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
