"""cos and sin of angles that are linear in row and column, at all patches of a grid: made of those of rows and columns.

    cos(y a + x b) = cos ya cos xb - sin ya sin xb        sin(y a + x b) = sin ya cos xb + cos ya sin xb

A grid of 32 x 32 has 1,024 patches and 64 rows and columns. Only these take a cosine in float64, which is as dear as
forty products in float32. Each number is rounded four times, and within 2e-7 of the truth in float32.
"""

from __future__ import annotations

from typing import Any

import torch

from whorl.ops.derivatives import plain, transformed
from whorl.ops.raster import Raster, raster_of


def raster_in_few(positions: torch.Tensor) -> Raster | None:
    """The grid whose patches these positions are, row by row, where its rows and columns are few; else None.

    None too off a CPU, where a look at the numbers would wait for the device, and where PyTorch follows more than they
    are: in a graph that is compiled, under torch.func, and with a forward-mode derivative.
    """
    if positions.device.type != "cpu" or positions.dim() != 3 or positions.is_floating_point():
        return None
    if torch.compiler.is_compiling() or transformed() is not None or not plain((positions,)):
        return None
    raster = raster_of(positions)
    if raster is None or 2 * (raster.grid.height + raster.grid.width) > raster.grid.height * raster.grid.width:
        return None
    return raster


def cos_sin_on_grid(frequencies: torch.Tensor, raster: Raster, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin, in `dtype`, [1, heads, tokens, pairs], for frequencies (radians per row, radians per column)
    [2, heads, pairs] in float64. Angles are 0 for tokens before the patches. Gradients of any order reach the
    frequencies."""
    cos, sin = _PlaneWaves.apply(frequencies, raster, dtype)
    return cos, sin


class _PlaneWaves(torch.autograd.Function):
    """The backward pass takes one gradient for each angle; autograd's own would take eight, one for each factor."""

    @staticmethod
    def forward(ctx: Any, frequencies: torch.Tensor, raster: Raster, dtype: torch.dtype) -> Any:
        of_rows, of_columns = (
            (at[:, None] * along[:, None]).unsqueeze(axis)  # [heads, rows, 1, pairs] and [heads, 1, columns, pairs]
            for at, along, axis in zip(_sides(raster, frequencies), frequencies, (2, 1), strict=True)
        )
        (cos_y, sin_y), (cos_x, sin_x) = ((x.cos().to(dtype), x.sin().to(dtype)) for x in (of_rows, of_columns))
        prefix, patches = raster.grid.prefix, raster.grid.height * raster.grid.width
        heads, pairs = frequencies.shape[1:]
        cos, sin = (of_rows.new_empty(1, heads, prefix + patches, pairs, dtype=dtype) for _ in range(2))
        cos[:, :, :prefix], sin[:, :, :prefix] = 1, 0
        of_patches = [_patches(x, raster)[0] for x in (cos, sin)]
        torch.mul(cos_y, cos_x, out=of_patches[0]).addcmul_(sin_y, sin_x, value=-1)
        torch.mul(sin_y, cos_x, out=of_patches[1]).addcmul_(cos_y, sin_x)
        ctx.save_for_backward(cos, sin)
        ctx.raster = raster
        return cos, sin

    @staticmethod
    def backward(ctx: Any, to_cos: torch.Tensor, to_sin: torch.Tensor) -> Any:
        cos, sin = ctx.saved_tensors
        to_angle = _patches(to_sin * cos - to_cos * sin, ctx.raster)[0]  # [heads, rows, columns, pairs]
        sums = (to_angle.sum(axis).double() for axis in (2, 1))
        sides = _sides(ctx.raster, cos)
        return torch.stack([(x * at[:, None]).sum(1) for x, at in zip(sums, sides, strict=True)]), None, None


def _sides(raster: Raster, like: torch.Tensor) -> list[torch.Tensor]:
    """The numbers of all rows and of all columns, in float64."""
    sizes = raster.grid.height, raster.grid.width
    return [
        torch.arange(first, first + size, dtype=torch.float64, device=like.device)
        for first, size in zip(raster.first, sizes, strict=True)
    ]


def _patches(x: torch.Tensor, raster: Raster) -> torch.Tensor:
    """Of [1, heads, tokens, pairs] the patches, a view [1, heads, rows, columns, pairs]."""
    return x[:, :, raster.grid.prefix :].unflatten(2, (raster.grid.height, raster.grid.width))
