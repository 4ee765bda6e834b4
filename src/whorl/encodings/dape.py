"""DAPE, data-adaptive positional encoding. Zheng et al., arXiv 2405.14722 (called CAPE in its first version), eq. 5.

    logits = S + B + f([S; B])

of all heads together: S the scaled logits of query i and key j, B a bias of their positions (KERPLE's, say), and f an
MLP from the 2H numbers to H, with a hidden layer of 32 LeakyReLUs. It mixes heads, and keeps each pair (i, j) to
itself. S must be finite: minus infinity at a hidden key would become NaN, and its gradient that of every parameter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from whorl.encodings import get
from whorl.encodings.base import Encoding
from whorl.encodings.biases import in_full
from whorl.encodings.config import require_positive_int
from whorl.encodings.effects import Bias, Effect, Score, Shape
from whorl.encodings.scores import At, ScoreModule

SLOPE = 0.01  # of LeakyReLU below 0


class AdaptedBias(ScoreModule):
    """A bias, and what an MLP across heads makes of it and of the logits."""

    causal = False

    def __init__(self, bias: nn.Module, heads: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.bias = bias
        for layer, (rows, columns) in enumerate([(hidden, 2 * heads), (heads, hidden)]):
            for name, shape in (("weight", (rows, columns)), ("bias", (rows, 1))):
                drawn = (2 * torch.rand(shape, generator=generator) - 1) / columns**0.5  # as nn.Linear draws them
                self.register_parameter(f"{name}_{layer}", nn.Parameter(drawn))

    def logits(self, s: torch.Tensor, q: torch.Tensor, k: torch.Tensor, at: At) -> torch.Tensor:
        weights = [in_full(getattr(self, f"weight_{layer}")) for layer in (0, 1)]
        offsets = [in_full(getattr(self, f"bias_{layer}")) for layer in (0, 1)]
        bias = self.bias(at.query_positions, at.key_positions).to(s.dtype).expand_as(s)
        heads_first = torch.cat([s, bias], 1).flatten(2)  # [B, 2 H, Q K]
        hidden = nn.functional.leaky_relu(weights[0] @ heads_first + offsets[0], SLOPE)
        return s + bias + (weights[1] @ hidden + offsets[1]).view_as(s)


@dataclass(frozen=True)
class DAPE(Encoding):
    """Has a small network look at the logits and biases of all heads, for each query and key, and correct them. So a
    bias of positions (KERPLE's, say) adapts to content. (arXiv 2405.14722)

    bias    the encoding that is adapted, one that biases the logits by itself (kerple, alibi, t5, ...)
    hidden  units in the network's hidden layer
    """

    bias: str = "kerple"
    hidden: int = 32

    name = "dape"
    title = "a bias of positions that an MLP across heads adapts to the logits"
    paper = "2405.14722"
    kinds = ("score",)

    def __post_init__(self) -> None:
        require_positive_int("hidden", self.hidden)
        if get(self.bias).kinds != ("bias",):
            raise ValueError(f"bias must be an encoding that biases the logits, got {self.bias}; the paper's is kerple")

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        (effect,) = get(self.bias)().effects(shape)
        assert isinstance(effect, Bias)
        return (Score(AdaptedBias(effect.module, shape.heads, self.hidden, shape.generator())),)
