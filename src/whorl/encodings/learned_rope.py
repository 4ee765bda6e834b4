"""LeRoPE, rotary frequencies that are learned. Karypis et al., arXiv 2607.10134.

Pair i turns by position x theta_i exp(alpha_i), theta_i = base^(-2i/d) as in RoPE, with one learned alpha_i per pair
for all layers and heads, which starts at 0: at first it is RoPE.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from whorl.encodings.angles import AngleModule, angles_of, cos_sin_of, exact, numbers
from whorl.encodings.config import of_host
from whorl.encodings.effects import Effect, Score, Shape
from whorl.encodings.rope import OfPairs
from whorl.encodings.spectrum import rope_frequencies


class LearnedAngles(AngleModule):
    """The learned logarithms [pairs] of what RoPE's frequencies are multiplied by.

    The paper learns them without weight decay; transformers' Trainer leaves out what is called a bias.
    """

    causal = False

    def __init__(self, frequencies: tuple[float, ...], layout: str) -> None:
        super().__init__(layout)
        self.frequencies = frequencies  # numbers and no buffer, which model.to(bfloat16) would round
        self.alpha_bias = nn.Parameter(torch.zeros(len(frequencies)))

    def turning(
        self, positions: torch.Tensor, state: torch.Tensor | None, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        alpha = exact(self.alpha_bias)
        frequencies = numbers(self.frequencies, alpha) * alpha.exp()
        return cos_sin_of(angles_of(positions, frequencies), dtype)


@dataclass(frozen=True)
class LearnedRoPE(OfPairs):
    """Starts as RoPE and learns the frequency of each pair, one set for all layers and heads. So training decides
    which wavelengths the model has. (arXiv 2607.10134)

    base      as in `RoPE`
    fraction  as in `RoPE`
    """

    base: float | None = of_host(10000.0)
    fraction: float | None = of_host()

    name = "learned-rope"
    title = "RoPE with learned frequencies, the same in all layers and heads"
    paper = "2607.10134"

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        frequencies = rope_frequencies(self.argument("base"), self.width(shape.head_dim))
        return (Score(LearnedAngles(frequencies, shape.layout), shared=True),)
