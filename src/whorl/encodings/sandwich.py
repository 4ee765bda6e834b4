"""Sandwich. Chi et al., ACL 2023, arXiv 2212.10356.

bias_h(i, j) = (sum over t = 1 .. D/2 of cos((i - j) / 10000^(2t/D)) - D/2) / (8 h / H), h = 1 .. H

It is the product of two sinusoidal position vectors of width D, which each head divides by a number of its own; nothing
is learned. D/2 is taken off so that it is 0 at distance 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from whorl.encodings.base import Encoding
from whorl.encodings.biases import RelativeBias, constants
from whorl.encodings.config import check_base, require_positive_int
from whorl.encodings.effects import Bias, Effect, Shape
from whorl.encodings.turns import cos_sin


class CosineBias(RelativeBias):
    """The sum of cosines, compressed by head."""

    def __init__(self, heads: int, dim: int, base: float) -> None:
        super().__init__()
        self.frequencies = tuple(base ** (-2.0 * t / dim) for t in range(1, dim // 2 + 1))
        self.compression = tuple(8.0 * h / heads for h in range(1, heads + 1))

    def of_distance(self, distance: torch.Tensor) -> torch.Tensor:
        total = torch.full(distance.shape, -len(self.frequencies), dtype=torch.float32, device=distance.device)
        for frequency in self.frequencies:  # one by one: 64 numbers for each query and key would be a lot of memory
            total = total + cos_sin(distance, (frequency,))[0][..., 0]
        return total / constants(self.compression, torch.float32, distance.device).view(-1, *[1] * distance.dim())


@dataclass(frozen=True)
class Sandwich(Encoding):
    """Adds to each logit the product of two sinusoidal position vectors, divided by a number of each head. It falls
    with the distance, in waves, and nothing is learned. (arXiv 2212.10356)

    dim   the width D of those vectors; the paper's is 128 whatever the model's
    base  of their frequencies
    """

    dim: int = 128
    base: float = 10000.0

    name = "sandwich"
    title = "the product of two sinusoidal position vectors, compressed by head"
    paper = "2212.10356"
    kinds = ("bias",)

    def __post_init__(self) -> None:
        require_positive_int("dim", self.dim)
        if self.dim % 2:
            raise ValueError(
                f"dim must be even, a sine and a cosine for each frequency, got {self.dim}; Sandwich's is 128"
            )
        check_base(self.base)

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        return (Bias(CosineBias(shape.heads, self.dim, self.base), shared=True),)
