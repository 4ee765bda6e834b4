"""KERPLE, kernelized relative positional embedding. Chi et al., NeurIPS 2022, arXiv 2205.09921.

log form   -r1 log(1 + r2 |i - j|),  r1, r2 > 0
power form -r1 |i - j|^r2,           r1 > 0, 0 < r2 <= 2
with r1 and r2 learned per head and layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from whorl.encodings.base import Encoding
from whorl.encodings.biases import RelativeBias, in_full
from whorl.encodings.config import choices
from whorl.encodings.effects import Bias, Effect, Shape
from whorl.encodings.within import Within

SMALLEST = 0.01  # the official code keeps both parameters at this or above, away from the edge of the valid range
STEEPEST = 2.0  # and the power form's exponent at this or below


class KernelBias(RelativeBias):
    """The kernel's value at each distance, with parameters [heads]."""

    def __init__(self, heads: int, form: str, generator: torch.Generator) -> None:
        super().__init__()
        self.form = form
        uniform = torch.rand(2, heads, generator=generator)
        # As the official code draws them: what multiplies the logarithm, and the exponent, from U(0, 2), else U(0, 1).
        self.r1 = nn.Parameter(uniform[0] * (2 if form == "log" else 1))
        self.r2 = nn.Parameter(uniform[1] * (1 if form == "log" else 2))

    def of_distance(self, distance: torch.Tensor) -> torch.Tensor:
        distance = distance.abs().float()
        heads_first = (-1, *[1] * distance.dim())
        r1 = Within.apply(in_full(self.r1), SMALLEST, math.inf).view(heads_first)
        r2 = Within.apply(in_full(self.r2), SMALLEST, math.inf if self.form == "log" else STEEPEST).view(heads_first)
        if self.form == "log":
            return -r1 * torch.log1p(r2 * distance)
        # d^r2 at distance 0 has an infinite slope in r2's gradient; its value there is 0 whatever r2 is.
        power = distance.clamp(min=1) ** r2
        return -r1 * torch.where(distance > 0, power, 0.0)


@dataclass(frozen=True)
class Kerple(Encoding):
    """Takes from each logit a number that grows with the logarithm of the distance, or with a power of it, as each
    head and layer learns. In the logarithmic form far keys fade more slowly than under ALiBi. (arXiv 2205.09921)

    form  "log" or "power"
    """

    form: str = "log"

    name = "kerple"
    title = "a learned logarithmic (or power) decay with distance, per head"
    paper = "2205.09921"
    kinds = ("bias",)

    def __post_init__(self) -> None:
        choices("form", self.form, ("log", "power"))

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        return (Bias(KernelBias(shape.heads, self.form, shape.generator())),)
