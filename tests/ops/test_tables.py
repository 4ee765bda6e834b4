"""rotation_tables() where positions have axes: grids and points, pair by pair against Python's own cos and sin."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction

import pytest
import torch

from whorl.encodings import Spectrum, parse
from whorl.encodings.rope import Rotary
from whorl.ops import rotate, rotation_tables

AXIAL = Spectrum((1.0, 0.1, 0.01, 0.5, 0.25, 0.0), head_dim=16, axes=(0, 1, 2, 1, 0, 2))
MIXED = Spectrum.mixed(
    [(1.0, 0.1, 0.0), (-0.3, 0.7, 0.2), (0.0, 0.0, 0.0), (0.01, -0.02, 1e-4), (0.0, 0.0, 0.5), (0.25, 0.25, 0.25)], 16
)
GRID = torch.tensor([[[0, 0, 0], [3, 1, 4], [1_000_003, 2**31 - 1, 7]], [[2, 7, 1], [8, 2, 8], [1, 8, 2]]])
POINTS = torch.tensor([[[0.0, -1.5, 0.25], [math.pi, 1e-3, 1e6 + 1 / 3]]], dtype=torch.float64)


def by_hand(spectrum: Spectrum, positions: torch.Tensor, function) -> torch.Tensor:
    """[batch, tokens, pairs] in float64, one number after another."""

    def angle(pair: int, at: list[float]) -> float:
        if spectrum.vectors:
            return sum(f * float(p) for f, p in zip(spectrum.vectors[pair], at, strict=True))
        return spectrum.frequencies[pair] * float(at[spectrum.axes[pair]])

    pairs = range(len(spectrum.frequencies))
    return torch.tensor(
        [[[spectrum.amplitude * function(angle(i, at)) for i in pairs] for at in row] for row in positions.tolist()],
        dtype=torch.float64,
    )


@pytest.mark.parametrize(
    "positions", [GRID, GRID.int(), POINTS, POINTS.float()], ids=["grid", "int32", "points", "f32"]
)
@pytest.mark.parametrize("amplitude", [1.0, 1.2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("spectrum", [AXIAL, MIXED], ids=["axial", "mixed"])
def test_each_pair_goes_by_its_axes(
    spectrum: Spectrum, dtype: torch.dtype, amplitude: float, positions: torch.Tensor
) -> None:
    spectrum = replace(spectrum, amplitude=amplitude)
    tables = rotation_tables(spectrum, positions, dtype)
    turning = slice(0, 1 + spectrum.turning[-1] if amplitude == 1 else 6)
    for got, function in ((tables.cos, math.cos), (tables.sin, math.sin)):
        assert got.dtype == dtype
        exact = by_hand(spectrum, positions, function)[..., turning]
        assert float((got.double() - exact).abs().max()) <= (1e-15 if dtype == torch.float64 else 1.2e-7)


def test_mixed_angles_are_rounded_once_for_each_product_and_each_sum() -> None:
    """Against fractions, in which nothing is rounded: the angle, whose cos and sin these are, is off by so much."""
    at = (2**31 - 1, -1_000_003, 2**30 + 7)
    tables = rotation_tables(MIXED, torch.tensor([[at]]), torch.float64)
    for pair, vector in enumerate(MIXED.vectors):
        products = [Fraction(f) * p for f, p in zip(vector, at, strict=True)]
        allowed = sum(abs(x) for x in products) + sum(abs(sum(products[:n])) for n in (2, 3))
        rounded = sum(f * p for f, p in zip(vector, at, strict=True))
        assert abs(Fraction(rounded) - sum(products)) <= allowed / 2**53
        assert float(tables.cos[0, 0, pair]) == pytest.approx(math.cos(rounded), rel=0, abs=1e-15)
        assert float(tables.sin[0, 0, pair]) == pytest.approx(math.sin(rounded), rel=0, abs=1e-15)


@dataclass(frozen=True)
class Mixed(Rotary):
    """Two axes, all pairs by both: what an encoding of that kind needs, and no more."""

    name, title, paper = "mixed", "", ""

    def spectrum(self, head_dim: int) -> Spectrum:
        return Spectrum.mixed([(2.0**-i, (-2.0) ** -i) for i in range(head_dim // 2)], head_dim)


@pytest.mark.parametrize("layout", ["half", "interleaved"])
@pytest.mark.parametrize("impl", ["reference", "cpu"])
@pytest.mark.parametrize("encoding", [parse("frequencies:values=1@0.5@0.25@0.125,axes=0@1@0@1"), Mixed()])
def test_an_encoding_with_axes_turns_channels_as_complex_numbers_turn(encoding: Rotary, impl: str, layout: str) -> None:
    """The reference multiplies channel a + ib of each pair by exp(i angle), in Python's own complex numbers."""
    spectrum, points = encoding.spectrum(8), torch.tensor([[[3.0, -2.5], [0.25, 7.0], [100.0, 0.125]]])
    x = torch.randn(1, 2, 3, 8)
    turned = rotate(x, None, rotation_tables(spectrum, points), layout=layout, impl=impl)[0]
    for head in range(2):
        for token, at in enumerate(points[0].tolist()):
            for pair, vector in enumerate(spectrum.by_axis):
                a, b = (pair, pair + 4) if layout == "half" else (2 * pair, 2 * pair + 1)
                angle = sum(f * p for f, p in zip(vector, at, strict=True))
                z = complex(*x[0, head, token, [a, b]].tolist()) * complex(math.cos(angle), math.sin(angle))
                got = complex(*turned[0, head, token, [a, b]].tolist())
                assert abs(got - z) <= 4 * 2**-24 * abs(z)


def test_positions_may_have_more_axes_than_a_spectrum_names_and_one_axis_needs_no_dimension() -> None:
    first = Spectrum((1.0, 0.5), head_dim=8, axes=(0, 0))
    expected = rotation_tables(Spectrum((1.0, 0.5), head_dim=8), GRID[..., 0])
    for positions in (GRID, GRID[..., :1], GRID[..., 0]):
        for got, wanted in zip(rotation_tables(first, positions)[:2], expected[:2], strict=True):
            assert torch.equal(got, wanted)


def test_only_the_pairs_that_turn_are_in_the_tables_each_with_its_axis() -> None:
    spectrum = Spectrum((0.0, 0.5, 0.25, 0.0), head_dim=8, axes=(0, 1, 0, 1))
    tables = rotation_tables(spectrum, torch.tensor([[[3, 5]]]), torch.float64)
    assert (tables.first, tables.width) == (1, 8)
    torch.testing.assert_close(tables.cos, torch.tensor([[[2.5, 0.75]]]).double().cos(), rtol=0, atol=1e-15)


def test_no_pair_turns_by_any_axis() -> None:
    still = [(0.0, 0.0), (0.0, 0.0)]
    for spectrum in (Spectrum((0.0, 0.0), 8, axes=(0, 1)), Spectrum.mixed(still, 8), Spectrum((0.0, 0.0), 8)):
        tables = rotation_tables(spectrum, GRID)
        assert tables.cos.shape == tables.sin.shape == (2, 3, 0)


@pytest.mark.parametrize("impl", ["reference", "cpu"])
@pytest.mark.parametrize("spectrum", [AXIAL, MIXED], ids=["axial", "mixed"])
def test_logits_depend_on_the_offset_along_each_axis(spectrum: Spectrum, impl: str) -> None:
    """And on nothing else: the property that makes the encoding relative, axis by axis."""
    q, k = torch.randn(1, 2, 3, 16), torch.randn(1, 2, 3, 16)
    at = GRID[1:]

    def logits(positions: torch.Tensor) -> torch.Tensor:
        turned = rotate(q.double(), k.double(), rotation_tables(spectrum, positions, torch.float64), impl=impl)
        return turned[0] @ turned[1].transpose(-1, -2)

    torch.testing.assert_close(logits(at + torch.tensor([5, 70, 900])), logits(at), rtol=1e-9, atol=1e-9)
    moved = at.clone()
    moved[:, 0, 1] += 1
    assert float((logits(moved) - logits(at)).abs().max()) > 1e-2


@pytest.mark.parametrize(
    ("spectrum", "positions", "message"),
    [
        (AXIAL, torch.arange(5), r"must be \[batch, tokens, 3 axes or more\], got \[1, 5\]: .* go by 3 axes"),
        (AXIAL, torch.zeros(1, 5, 2), r"got \[1, 5, 2\]"),
        (MIXED, torch.zeros(1, 5, 2), r"got \[1, 5, 2\]"),
        (MIXED, torch.arange(5), r"must be \[batch, tokens, 3 axes or more\], got \[1, 5\]"),
        (parse("rope").spectrum(8), GRID, r"be \[batch, tokens\] or \[tokens\], got \[2, 3, 3\]: .* by 1 axis;"),
    ],
)
def test_positions_of_other_axes_are_refused(spectrum: Spectrum, positions: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rotation_tables(spectrum, positions)
