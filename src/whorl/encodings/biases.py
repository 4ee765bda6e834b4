"""What modules of biases and scores share. Not in `base`, which does without PyTorch, so that `whorl --help` does."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from whorl.numerics import math_dtype


def in_full(parameter: torch.Tensor) -> torch.Tensor:
    """A bias's parameter as it is reckoned with: float32, whatever the model's dtype (float64 for float64)."""
    return parameter if parameter.dtype == torch.float64 else parameter.float()


def offsets(query_positions: torch.Tensor, key_positions: torch.Tensor) -> torch.Tensor:
    """p_i - p_j of positions [B or 1, tokens, axes], [B or 1, 1, Q, K, axes]: exact for whole numbers."""
    of_queries, of_keys = (p if p.is_floating_point() else p.long() for p in (query_positions, key_positions))
    return of_queries[:, None, :, None] - of_keys[:, None, None]


def by_length(slopes: tuple[float, ...], offset: torch.Tensor) -> torch.Tensor:
    """-slope_h |p_i - p_j| for `offsets`, float32 (float64 for float64): [B or 1, H, Q, K]. Its gradient where two
    points meet is 0."""
    dtype = math_dtype(offset.dtype)
    along = offset.to(dtype)
    # On the meta device PyTorch 2.11 leaves an axis there that is alone.
    distance = along[..., 0].abs() if along.shape[-1] == 1 else torch.linalg.vector_norm(along, dim=-1)
    return -constants(slopes, dtype, distance.device).view(-1, 1, 1) * distance


def bucketed(distance: torch.Tensor, borders: tuple[int, ...]) -> torch.Tensor:
    """The bucket of each whole number [...]: how many of the ascending borders it has reached."""
    return torch.bucketize(distance, constants(borders, torch.long, distance.device), right=True)


def constants(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Numbers as a tensor, kept on the device: to copy them there in every layer would make the host wait."""
    if torch.compiler.is_compiling():  # which makes a constant of them
        return torch.tensor(values, dtype=dtype, device=device)
    return _kept_constants(values, dtype, device)


@cache
def _kept_constants(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    with torch.inference_mode(False):  # whatever asks first, training may ask next
        return torch.tensor(values, dtype=dtype, device=device)


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
