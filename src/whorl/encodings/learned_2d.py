"""Learned absolute positions of a grid. Dosovitskiy et al., ViT, ICLR 2021, arXiv 2010.11929, section 3.1.

A vector for each patch of the grid that a model is trained at, added to the patch's embedding; for another grid they
are resampled (bicubic, as section 3.2 and the stock code do). Tokens before the patches have vectors of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from whorl.encodings.base import Encoding
from whorl.encodings.biases import in_full
from whorl.encodings.config import check_flag, of_host
from whorl.encodings.effects import Add, Effect, Shape
from whorl.encodings.grid import Grid, check_grid


class GridTable(nn.Module):
    """A grid -> vectors [1, tokens, width]: those of a learned table [rows, columns, width], or between them.

    For a host that reads between them by itself: numbers of the table's patches [...] -> vectors [..., width].
    """

    axis = "grid"

    def __init__(self, rows: int, columns: int, shape: Shape, antialias: bool = False, std: float = 0.02) -> None:
        super().__init__()
        self.antialias = antialias
        drawn = torch.randn(shape.prefix + rows * columns, shape.width, generator=shape.generator()) * std
        prefix, patches = (part.clone() for part in drawn.split([shape.prefix, rows * columns]))
        # In memory of its own: safetensors saves no part of another's. And none of no rows, which FSDP cannot split.
        self.prefix = nn.Parameter(prefix) if shape.prefix else None
        self.weight = nn.Parameter(patches.view(rows, columns, shape.width))

    @torch.no_grad()
    def start_from(self, vectors: torch.Tensor, grid: Grid) -> None:
        """Takes a host's own vectors, [tokens, width] of this grid."""
        prefix, patches = vectors.split([grid.prefix, grid.height * grid.width])
        table = patches.view(grid.height, grid.width, -1)
        if self.prefix is not None:
            self.prefix.copy_(prefix)
        rows, columns, _ = self.weight.shape
        self.weight.copy_(resampled(table, rows, columns, self.antialias))

    def forward(self, grid: Grid | torch.Tensor, device: torch.device) -> torch.Tensor:
        if isinstance(grid, torch.Tensor):
            return nn.functional.embedding(grid, self.weight.flatten(0, 1))
        patches = resampled(self.weight, grid.height, grid.width, self.antialias).flatten(0, 1)
        return (patches if self.prefix is None else torch.cat([self.prefix.to(patches.dtype), patches]))[None]

    def as_now(self, state: dict[str, Any], prefix: str) -> None:
        """Earlier versions kept vectors of no tokens; changes the state in place."""
        if self.prefix is None:
            state.pop(f"{prefix}prefix", None)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        self.as_now(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *others)


def resampled(table: torch.Tensor, rows: int, columns: int, antialias: bool) -> torch.Tensor:
    """[rows, columns, width] of a table of another grid, as if both lay on the same image; in float32 (float64)."""
    if table.shape[:2] == (rows, columns):
        return table
    whole = in_full(table).permute(2, 0, 1)[None]
    between = nn.functional.interpolate(whole, (rows, columns), mode="bicubic", antialias=antialias)
    return between[0].permute(1, 2, 0)


@dataclass(frozen=True)
class Learned2D(Encoding):
    """Adds to each patch's embedding a vector that is learned for its place in the training grid. For another grid
    the table is resampled, as an image is. (arXiv 2010.11929)

    grid       rows and columns of the table, as 14@14; those of the image size that the model's config says
    antialias  whether it is resampled as timm and DINOv2 with registers do it, by another cubic curve, and over more
               rows and columns where the grid is smaller
    """

    grid: tuple[int, int] | None = of_host()
    antialias: bool = False

    name = "learned-2d"
    title = "a learned vector per patch of a grid, added to the embedding; resampled to other grids"
    paper = "2010.11929"
    kinds = ("add",)
    not_relative = "each patch has a vector of its own"
    on_grid = True

    def __post_init__(self) -> None:
        if self.grid is not None:
            object.__setattr__(self, "grid", check_grid("grid", self.grid))
        object.__setattr__(self, "antialias", check_flag("antialias", self.antialias))

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        rows, columns = self.needed("grid", "the grid of patches that its table is of", (14, 14))
        return (Add(GridTable(rows, columns, shape, self.antialias)),)
