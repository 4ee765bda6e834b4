"""Encodings of a grid against the pins and their formulas: which channel turns by what, and where patches stand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_model, save_model

from whorl.encodings import Shape, parse
from whorl.encodings.grid import COLUMN, ROW, Grid
from whorl.encodings.learned_2d import GridTable
from whorl.encodings.mixed_rope import MixedAngles
from whorl.encodings.sincos_2d import GridWaves
from whorl.ops import rotation_tables

SHAPE = Shape(8, 3, 16, bidirectional=True, axes=2)


def angles(notation: str, grid: Grid, head_dim: int = 8) -> torch.Tensor:
    """[tokens, pairs], from tables whose angles are below half a turn."""
    tables = rotation_tables(parse(notation).spectrum(head_dim), grid.places(), torch.float64)
    return torch.atan2(tables.sin, tables.cos)[0]


def mixed_angles(module: MixedAngles, grid: Grid) -> torch.Tensor:
    """[heads, tokens, pairs], below half a turn."""
    cos, sin = module.turning(grid.positions()[..., :2], None, torch.float64)
    return torch.atan2(sin, cos)[0].detach()


def test_tokens_stand_row_by_row_after_those_that_stand_nowhere() -> None:
    assert Grid(2, 3).positions().tolist() == [[[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]]
    after_two = Grid(2, 3, prefix=2).positions()
    assert after_two.tolist()[0][:3] == [[0, 0, 1], [0, 0, 1], [0, 0, 0]]
    assert after_two[0, 2:, :2].tolist() == Grid(2, 3).positions()[0].tolist()
    places = Grid(2, 3, prefix=2).places()
    assert torch.equal(places[..., :2], after_two[..., :2].double())
    assert not places[:, :2].any()


def test_the_centres_of_patches_equal_the_pins(method_pins: dict) -> None:
    pin, places = method_pins["dinov3_rope"], Grid(2, 3).places()[0]
    np.testing.assert_allclose(places[::3, 2], pin["coords_y (2 rows)"], atol=1e-8)
    np.testing.assert_allclose(places[:3, 3], pin["coords_x (3 cols)"], atol=1e-8)


def test_as_many_tokens_in_a_row_or_a_square_stand_elsewhere(method_pins: dict) -> None:
    """112 x 448 pixels: by the number of tokens, the patch in row 0 and column 20 would be in row 1 and column 6."""
    wide, square = Grid(7, 28), Grid(14, 14)
    at = wide.positions()[0].tolist().index([0, 20])
    column, row = method_pins["ropevit_token_count_trap"]["wrong coordinates of true (row 0,col 20)"]
    assert square.positions()[0, at].tolist() == [row, column]
    there, wrong = (angles("axial-rope", grid)[at] for grid in (wide, square))
    assert there[2:].tolist() == [0, 0]
    assert float((there - wrong).abs().max()) > 0.1


def test_axial_equals_the_pins(method_pins: dict) -> None:
    pin = method_pins["ropevit_axial"]
    spectrum = parse("axial-rope").spectrum(pin["d"])
    np.testing.assert_allclose(spectrum.frequencies, 2 * pin["freqs"], rtol=1e-12)
    at = Grid(3, 4).positions()[0].tolist().index([2, 3])
    np.testing.assert_allclose(
        angles("axial-rope", Grid(3, 4))[at], pin["angles at x=3,y=2 (x pairs first)"], atol=1e-7
    )


def test_the_order_says_which_half_goes_by_columns() -> None:
    of_columns, of_rows = (
        [parse(f"axial-rope:order={order}").spectrum(16).axes[i] for i in (0, 7)] for order in ("xy", "ij")
    )
    assert of_columns == [COLUMN, ROW]
    assert of_rows == [ROW, COLUMN]
    with pytest.raises(ValueError, match="order must be one of 'xy', 'ij'"):
        parse("axial-rope:order=yx")


def test_mixed_equals_the_pins(method_pins: dict) -> None:
    pin = method_pins["ropevit_mixed"]
    module = MixedAngles(SHAPE, pin["theta"], rotate=True)
    along_x, along_y = module.frequency_bias[:, 0, 0].tolist()
    turn = math.atan2(along_y, along_x)
    back, to = torch.tensor(turn), torch.tensor(pin["head angle"])
    x, y = module.frequency_bias[:, 0].detach()
    by = to - back
    x, y = x * by.cos() - y * by.sin(), x * by.sin() + y * by.cos()  # the same directions at the pin's angle
    np.testing.assert_allclose(x, pin["fx"], atol=1e-6)
    np.testing.assert_allclose(y, pin["fy"], atol=1e-6)
    with torch.no_grad():
        module.frequency_bias[:, 0] = torch.tensor([pin["fx"], pin["fy"]])
    at = Grid(3, 4).positions()[0].tolist().index([2, 3])
    found, wanted = mixed_angles(module, Grid(3, 4))[0, at], torch.tensor(pin["angles at x=3,y=2"])
    np.testing.assert_allclose(torch.cos(found - wanted), 1, atol=1e-7)
    np.testing.assert_allclose(torch.sin(found - wanted), 0, atol=1e-6)


def test_mixed_starts_in_a_direction_of_its_own_in_each_layer_and_head() -> None:
    of_layers = [MixedAngles(Shape(8, 3, 16, axes=2, layer=i), 10.0, True).frequency_bias.detach() for i in (0, 0, 1)]
    assert torch.equal(of_layers[0], of_layers[1])
    assert not torch.allclose(of_layers[0], of_layers[2])
    assert len({round(float(f), 5) for f in of_layers[0][0, :, 0]}) == 3
    lengths = of_layers[0].norm(dim=0)  # of each pair, along both axes
    np.testing.assert_allclose(lengths, np.tile([1, 10**-0.5], (3, 2)), rtol=1e-6)


def test_mixed_that_is_not_turned_is_axial() -> None:
    (effect,) = parse("mixed-rope:base=7,rotate=false").effects(SHAPE)
    grid = Grid(5, 3)
    mixed, axial = mixed_angles(effect.module, grid), angles("axial-rope:base=7", grid)
    np.testing.assert_allclose(mixed, axial.expand(3, -1, -1), atol=1e-6)
    with pytest.raises(ValueError, match="rotate must be true or false, got 'no'"):
        parse("mixed-rope:rotate=no")


def test_a_pair_turns_if_its_full_turn_fits_in_the_training_grid_along_its_axis() -> None:
    frequencies = [100 ** (-t / 4) for t in range(4)]  # wavelengths of 6.3, 19.9, 62.8 and 198.7 patches
    found = parse("hope-2d:grid=20@7").spectrum(16)
    assert found.axes == parse("axial-rope").spectrum(16).axes
    np.testing.assert_allclose(found.frequencies, [frequencies[0], 0, 0, 0, *frequencies[:2], 0, 0])
    assert parse("hope-2d:grid=7,cut=100").spectrum(16) == parse("axial-rope").spectrum(16)
    with pytest.raises(ValueError, match="needs the grid of patches"):
        parse("hope-2d").spectrum(16)


def test_the_fastest_share_of_the_pairs_turns_along_each_axis() -> None:
    frequencies = [100 ** (-t / 4) for t in range(4)]
    found = parse("p-rope-2d:p=0.5").spectrum(16).frequencies
    np.testing.assert_allclose(found, 2 * [*frequencies[:2], 0, 0])
    assert parse("p-rope-2d:p=1").spectrum(16) == parse("axial-rope").spectrum(16)


def test_dinov3_equals_the_pins(method_pins: dict) -> None:
    periods = [2 * math.pi / f for f in parse("dinov3-rope").spectrum(8).frequencies[:2]]
    np.testing.assert_allclose(periods, method_pins["dinov3_rope"]["head_dim 8: periods 100^(2i/(d/2)), i<d/4"])
    wanted = torch.tensor(method_pins["dinov3_rope"]["angles of patch (row0,col2) [y pairs, x pairs]=2 pi c/period"])
    found = angles("dinov3-rope", Grid(2, 3))[2]
    np.testing.assert_allclose(torch.cos(found - wanted), 1, atol=1e-7)
    np.testing.assert_allclose(torch.sin(found - wanted), 0, atol=1e-6)


def test_sines_and_cosines_are_their_formula_and_nothing_before_the_patches() -> None:
    vectors = GridWaves(10000.0, 16)(Grid(2, 3, prefix=1), torch.device("cpu"))
    assert not vectors[0, 0].any()
    for row in range(2):
        for column in range(3):
            omega = [10000 ** (-t / 4) for t in range(4)]
            wanted = [f(at * w) for at in (column, row) for f in (math.sin, math.cos) for w in omega]
            np.testing.assert_allclose(vectors[0, 1 + 3 * row + column], wanted, atol=1e-6)


def cubic(distance: float, a: float = -0.75) -> float:
    """Keys' kernel, as image resizing has it."""
    x = abs(distance)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def resized(table: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Plainly: a patch's centre in the other grid, and the four rows and columns around it."""

    def taps(size: int, of: int) -> torch.Tensor:
        weights = torch.zeros(size, of, dtype=torch.float64)
        for i in range(size):
            centre = (i + 0.5) * of / size - 0.5
            for j in range(math.floor(centre) - 1, math.floor(centre) + 3):
                weights[i, min(max(j, 0), of - 1)] += cubic(centre - j)
        return weights

    return torch.einsum("ri,cj,ijw->rcw", taps(rows, table.shape[0]), taps(columns, table.shape[1]), table.double())


@pytest.mark.parametrize("grid", [(3, 5), (6, 2), (9, 9)])
def test_a_table_of_one_grid_is_resampled_to_another(grid: tuple[int, int]) -> None:
    table = GridTable(4, 6, Shape(8, 3, 16, prefix=2)).double()
    vectors = table(Grid(*grid, prefix=2), torch.device("cpu"))[0].detach()
    assert torch.equal(vectors[:2], table.prefix)
    np.testing.assert_allclose(vectors[2:].view(*grid, 16), resized(table.weight.detach(), *grid), atol=1e-12)


def test_a_table_is_saved_and_read_by_safetensors(tmp_path: Path) -> None:
    """It refuses to read into memory that two parameters share."""
    table, other = (GridTable(4, 6, Shape(8, 3, 16, prefix=2, seed=seed)) for seed in (0, 1))
    save_model(table, tmp_path / "table.safetensors")
    load_model(other, tmp_path / "table.safetensors")
    assert torch.equal(other(Grid(4, 6, 2), torch.device("cpu")), table(Grid(4, 6, 2), torch.device("cpu")))


def test_a_table_at_its_own_grid_is_itself() -> None:
    table = GridTable(4, 6, Shape(8, 3, 16, prefix=1))
    assert torch.equal(table(Grid(4, 6, prefix=1), torch.device("cpu"))[0, 1:], table.weight.flatten(0, 1))


@pytest.mark.parametrize("notation", ["axial-rope", "mixed-rope", "dinov3-rope"])
def test_a_head_that_cannot_be_quartered_is_refused(notation: str) -> None:
    with pytest.raises(ValueError, match="multiple of 4, got 6"):
        parse(notation).effects(Shape(6, 2, 12, axes=2))


@pytest.mark.parametrize("grid", ["0@4", "4@4@4", "2.5", "wide"])
def test_a_grid_is_two_whole_numbers(grid: str) -> None:
    with pytest.raises(ValueError, match="grid must be"):
        parse(f"learned-2d:grid={grid}")
