"""Sliding-window attention as an encoding: a bias of minus infinity past a distance (Longformer, arXiv 2004.05150)."""

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
    """A query sees the keys at distances below `size` tokens (arXiv 2004.05150). Composes: `RoPE() + Window(256)`."""

    size: int

    name = "window"
    title = "hides keys at a distance of `size` tokens or more"
    paper = "2004.05150"
    kinds = ("window",)

    def __post_init__(self) -> None:
        require_positive_int("size", self.size, " tokens")

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        return (Bias(WindowBias(self.size), shared=True),)
