"""The tokens of an image, row by row, as a loop over runs of keys takes them: one after the other, in a row.

A query's distances to the patches of one row fall into runs, and so do those to all patches: iRPE has 7 in each row,
so that a query of 32 x 32 patches has 224 numbers, and not 1,024.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from whorl.encodings.by_run import ByRun
from whorl.encodings.grid import Grid
from whorl.ops.problem import AttentionProblem
from whorl.ops.runs import MOST
from whorl.ops.sharing import of_positions
from whorl.ops.visible import Visible


class Raster(NamedTuple):
    """All tokens of an image, as queries and as keys."""

    grid: Grid
    order: torch.Tensor  # 0, 1, 2, ...: int64 [1, tokens]
    first: tuple[int, int]  # row and column of the first patch

    def places(self, device: torch.device) -> torch.Tensor:
        """Row and column of each token, float64 [2, tokens]; 0 for those before the patches."""
        at = self.grid.positions(device)[0, self.grid.prefix :, :2] + torch.tensor(self.first, device=device)
        return nn.functional.pad(at.T.double(), (self.grid.prefix, 0))


class AlongRows:
    """A module of a grid as one that goes by runs (`whorl.encodings.by_run`): those of this grid, however many."""

    def __init__(self, module: nn.Module, begin: torch.Tensor, rows: torch.Tensor) -> None:
        self.module, self.begin, self.rows = module, begin, rows
        self.runs = self.most_runs = rows.shape[1]

    def by_run(self, *how: Any) -> ByRun:
        module: Any = self.module
        found: ByRun = module.by_run(*how)
        return found._replace(begin=self.begin, rows=self.rows)


def in_a_row(problem: AttentionProblem) -> AttentionProblem:
    """The same problem with the order of its tokens as positions, where those are an image's, row by row, and one bias
    or score is all that goes by them, and has runs along rows; else itself."""
    found: list[Any] = list(problem.modules)
    buckets = getattr(found[0], "in_rows", None) if len(found) == 1 else None
    if buckets is None or problem.query_positions.dim() != 3:
        return problem
    raster: Raster | None = problem.shared(_raster)
    if raster is None:
        return problem
    begin, rows = problem.shared(_runs, buckets, raster.grid)
    if rows.shape[1] > max(MOST, rows.shape[2] // 3):  # their numbers would be nearly as many as weights
        return problem
    module: Any = AlongRows(found[0], begin, rows)
    return problem._replace(
        biases=(module,) if problem.biases else (),
        scores=tuple(score._replace(module=module) for score in problem.scores),
        query_positions=raster.order,
        key_positions=raster.order,
    )


def raster_of(positions: torch.Tensor) -> Raster | None:
    """The grid whose tokens stand at these positions [batch or 1, tokens, 2 or 3], row by row; None where there is
    none, or images of a batch have several. Layers that are handed the same positions share it."""
    return of_positions(_raster, positions, positions)


def _raster(mask: Visible | None, query_positions: torch.Tensor, key_positions: torch.Tensor) -> Raster | None:
    at = query_positions
    if at.is_floating_point() or not at.numel() or not torch.equal(at, key_positions):
        return None
    prefix = int((at[0, :, 2] > 0).sum()) if at.shape[2] == 3 else 0
    if prefix == at.shape[1]:
        return None
    first = at[0, prefix, :2]
    height, width = (at[0, -1, :2] - first + 1).tolist()
    if min(height, width) < 1 or prefix + height * width != at.shape[1]:
        return None
    grid = Grid(height, width, prefix)
    wanted = grid.positions(at.device)
    moved = wanted[..., :2] + first
    if not (at[:, prefix:, :2] == moved[:, prefix:]).all() or not (at[..., 2:] == wanted[..., 2:]).all():
        return None
    row, column = first.tolist()
    return Raster(grid, torch.arange(at.shape[1], device=at.device)[None], (row, column))


def _runs(mask: Any, query_positions: Any, key_positions: Any, buckets: Any, grid: Grid) -> Any:
    """The first key of each run but the first, and the row of each, as the loops read them."""
    farthest, rows = buckets.runs_of(grid)
    return (torch.arange(farthest.shape[2]) - farthest).int().contiguous(), rows.int().contiguous()
