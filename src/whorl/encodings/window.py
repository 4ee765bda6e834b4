"""Sliding-window attention as an encoding: a bias of minus infinity past a distance (Longformer, arXiv 2004.05150)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from whorl.encodings.base import Bias, Effect, Encoding, Shape, require_positive_int


class WindowBias(nn.Module):
    """0 where |distance| < size, minus infinity elsewhere; [batch, 1, queries, keys] float32."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, query_positions: torch.Tensor, key_positions: torch.Tensor) -> torch.Tensor:
        distance = (query_positions[:, None, :, None] - key_positions[:, None, None, :]).abs()
        return torch.zeros(distance.shape, device=distance.device).masked_fill(distance >= self.size, -torch.inf)


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
