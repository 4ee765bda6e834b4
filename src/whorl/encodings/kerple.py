"""KERPLE, kernelized relative positional embedding. Chi et al., NeurIPS 2022, arXiv 2205.09921.

log form   -r1 log(1 + r2 |i - j|),  r1, r2 > 0
power form -r1 |i - j|^r2,           r1 > 0, 0 < r2 <= 2
with r1 and r2 learned per head and layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from whorl.encodings.base import Bias, Effect, Encoding, RelativeBias, Shape, choices, in_full

SMALLEST = 0.01  # the official code clamps both parameters here, away from the edge of the valid range


class KernelBias(RelativeBias):
    """The kernel's value at each distance, with parameters [heads]."""

    def __init__(self, heads: int, form: str) -> None:
        super().__init__()
        self.form = form
        generator = torch.Generator().manual_seed(0)
        uniform = torch.rand(2, heads, generator=generator)
        # Uniform over (0, 2), and over (0, 1) for the log form's r2; not checked against the official code's draw.
        self.r1 = nn.Parameter(uniform[0] * 2)
        self.r2 = nn.Parameter(uniform[1] * (1 if form == "log" else 2))

    def of_distance(self, distance: torch.Tensor) -> torch.Tensor:
        distance = distance.abs().float()
        heads_first = (-1, *[1] * distance.dim())
        r1 = in_full(self.r1).clamp(min=SMALLEST).view(heads_first)
        r2 = in_full(self.r2).view(heads_first)
        if self.form == "log":
            return -r1 * torch.log1p(r2.clamp(min=SMALLEST) * distance)
        # d^r2 at distance 0 has an infinite slope in r2's gradient; its value there is 0 whatever r2 is.
        power = distance.clamp(min=1) ** r2.clamp(SMALLEST, 2)
        return -r1 * torch.where(distance > 0, power, 0.0)


@dataclass(frozen=True)
class Kerple(Encoding):
    """A learned decay with distance per head and layer, logarithmic or a power (arXiv 2205.09921)."""

    form: str = "log"

    name = "kerple"
    title = "a learned logarithmic (or power) decay with distance, per head"
    paper = "2205.09921"
    kinds = ("bias",)

    def __post_init__(self) -> None:
        choices("form", self.form, ("log", "power"))

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        return (Bias(KernelBias(shape.heads, self.form)),)
