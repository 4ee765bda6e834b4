"""Stick-breaking attention. Tan et al., arXiv 2410.17980, equation 3: in the place of softmax, and of any position.

From the nearest key on, each key breaks off a share of the stick that is left, so that near keys come first:

    weight_ij = sigmoid(s_ij) prod_{j < k < i} (1 - sigmoid(s_ik))        j < i, s the scaled logits

What is left of the stick in the end is dropped, or the token's own value gets it. In logarithms, with softplus s =
-log(1 - sigmoid(s)), the weight is exp(s_ij - sum_{j <= k < i} softplus(s_ik)).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from whorl.encodings.base import Encoding
from whorl.encodings.config import choices
from whorl.encodings.effects import Effect, Score, Shape
from whorl.encodings.scores import At, ScoreModule, refuse_encoders


class BrokenStick(ScoreModule):
    """own: whether a query's own key takes a share, before all others. rest: whether its value gets what is left."""

    def __init__(self, own: bool, rest: bool) -> None:
        super().__init__()
        self.own, self.rest = own, rest

    def weights(self, s: torch.Tensor, at: At) -> torch.Tensor:
        hidden = s == -torch.inf
        own = (at.query_positions[:, None, :, None] == at.key_positions[:, None, None, :]) & ~hidden
        if not self.own:
            hidden = hidden | own
        s = s.masked_fill(hidden, 0)  # a finite number, which no NaN comes of
        # -log(1 - sigmoid), and not PyTorch's softplus, which is its argument past 20: a share of 1 would leave nothing
        broken = -nn.functional.logsigmoid(-s).masked_fill(hidden, 0).flip(-1).cumsum(-1).flip(-1)
        weights = (s - broken).exp().masked_fill(hidden, 0)
        return weights + (-broken[..., :1]).exp() * own if self.rest else weights


@dataclass(frozen=True)
class StickBreaking(Encoding):
    """Takes the place of the softmax: from the nearest key back, each key takes a share of what nearer ones have left.
    So near keys come first without any positions, and weights may sum to less than 1. (arXiv 2410.17980)

    own   "skipped": a query does not attend to its own token; "seen": it does
    rest  "dropped": weights sum to less than 1; "own": what is left goes to the token's own value
    """

    own: str = "skipped"
    rest: str = "dropped"

    name = "stick-breaking"
    title = "in the place of softmax, each key takes a share of what nearer keys have left"
    paper = "2410.17980"
    kinds = ("softmax",)
    by_order = True

    def __post_init__(self) -> None:
        choices("own", self.own, ("skipped", "seen"))
        choices("rest", self.rest, ("dropped", "own"))

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        refuse_encoders(self, shape, "gives what nearer keys have left to earlier ones")
        return (Score(BrokenStick(self.own == "seen", self.rest == "own"), shared=True),)
