"""LookHere: heads that look in one direction each. Fuller et al., NeurIPS 2024, arXiv 2405.13985.

logit(i, j) = q_i.k_j / sqrt(d) - slope m_l s_h |p_j - p_i|   where patch j is in head h's view from patch i, else -inf

A view is an angle of 180, 90 or 45 degrees, ends included, and a head looks in one of eight directions; a patch sees
itself in all. Heads come in fours: those of the first four directions, those of the other four, and last four that look
to all sides. s_h is 1/2 in fours that look in a direction (1/4 where there are these four for the second time, and so
on), and 1/4, 1/16, 1/64, 1/256 in those that do not; m_l falls from 1.5 in the first layer to 0.5 in the last. With 12
heads that is the official code's "corners-triangles-none" for 90 degrees, with "halves-diagonals" and
"eighths1-eighths2" for 180 and 45, and its slope of 2.

Of other numbers of heads the last four, and what is over, look to all sides (of four or fewer, none do), and the first
half of the other fours has the first four directions. The official code knows 6, 12 and 16, and does the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from whorl.encodings.base import Encoding
from whorl.encodings.biases import by_length, offsets
from whorl.encodings.config import choices, of_host, require_positive, require_positive_int
from whorl.encodings.effects import Bias, Effect, Shape
from whorl.encodings.grid import COLUMN, ROW, check_axes

RAYS = ((1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1))  # (right, up), 45 degrees apart
FIRST_RAYS = {  # of the views of the first four directions and of the other four, in the official order
    180: ((0, 4, 2, 6), (7, 1, 5, 3)),  # up, down, left, right; up right, up left, down right, down left
    90: ((2, 0, 4, 6), (1, 5, 3, 7)),  # up left, up right, down left, down right; up, down, left, right
    45: ((2, 5, 3, 0), (1, 6, 4, 7)),  # beside the axes, on their left or upper side; and on the other
}
STEEP, FLAT = 1.5, 0.5  # of the first layer and the last


@dataclass(frozen=True)
class Head:
    slope: float
    first_ray: int | None = None  # of its view; None: it looks to all sides


def heads_of(count: int, view: int) -> tuple[Head, ...]:
    """What each head looks at, and how far."""
    fours = max(1, count // 4 - 1)
    groups = ((fours + 1) // 2, fours // 2)
    found = [
        Head(2.0 ** -(1 + again), ray)
        for rays, times in zip(FIRST_RAYS[view], groups, strict=True)
        for again in range(times)
        for ray in rays
    ]
    rest = max(0, count - len(found))
    return (*found[:count], *(Head(4.0 ** -(1 + i * 4 // max(rest, 4))) for i in range(rest)))


class DirectedBias(nn.Module):
    """-slope_h x distance, and minus infinity for what a head does not look at; float32 (float64 for float64)."""

    axis, axes = "all", 2

    def __init__(self, heads: tuple[Head, ...], view: int, slope: float) -> None:
        super().__init__()
        self.heads, self.view = heads, view
        self.slopes = tuple(slope * head.slope for head in heads)

    def forward(self, query_positions: torch.Tensor, key_positions: torch.Tensor) -> torch.Tensor:
        """[batch, heads, queries, keys] for positions [batch, queries, 2] and [batch, keys, 2]."""
        offset = offsets(query_positions, key_positions)
        up, right = offset[:, 0, ..., ROW], -offset[:, 0, ..., COLUMN]  # of the key
        left_of = [x * up - y * right >= 0 for x, y in RAYS]  # on the left hand of one who looks along a ray, or on it
        everywhere = torch.ones_like(left_of[0])
        seen = []
        for head in self.heads:
            if head.first_ray is None:
                seen.append(everywhere)
                continue
            behind = (head.first_ray + self.view // 45 + 4) % 8  # what is left of this ray is right of the last one
            seen.append(left_of[head.first_ray] & left_of[behind])
        return by_length(self.slopes, offset).masked_fill(~torch.stack(seen, 1), -math.inf)


@dataclass(frozen=True)
class LookHere(Encoding):
    """Lets each head see what lies in one direction, within an angle, but for a third of the heads, which look to all
    sides. Takes from each logit a number that grows with the distance. (arXiv 2405.13985)

    view    the angle that a head sees, in degrees: 180, 90 or 45
    slope   what all slopes are multiplied by
    layers  of the model; slopes fall from the first to the last
    """

    view: int = 90
    slope: float = 2.0
    layers: int | None = of_host(12)

    name = "lookhere"
    title = "heads that see one direction each, within an angle, with a penalty on the distance"
    paper = "2405.13985"
    kinds = ("bias",)
    on_grid = True

    def __post_init__(self) -> None:
        choices("view", self.view, tuple(FIRST_RAYS))  # type: ignore[arg-type]
        require_positive("slope", self.slope, "per patch")
        if self.layers is not None:
            require_positive_int("layers", self.layers)

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        check_axes(self.name, shape)
        layers = self.argument("layers")
        if shape.layer >= layers:
            raise ValueError(f"{self} is for {layers} layers, and this is layer {shape.layer}; leave layers out")
        steep = STEEP - (STEEP - FLAT) * shape.layer / max(1, layers - 1)
        return (Bias(DirectedBias(heads_of(shape.heads, self.view), self.view, self.slope * steep)),)
