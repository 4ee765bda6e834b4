"""Euclidean ALiBi: its formula, ALiBi on one axis, and clouds that are turned, moved and doubled."""

from __future__ import annotations

import math

import pytest
import torch
from tests.encodings.attended import random_qkv
from tests.encodings.test_pape import turned

from whorl.encodings import Shape, parse
from whorl.encodings.alibi import LinearBias
from whorl.encodings.euclidean_alibi import EuclideanBias
from whorl.encodings.grid import Grid
from whorl.ops import biased_attention

POINTS = torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_it_is_minus_a_heads_slope_times_the_distance() -> None:
    found = EuclideanBias(8, unit=0.25)(POINTS, POINTS)
    assert found.shape == (2, 8, 9, 9)
    for head, i, j in ((0, 0, 8), (7, 3, 2), (4, 5, 5)):
        expected = -(2.0 ** -(head + 1)) * (POINTS[1, i] - POINTS[1, j]).square().sum().sqrt() / 0.25
        torch.testing.assert_close(found[1, head, i, j], expected)


def test_on_one_axis_it_is_alibi() -> None:
    at = torch.tensor([[5, 6, 2**31 + 3, 0]])
    few = EuclideanBias(6, unit=1.0)(at[..., None], at[..., None])
    assert torch.equal(few, LinearBias(6)(at, at))


def test_on_a_grid_it_has_the_name_of_croma_as_well() -> None:
    """Rows and columns of 3 x 5 patches, by their formula; no other positions."""
    (effect,) = parse("alibi-2d").effects(Shape(4, 8, 32, axes=2))
    at = Grid(3, 5).positions()
    bias = effect.module(at, at)
    places = [(row, column) for row in range(3) for column in range(5)]
    wanted = [[[-(2.0 ** -(h + 1)) * math.dist(i, j) for j in places] for i in places] for h in range(8)]
    torch.testing.assert_close(bias[0], torch.tensor(wanted))
    for axes in (1, 3):
        with pytest.raises(ValueError, match=f"and a position has {axes} ax"):
            parse("alibi-2d").effects(Shape(4, 8, 32, axes=axes))


@pytest.mark.parametrize("impl", ["reference", "blocked"])
def test_turned_and_moved_clouds_attend_alike(impl: str) -> None:
    (bias,) = parse("euclidean-alibi:unit=0.2").effects(Shape(4, 2, 8, axes=3))
    q, k, v = random_qkv(tokens=9)

    def attended(at: torch.Tensor) -> torch.Tensor:
        at = {"query_positions": at, "key_positions": at}
        return biased_attention(q, k, v, [bias.module], **at, scale=0.5, impl=impl)[0]

    here = attended(POINTS)
    torch.testing.assert_close(attended(turned(POINTS) + 7.0), here, atol=1e-10, rtol=0)
    assert (attended(POINTS * 1.1) - here).abs().max() > 1e-3


def test_the_gradient_of_a_point_is_finite_where_it_meets_itself() -> None:
    at = POINTS.clone().requires_grad_()
    EuclideanBias(2, 1.0)(at, at).square().sum().backward()
    assert at.grad is not None
    assert at.grad.isfinite().all()
    assert at.grad.abs().max() > 0
