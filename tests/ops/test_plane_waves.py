"""Angles at the patches of a grid, made of rows and columns, against those of each patch by itself in float64."""

from __future__ import annotations

import pytest
import torch

from whorl.encodings import Shape, parse
from whorl.encodings.grid import Grid
from whorl.ops.plane_waves import cos_sin_on_grid, raster_in_few
from whorl.testing import max_error

GRIDS = [Grid(5, 9), Grid(9, 5, prefix=1), Grid(4, 4, prefix=3)]
FLOAT32 = 2e-7  # what `whorl.ops.plane_waves` promises


def module_of(heads: int = 2, channels: int = 8) -> torch.nn.Module:
    (effect,) = parse("mixed-rope").effects(Shape(channels, heads, heads * channels, bidirectional=True, axes=2))
    return effect.module


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("moved", [0, 1000])
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, FLOAT32), (torch.float64, 1e-12)])
def test_rows_and_columns_give_what_each_patch_gives(
    grid: Grid, moved: int, dtype: torch.dtype, allowed: float
) -> None:
    module, at = module_of(), grid.positions()
    at[:, grid.prefix :, :2] += torch.tensor([moved, 2 * moved])
    raster = raster_in_few(at)
    assert raster is not None
    found = cos_sin_on_grid(module.along(), raster, dtype)
    for one, each in zip(found, module.turning(at, None, torch.float64), strict=True):
        assert (one.dtype, one.shape) == (dtype, each.shape)
        assert max_error(one, each) <= allowed


def test_gradients_are_those_of_each_patch() -> None:
    at = Grid(5, 9, prefix=2).positions()
    raster = raster_in_few(at)
    of_y, of_x = (at[..., axis, None].double() for axis in (0, 1))
    weights = [torch.randn(1, 3, at.shape[1], 4, dtype=torch.float64) for _ in range(2)]

    def by_patch(frequencies: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        angles = of_y * frequencies[0][:, None] + of_x * frequencies[1][:, None]
        return angles.cos()[None], angles.sin()[None]

    found = []
    for make in (lambda f: cos_sin_on_grid(f, raster, torch.float64), by_patch):
        frequencies = torch.linspace(-2, 2, 24, dtype=torch.float64).view(2, 3, 4).requires_grad_()
        loss = sum((w * x).sum() for w, x in zip(weights, make(frequencies), strict=True))
        (first,) = torch.autograd.grad(loss, frequencies, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), frequencies)
        found.append((first, second))
    for ours, theirs in zip(*found, strict=True):
        assert theirs.abs().max() > 1
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_gradients_in_float32_are_as_exact_as_tables_in_float32_allow() -> None:
    """No further from float64 than twice what the way by each patch is, and a rounding of the largest."""
    module, at = module_of(4, 16), Grid(16, 16).positions()
    raster = raster_in_few(at)
    weights = [torch.randn(1, 4, 256, 8, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    found = []
    for dtype, by_rows in ((torch.float64, False), (torch.float32, False), (torch.float32, True)):
        frequencies = module.frequency_bias
        tables = cos_sin_on_grid(module.along(), raster, dtype) if by_rows else module.turning(at, None, dtype)
        loss = sum((w.to(dtype) * x).sum() for w, x in zip(weights, tables, strict=True))
        found.append(torch.autograd.grad(loss, frequencies)[0])
    truth, by_patch, by_rows = found
    rounding = torch.finfo(torch.float32).eps * float(truth.abs().max())
    assert max_error(by_rows, truth) <= 2 * max_error(by_patch, truth) + rounding


def test_only_a_grid_with_few_rows_and_columns_is_taken() -> None:
    """Of others each patch has its own cosine."""
    at = Grid(6, 6).positions()
    assert raster_in_few(at) is not None
    assert raster_in_few(at.expand(3, -1, -1)) is not None
    assert raster_in_few(at.double()) is None
    assert raster_in_few(at.flip(1)) is None
    assert raster_in_few(at[:, :-1]) is None
    assert raster_in_few(torch.cat([at, Grid(4, 9).positions()])) is None
    assert raster_in_few(Grid(1, 40).positions()) is None
    assert raster_in_few(torch.arange(36)[None]) is None
    assert raster_in_few(at.to("meta")) is None
    assert torch.func.vmap(lambda x: torch.tensor(raster_in_few(x) is None))(at[None]).all()
