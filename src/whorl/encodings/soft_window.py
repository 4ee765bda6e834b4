"""A window with a soft edge, for models that are read past their training length: whorl's own (experiments/0018-gains).

bias(i, j) = -power max(0, ln(|i - j| / L)), by which the weight of a key past the training length L falls by a factor
             of (L / |i - j|)^power
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from whorl.encodings.base import Encoding
from whorl.encodings.biases import RelativeBias
from whorl.encodings.config import of_host, require_positive, require_positive_int
from whorl.encodings.effects import Bias, Effect, Shape


class FarDecay(RelativeBias):
    """0 up to a distance of `start`, and past it less by `power` for each unit of ln distance; one for all heads."""

    def __init__(self, start: int, power: float) -> None:
        super().__init__()
        self.start, self.power = start, power

    def of_distance(self, distance: torch.Tensor) -> torch.Tensor:
        return -self.power * (distance.abs().float() / self.start).clamp(min=1).log()[None]


@dataclass(frozen=True)
class SoftWindow(Encoding):
    """Lets keys that are further off than any in training fade with the logarithm of their distance: all of them
    together weigh little, however many there are, and one that fits well is found. Up to the training length nothing
    changes, so that it needs no training.

    It goes beside an encoding of which far keys do not fade, often in some layers alone: fox/kerple+soft-window.

    train_length  L in tokens
    power         of 1 / distance, by which weights fall past L. Above 1, the sum over all far keys is bounded
    """

    train_length: int | None = of_host(512)
    power: float = 2.0

    name = "soft-window"
    title = "lets keys past the training length fade with the logarithm of their distance"
    paper = "whorl's own (experiments/0018-gains)"
    kinds = ("bias",)

    def __post_init__(self) -> None:
        if self.train_length is not None:
            require_positive_int("train_length", self.train_length, " tokens")
        require_positive("power", self.power, "the exponent of 1 / distance")

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        return (Bias(FarDecay(self.argument("train_length"), self.power), shared=True),)
