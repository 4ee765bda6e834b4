"""CoPE, contextual position encoding. Golovneva et al., arXiv 2405.18719, section 4. (Another CoPE clips RoPE:
arXiv 2602.05258.)

A query counts the keys that it finds worth counting: the position of key j, as query i sees it, is

    p_ij = min(sum_{k=j..i} sigmoid(s_ik), P - 1)        s_ik: the scaled logits, of keys that i sees

and q_i . e[p_ij] is added to the logit s_ij, with q unscaled and the table e [P, head dim] interpolated between whole
positions. The table is shared by the heads of a layer and starts at zero.

A rotary encoding beside it has turned q by its absolute position, on which q . e then depends.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from whorl.encodings.base import Encoding
from whorl.encodings.biases import in_full
from whorl.encodings.config import require_positive_int
from whorl.encodings.effects import Effect, Score, Shape
from whorl.encodings.scores import At, ScoreModule, refuse_encoders


class ContextualPositions(ScoreModule):
    """The table of positions [P, head dim], looked up at the positions that the logits make."""

    def __init__(self, positions: int, head_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(positions, head_dim))

    def logits(self, s: torch.Tensor, q: torch.Tensor, k: torch.Tensor, at: At) -> torch.Tensor:
        last = self.weight.shape[0] - 1
        # What is not seen is not counted: the mask comes before the gates, and of a hidden key they are 0.
        gates = s.sigmoid() if at.seen is None else s.sigmoid().masked_fill(~at.seen, 0)
        positions = gates.flip(-1).cumsum(-1).flip(-1).clamp(max=last)
        below = positions.detach().floor()
        by_position = (q / at.scale) @ in_full(self.weight).T  # [B, H, Q, P]
        low = by_position.gather(-1, below.long())
        high = by_position.gather(-1, (below.long() + 1).clamp(max=last))
        return s + torch.lerp(low, high, positions - below)


@dataclass(frozen=True)
class CoPE(Encoding):
    """Lets each query count the keys that it finds worth counting, and adds to a logit what a learned table says of
    that count. So a position may be a number of words or of sentences, where others count tokens.
    (arXiv 2405.18719)

    positions  rows of the table; what is further away, as the query counts, shares the last
    """

    positions: int = 64

    name = "cope"
    title = "a learned vector per position, where a position counts the keys that the query finds worth counting"
    paper = "2405.18719"
    kinds = ("score",)
    by_order = True

    def __post_init__(self) -> None:
        require_positive_int("positions", self.positions)

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        refuse_encoders(self, shape, "counts the keys from a query back")
        return (Score(ContextualPositions(self.positions, shape.channels)),)
