"""LookHere (arXiv 2405.13985), by the angle at which a patch lies from another."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch

from whorl.encodings import Shape, parse
from whorl.encodings.grid import Grid

# Where the middle of each head's view is, degrees counter-clockwise from the right, with 12 heads as the official code
# has them; the last four see all.
MIDDLES = {
    180: (90, 270, 180, 0, 45, 135, 315, 225),
    90: (135, 45, 225, 315, 90, 270, 180, 0),
    45: (112.5, 247.5, 157.5, 22.5, 67.5, 292.5, 202.5, 337.5),
}
SLOPES = (*[1 / 2] * 8, 1 / 4, 1 / 16, 1 / 64, 1 / 256)


def bias(heads: int, grid: Grid, view: int = 90, layer: int = 0, layers: int = 12) -> torch.Tensor:
    """[heads, patches, patches]"""
    (effect,) = parse(f"lookhere:view={view},layers={layers}").effects(Shape(4, heads, 8, axes=2, layer=layer))
    at = grid.positions()
    found: torch.Tensor = effect.module(at, at)
    return found[0]


def sees(middle: float, view: int, down: int, along: int) -> bool:
    if not (down or along):
        return True
    off = (math.degrees(math.atan2(-down, along)) - middle + 180) % 360 - 180
    return abs(off) <= view / 2 + 1e-9


@pytest.mark.parametrize("view", MIDDLES)
@pytest.mark.parametrize("sides", [(3, 5), (6, 2), (2, 7)])
def test_a_head_sees_what_lies_within_its_angle(view: int, sides: tuple[int, int]) -> None:
    found, places = bias(12, Grid(*sides), view), list(product(*map(range, sides)))
    for head, slope in enumerate(SLOPES):
        middle = MIDDLES[view][head] if head < 8 else None
        for (i, at), (j, to) in product(enumerate(places), repeat=2):
            down, along = to[0] - at[0], to[1] - at[1]
            seen = middle is None or sees(middle, view, down, along)
            wanted = -2 * 1.5 * slope * math.hypot(down, along) if seen else -math.inf
            assert float(found[head, i, j]) == pytest.approx(wanted, rel=1e-6), (head, at, to)


def test_slopes_fall_from_layer_to_layer() -> None:
    grid = Grid(2, 3)
    steep = [float(bias(12, grid, layer=layer, layers=5)[8, 0, 1]) for layer in range(5)]
    np.testing.assert_allclose(steep, [-2 * m / 4 for m in (1.5, 1.25, 1, 0.75, 0.5)])
    assert float(bias(12, grid, layers=1)[8, 0, 1]) == -2 * 1.5 / 4
    with pytest.raises(ValueError, match="is for 5 layers, and this is layer 5"):
        bias(12, grid, layer=5, layers=5)


@pytest.mark.parametrize(
    ("heads", "directed", "slopes"),
    [
        (2, 2, [1 / 2] * 2),
        (4, 4, [1 / 2] * 4),
        (6, 4, [*[1 / 2] * 4, 1 / 4, 1 / 16]),
        (16, 12, [*[1 / 2] * 4, *[1 / 4] * 4, *[1 / 2] * 4, 1 / 4, 1 / 16, 1 / 64, 1 / 256]),
        (20, 16, [*[1 / 2] * 4, *[1 / 4] * 4, *[1 / 2] * 4, *[1 / 4] * 4, 1 / 4, 1 / 16, 1 / 64, 1 / 256]),
        (9, 4, [*[1 / 2] * 4, 1 / 4, 1 / 4, 1 / 16, 1 / 64, 1 / 256]),
    ],
)  # fmt: skip
def test_other_numbers_of_heads_have_fours_of_directions(heads: int, directed: int, slopes: list[float]) -> None:
    grid = Grid(5, 5)
    found, middle = bias(heads, grid, layers=1), 12
    assert [bool(h.isinf().any()) for h in found] == [True] * directed + [False] * (heads - directed)
    nearest = found[:, middle].masked_fill(torch.arange(25) == middle, -math.inf)
    np.testing.assert_allclose(nearest.amax(1), [-3 * s for s in slopes], rtol=1e-6)


@pytest.mark.parametrize("view", MIDDLES)
def test_together_the_directions_see_everything_and_rows_are_not_columns(view: int) -> None:
    square, wide = bias(12, Grid(4, 4), view), bias(12, Grid(2, 8), view)
    seen = square[:8].isfinite().sum(0)
    assert int(seen.min()) >= view // 45
    assert int(seen.diagonal().min()) == 8
    assert not torch.equal(square.isfinite(), wide.isfinite())
    at = Grid(4, 4).positions()
    (effect,) = parse(f"lookhere:view={view}").effects(Shape(4, 12, 8, axes=2))
    swapped = effect.module(at.flip(-1), at.flip(-1))[0]
    assert not torch.equal(swapped.isfinite(), square.isfinite())


@pytest.mark.parametrize(
    ("notation", "said"),
    [
        ("lookhere:view=60", "view must be one of 180, 90, 45, got 60"),
        ("lookhere:slope=0", "slope must be finite and above 0"),
        ("lookhere:layers=0", "layers must be a whole number of at least 1"),
    ],
)
def test_nonsense_is_refused(notation: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse(notation)
