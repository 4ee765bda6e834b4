"""Rotations by angles that are learned, or that each token has of its own: what the modules of such scores share.

q and k reach a score unturned, and keys lie so in the cache. Both are turned in `inputs`, in float32 (float64 for
float64), by cos and sin that `turning` makes of positions and of the tokens' states.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from whorl.encodings.biases import constants
from whorl.encodings.scores import At, ScoreModule, of_heads
from whorl.numerics import math_dtype


class AngleModule(ScoreModule):
    """Turns pairs of the first channels of q and k by what its `turning` gives; the others pass through.

    layout: which two channels are a pair, as in `whorl.ops.rotate`.
    """

    def __init__(self, layout: str) -> None:
        super().__init__()
        self.layout = layout

    def inputs(self, q: torch.Tensor, k: torch.Tensor, at: At) -> tuple[torch.Tensor, torch.Tensor]:
        dtype = math_dtype(q.dtype)
        q_tables = self.turning(at.query_positions, at.query_state, dtype)
        k_tables = q_tables if at.same_tokens else self.turning(at.key_positions, at.key_state, dtype)
        return turned(q, *q_tables, self.layout), turned(of_heads(k, k_tables[0].shape[1]), *k_tables, self.layout)


def exact(x: torch.Tensor) -> torch.Tensor:
    """x in float64, in which a position times a frequency is; float32 where the device has no float64 (MPS)."""
    return x if x.device.type == "mps" else x.double()


def numbers(values: Sequence[float], x: torch.Tensor) -> torch.Tensor:
    """Numbers on x's device, as `exact`."""
    return constants(tuple(values), torch.float32 if x.device.type == "mps" else torch.float64, x.device)


def angles_of(positions: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
    """Positions [B or 1, T] x frequencies [pairs] or [H, pairs] (radians per token): [B or 1, 1 or H, T, pairs]."""
    frequencies = exact(frequencies).unsqueeze(-2)
    return exact(positions)[:, None, :, None] * frequencies


def cos_sin_of(angles: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin, in `dtype`."""
    return angles.cos().to(dtype), angles.sin().to(dtype)


def turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, layout: str) -> torch.Tensor:
    """x [B, H, T, D] with the pairs of its first channels turned: (a, b) -> (a cos - b sin, b cos + a sin).

    cos and sin [B or 1, H or 1, T, pairs] need not be of one angle. In x's dtype.
    """
    pairs = cos.shape[-1]
    width = 2 * pairs
    split, axis = ((2, pairs), -2) if layout == "half" else ((pairs, 2), -1)
    a, b = x[..., :width].to(cos.dtype).unflatten(-1, split).unbind(axis)
    both = torch.stack([a * cos - b * sin, b * cos + a * sin], axis).flatten(-2).to(x.dtype)
    return both if x.shape[-1] == width else torch.cat([both, x[..., width:]], -1)
