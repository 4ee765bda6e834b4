"""The buckets of iRPE on a grid (`whorl.encodings.irpe` has the formulas): a number each, or vectors.

Distances are whole, and none is rounded: sqrt(n) rounds to b or more from n = b^2 - b + 1 on. What cross adds up is a
table of product, made of 2 (2 b + 1) learned rows: all else is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from whorl.encodings.biases import bucketed, in_full
from whorl.encodings.by_run import ByRun
from whorl.encodings.grid import COLUMN, ROW, Grid, nowhere
from whorl.encodings.relative_vectors import RelativeVectors
from whorl.encodings.scores import At

AXES = 2
NO_RUNS = torch.empty(0)  # which those of a grid take the place of


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
        return 1 + (self.side**2 if self.directed else 1 + len(self.borders))

    @property
    def directed(self) -> bool:
        """Whether it goes by rows and by columns, and tells up from down and left from right."""
        return self.method in ("product", "cross")

    @property
    def least(self) -> tuple[int, ...]:
        """The least distance of each bucket but that of 0, along an axis; its square where it tells no directions."""
        return tuple(b * b - b + 1 for b in self.borders) if self.method == "euclidean" else self.borders

    @property
    def signed(self) -> tuple[int, ...]:
        """The distances along an axis at which another bucket begins than that of the one before, ascending."""
        return tuple(sorted({*self.borders, *(1 - border for border in self.borders)}))

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

    def runs_of(self, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
        """The runs of each query along each row of patches, from the left to the right: the last of the tokens before
        each but the first as i - j, int64 [1, R - 1, Q], and their buckets [1, R, Q]. Tokens before the patches come
        first, as one run.

        Buckets fall from the left up to the query's column, and rise again, or go on to fall where they tell left from
        right. Each is 2 n + 1 runs of a row, of which some may be empty.
        """
        n, side = len(self.borders), self.side
        token = torch.arange(grid.prefix + grid.height * grid.width)
        patch = (token - grid.prefix).clamp(min=0)
        row, column = patch // grid.width, patch % grid.width
        down = row - torch.arange(grid.height)[:, None]  # [H, Q], of each row of keys
        border = torch.tensor(self.least)[:, None, None]
        if self.directed:
            wide = border.expand(n, *down.shape)  # columns away at which buckets 1 .. n begin
            above = bucketed(down, self.signed) * side
        else:
            wide = (border - down.square()).clamp(min=0).double().sqrt().ceil().long()
        left = (column - wide.clamp(min=1) + 1).flip(0)
        begin = torch.cat([torch.zeros_like(left[:1]), left, column + wide]).clamp(0, grid.width).transpose(0, 1)
        begin = begin + grid.prefix + grid.width * torch.arange(grid.height)[:, None, None]
        along = torch.arange(side)[:, None]
        rows = above[:, None] + (2 * n - along) if self.directed else (along - n).abs().expand(begin.shape)
        begin, rows = begin.flatten(0, 1), rows.flatten(0, 1)
        if grid.prefix:
            begin = torch.cat([torch.zeros_like(begin[:1]), begin])
            rows = torch.cat([rows[:1], rows])
            rows[0] = rows[:, : grid.prefix] = self.count - 1
        return (token - begin[1:])[None], rows.contiguous()[None]

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
        if self.directed:
            found = bucketed(down, self.signed) * self.side + bucketed(along, self.signed)
        else:
            found = bucketed(down.square() + along.square(), self.least)
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

    @property
    def in_rows(self) -> GridBuckets:
        return self.buckets

    def by_run(self, q: torch.Tensor, query_positions: Any, least: int, most: int, channels: int) -> ByRun:
        return ByRun(NO_RUNS, self.buckets.whole(in_full(self.weight))[None])


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

    @property
    def in_rows(self) -> GridBuckets | None:
        return None if "q" in self.on else self.buckets  # what keys add goes by runs of queries

    def by_run(self, q: torch.Tensor, query_positions: Any, least: int, most: int, channels: int) -> ByRun:
        values = self.table("k") @ q.mT if "k" in self.on else None
        return ByRun(NO_RUNS, values, vectors=self.added_to(channels) if "v" in self.on else None)
