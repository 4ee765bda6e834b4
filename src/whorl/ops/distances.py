"""What the implementations ask of biases that depend on distance alone (`whorl.encodings.base.RelativeBias`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


def not_relative(modules: Sequence[nn.Module]) -> str | None:
    """None when all are biases of distance alone, else which is not."""
    other = [type(module).__name__ for module in modules if not hasattr(module, "of_distance")]
    return f"{other[0]} is not a bias of distance alone" if other else None


def reach_of(modules: Sequence[nn.Module]) -> int | None:
    """The least distance at which one of them hides all keys (a window's), or None."""
    reaches: list[Any] = [getattr(module, "reach", None) for module in modules]
    return min((reach for reach in reaches if reach is not None), default=None)


def by_distance(modules: Sequence[nn.Module], distances: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Their sum at each of some integer distances [n], query position - key position: [heads or 1, n], contiguous."""
    found: list[Any] = list(modules)
    each = torch.broadcast_tensors(*[module.of_distance(distances) for module in found])
    return torch.stack(each).sum(0).to(dtype).contiguous()
