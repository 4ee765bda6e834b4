"""The buckets of iRPE on a grid (`whorl.encodings.irpe` has the formulas): a number each, or vectors.

Distances are whole, and none is rounded: sqrt(n) rounds to b or more from n = b^2 - b + 1 on. What cross adds up is a
table of product, made of 2 (2 b + 1) learned rows: all else is the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from whorl.encodings.biases import bucketed, in_full
from whorl.encodings.grid import COLUMN, ROW, nowhere
from whorl.encodings.relative_vectors import RelativeVectors
from whorl.encodings.scores import At

AXES = 2


@dataclass(frozen=True)
class GridBuckets:
    """borders: the least distance of each bucket but that of 0, along an axis; of euclidean to all sides; of
    quantization the least square."""

    method: str
    borders: tuple[int, ...]

    @property
    def side(self) -> int:
        """Buckets along one axis, which tell up from down."""
        return 2 * len(self.borders) + 1

    @property
    def count(self) -> int:
        return 1 + (self.side**2 if self.method in ("product", "cross") else 1 + len(self.borders))

    @property
    def learned(self) -> tuple[int, ...]:
        """The sizes of what is learned for them; `whole` makes a row for each bucket of it."""
        return (2, self.side + 1) if self.method == "cross" else (self.count,)

    def whole(self, learned: torch.Tensor) -> torch.Tensor:
        """[heads, *`learned`, channels] as a row for each bucket: [heads, count, channels]."""
        if self.method != "cross":
            return learned
        of_rows, of_columns = learned.unbind(1)
        both = of_rows[:, :-1, None] + of_columns[:, None, :-1]
        return torch.cat([both.flatten(1, 2), of_rows[:, -1:] + of_columns[:, -1:]], 1)

    def of(self, query_positions: torch.Tensor, key_positions: torch.Tensor) -> torch.Tensor:
        """The bucket of each query and key, int64 [B or 1, 1, Q, K], for positions [B or 1, tokens, 2, or 3 where some
        stand nowhere].

        Raises ValueError for coordinates, which are no places on a grid.
        """
        if query_positions.is_floating_point():
            raise ValueError(
                "irpe goes by whole rows and columns, and these positions are real numbers; try euclidean-alibi or pape"
            )
        down, along = (
            query_positions[:, None, :, None, axis].long() - key_positions[:, None, None, :, axis].long()
            for axis in (ROW, COLUMN)
        )
        if self.method in ("product", "cross"):
            signed = tuple(sorted({*self.borders, *(1 - border for border in self.borders)}))
            found = bucketed(down, signed) * self.side + bucketed(along, signed)
        else:
            least = self.borders if self.method == "quantization" else tuple(b * b - b + 1 for b in self.borders)
            found = bucketed(down.square() + along.square(), least)
        if query_positions.shape[-1] > AXES:
            found = found.masked_fill(nowhere(query_positions, key_positions), self.count - 1)
        return found


class GridBias(nn.Module):
    """A number per bucket and head."""

    axis, axes, sees_prefix = "all", AXES, True

    def __init__(self, heads: int, buckets: GridBuckets) -> None:
        super().__init__()
        self.buckets = buckets
        self.weight = nn.Parameter(torch.zeros(heads, *buckets.learned, 1))

    def forward(self, query_positions: torch.Tensor, key_positions: torch.Tensor) -> torch.Tensor:
        """[B or 1, heads or 1, Q, K]."""
        of_bucket = self.buckets.whole(in_full(self.weight))[..., 0].T
        found = self.buckets.of(query_positions, key_positions)[:, 0]
        return nn.functional.embedding(found, of_bucket).movedim(-1, 1)


class GridVectors(RelativeVectors):
    """Vectors per bucket."""

    axis, axes, sees_prefix = "all", AXES, True

    def __init__(self, on: str, heads: int, channels: int, buckets: GridBuckets) -> None:
        super().__init__(on, heads, buckets.learned, channels)
        self.buckets = buckets

    def table(self, letter: str) -> torch.Tensor:
        return self.buckets.whole(super().table(letter))

    def of_each(self, at: At) -> torch.Tensor:
        return self.buckets.of(at.query_positions, at.key_positions)
