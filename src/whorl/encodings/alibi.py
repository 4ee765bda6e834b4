"""ALiBi, attention with linear biases. Press et al., ICLR 2022, arXiv 2108.12409.

logit(i, j) = q_i.k_j / sqrt(d) - slope_h |i - j|, slope_h = 2^(-8h/H) for h = 1..H when H is a power of two;
otherwise the slopes of the nearest smaller power of two, then every other slope of the next one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from whorl.encodings.base import Encoding
from whorl.encodings.biases import RelativeBias, constants
from whorl.encodings.effects import Bias, Effect, Shape


def slopes(heads: int) -> tuple[float, ...]:
    """ALiBi's slope of each head (per token of distance), for any number of heads."""
    power = 2 ** math.floor(math.log2(heads))
    own = [2.0 ** (-8.0 * h / power) for h in range(1, power + 1)]
    between = [2.0 ** (-8.0 * h / (2 * power)) for h in range(1, 2 * power + 1, 2)]
    return tuple(own + between[: heads - power])


class LinearBias(RelativeBias):
    """-slope_h x distance.

    The slopes are numbers and not a buffer, which `model.to(bfloat16)` would round.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.slopes = slopes(heads)

    def of_distance(self, distance: torch.Tensor) -> torch.Tensor:
        slopes_H = constants(self.slopes, torch.float32, distance.device)
        return -slopes_H.view(-1, *[1] * distance.dim()) * distance.abs()


@dataclass(frozen=True)
class ALiBi(Encoding):
    """Takes from each logit a number that grows with the distance, steeply in some heads and hardly in others. Nothing
    is learned, and the steep heads see near keys alone. (arXiv 2108.12409)"""

    name = "alibi"
    title = "a linear penalty on distance, one slope per head"
    paper = "2108.12409"
    kinds = ("bias",)

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        return (Bias(LinearBias(shape.heads), shared=True),)
