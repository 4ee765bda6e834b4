"""What modules of biases and scores share. Not in `base`, which does without PyTorch, so that `whorl --help` does."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn


def in_full(parameter: torch.Tensor) -> torch.Tensor:
    """A bias's parameter as it is reckoned with: float32, whatever the model's dtype (float64 for float64)."""
    return parameter if parameter.dtype == torch.float64 else parameter.float()


def bucketed(distance: torch.Tensor, borders: tuple[int, ...]) -> torch.Tensor:
    """The bucket of each whole number [...]: how many of the ascending borders it has reached."""
    if torch.compiler.is_compiling():  # which makes a constant of it
        table = torch.tensor(borders, dtype=torch.long, device=distance.device)
    else:
        table = _borders_on(distance.device, borders)
    return torch.bucketize(distance, table, right=True)


@cache
def _borders_on(device: torch.device, borders: tuple[int, ...]) -> torch.Tensor:
    """Kept on the device: to copy numbers there in every layer would make the host wait."""
    return torch.tensor(borders, dtype=torch.long, device=device)


class RelativeBias(nn.Module):
    """A bias that depends on distance alone, which is all that a kernel needs to know of it.

    `reach`: keys at this distance or beyond are hidden (a window), or None.
    `axis`: that along which the distance is taken, where positions have several (see `whorl.encodings.effects`).
    """

    reach: int | None = None
    axis: int | None = None

    def of_distance(self, distance: torch.Tensor) -> torch.Tensor:
        """The bias at integer distances [...], query position - key position: float32 [heads or 1, ...]."""
        raise NotImplementedError

    def forward(self, query_positions: torch.Tensor, key_positions: torch.Tensor) -> torch.Tensor:
        """[batch, heads or 1, queries, keys] for positions [batch, queries] and [batch, keys]."""
        distance = query_positions.long()[:, :, None] - key_positions.long()[:, None, :]  # of int32, it may not be one
        return self.of_distance(distance).movedim(0, 1)
