"""Sines and cosines of a grid. Chen et al., MoCo v3, ICCV 2021, arXiv 2104.02057, as its code has them (and MAE's).

The first half of the channels goes by the column x and the second by the row y, each half as sines and then cosines at
base^(-4t/width) radians per patch, t = 0 .. width/4 - 1. Tokens before the patches get zeros.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from whorl.encodings.base import Encoding
from whorl.encodings.config import check_base
from whorl.encodings.effects import Add, Effect, Shape
from whorl.encodings.grid import COLUMN, ROW, Grid
from whorl.encodings.spectrum import rope_frequencies
from whorl.encodings.turns import cos_sin


class GridWaves(nn.Module):
    """A grid -> vectors [1, tokens, width], float32."""

    axis = "grid"

    def __init__(self, base: float, width: int) -> None:
        super().__init__()
        self.frequencies = rope_frequencies(base, width // 2)

    def forward(self, grid: Grid, device: torch.device) -> torch.Tensor:
        at = grid.positions(device)[:, grid.prefix :]
        (x_cos, x_sin), (y_cos, y_sin) = (cos_sin(at[..., axis], self.frequencies) for axis in (COLUMN, ROW))
        return nn.functional.pad(torch.cat([x_sin, x_cos, y_sin, y_cos], -1), (0, 0, grid.prefix, 0))


@dataclass(frozen=True)
class SinCos2D(Encoding):
    """Adds sines and cosines of a patch's column and row to its embedding, from fast to slow. Tokens before the
    patches get none. (arXiv 2104.02057)

    base  of the frequencies base^(-4t/width), in radians per patch
    """

    base: float = 10000.0

    name = "sincos-2d"
    title = "sines and cosines of a patch's column and row, added to the embedding"
    paper = "2104.02057"
    kinds = ("add",)
    not_relative = "each patch has a vector of its own"
    on_grid = True

    def __post_init__(self) -> None:
        check_base(self.base)

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        if shape.width % 4:
            raise ValueError(
                f"sincos-2d has sines and cosines of rows and of columns, and needs a width that is a multiple of 4, "
                f"got {shape.width}"
            )
        return (Add(GridWaves(self.base, shape.width)),)
