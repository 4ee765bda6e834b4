"""Sliding-window attention as an encoding. Beltagy et al., Longformer, arXiv 2004.05150, section 3.

bias(i, j) = 0 where |i - j| < size, and minus infinity elsewhere
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from whorl.encodings.base import Encoding
from whorl.encodings.biases import RelativeBias
from whorl.encodings.config import require_positive_int
from whorl.encodings.effects import Bias, Effect, Shape


class WindowBias(RelativeBias):
    """0 where |distance| < size, minus infinity elsewhere; one for all heads."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = self.reach = size

    def of_distance(self, distance: torch.Tensor) -> torch.Tensor:
        if self.size > torch.iinfo(distance.dtype).max:  # a number that these cannot hold is compared as another one
            return torch.zeros(distance.shape, device=distance.device)[None]
        far = distance.abs() >= self.size
        return torch.zeros(distance.shape, device=distance.device).masked_fill(far, -torch.inf)[None]


@dataclass(frozen=True)
class Window(Encoding):
    """Hides from a query all keys at a distance of `size` tokens or more. It is a mask beside another encoding, and
    often of some layers alone: rope+window:size=256/nope. (arXiv 2004.05150)

    size  tokens; keys at distances below it are seen
    """

    size: int

    name = "window"
    title = "hides keys at a distance of `size` tokens or more"
    paper = "2004.05150"
    kinds = ("window",)

    def __post_init__(self) -> None:
        require_positive_int("size", self.size, " tokens")

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        return (Bias(WindowBias(self.size), shared=True),)
