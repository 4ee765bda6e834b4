"""A grid: where the tokens of an image stand.

An image is cut into patches, whose tokens come row by row, after tokens that stand nowhere (a class token, registers).
Heights and widths are always given, or read from the image; the number of tokens does not say them: images of 112 x 448
and of 224 x 224 pixels have as many patches of 16 x 16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from whorl.encodings.config import number_list

if TYPE_CHECKING:
    import torch

    from whorl.encodings.effects import Shape

ROW, COLUMN, Y, X, DOWN, ACROSS = range(6)  # the axes of `Grid.places`; of `Grid.positions` the first two
PLACES = 6


@dataclass(frozen=True)
class Grid:
    """height x width patches after `prefix` tokens that stand nowhere."""

    height: int
    width: int
    prefix: int = 0

    def positions(self, device: torch.device | str | None = None) -> torch.Tensor:
        """Row and column of each token, int64 [1, tokens, 2]; with prefix tokens a third number, True for these.

        A prefix token has row and column 0: a rotation leaves it as it is. What goes by distances must ask the third.
        """
        import torch

        at = torch.cartesian_prod(*(torch.arange(n, device=device) for n in (self.height, self.width))).view(1, -1, 2)
        if not self.prefix:
            return at
        nowhere = at.new_tensor([0, 0, 1]).expand(1, self.prefix, 3)
        return torch.cat([nowhere, torch.nn.functional.pad(at, (0, 1))], 1)

    def places(self, device: torch.device | str | None = None) -> torch.Tensor:
        """Row and column; the centre of the patch, with the image from -1 to 1 along both sides (y, x); and the shares
        of rows above it and of columns before it: float64 [1, tokens, 6] (float32 where the device has no float64).
        Zeros for prefix tokens.

        In a larger image rows and columns go on, and centres and shares lie closer together.
        """
        import torch

        dtype = torch.float32 if torch.device(device or "cpu").type == "mps" else torch.float64
        at = self.positions(device)[:, self.prefix :, :2].to(dtype)
        sides = at.new_tensor([self.height, self.width])
        places = torch.cat([at, (2 * at + 1) / sides - 1, at / sides], -1)
        return torch.nn.functional.pad(places, (0, 0, self.prefix, 0))


def by_patch(by_axis: Sequence[Sequence[float]], rows: int, columns: int) -> list[tuple[float, float]]:
    """Of pairs whose frequencies go by the axes of `Grid.places` [pairs][axes], radians from one row to the next and
    from one column to the next, in an image of so many rows and columns."""
    of_rows, of_columns = {ROW: 1.0, Y: 2 / rows, DOWN: 1 / rows}, {COLUMN: 1.0, X: 2 / columns, ACROSS: 1 / columns}
    down, right = (
        [sum(f * of_side.get(axis, 0.0) for axis, f in enumerate(pair)) for pair in by_axis]
        for of_side in (of_rows, of_columns)
    )
    return list(zip(down, right, strict=True))


def nowhere(query_positions: torch.Tensor, key_positions: torch.Tensor) -> torch.Tensor:
    """[B or 1, 1, Q, K]: True where one of the two stands nowhere, by the last number of positions [B or 1, .., 3]."""
    return (query_positions[:, None, :, None, -1] + key_positions[:, None, None, :, -1]) > 0


def check_axes(encoding: str, shape: Shape) -> None:
    """Raises ValueError for a host whose positions are no rows and columns."""
    if shape.axes != 2:
        count = "1 axis" if shape.axes == 1 else f"{shape.axes} axes"
        raise ValueError(f"{encoding} goes by rows and columns, and a position has {count}; try euclidean-alibi")


def check_grid(argument: str, value: Any) -> tuple[int, int]:
    """Rows and columns: two numbers, in the notation joined by "@", or one for both. Raises ValueError for others."""
    sides = number_list(argument, value, "14@14")
    sides = sides * 2 if len(sides) == 1 else sides
    if len(sides) != 2 or not all(n >= 1 and n.is_integer() for n in sides):
        raise ValueError(f"{argument} must be the rows and columns of a grid of patches, as 14@14, got {value!r}")
    return int(sides[0]), int(sides[1])
