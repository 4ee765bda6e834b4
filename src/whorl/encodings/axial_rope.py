"""Axial RoPE for images. Heo et al., RoPE-ViT, ECCV 2024, arXiv 2403.13298, section 3.2.

Half of the pairs turn by the column of a patch and half by its row, each half at base^(-4t/d) radians per patch for
t = 0 .. d/4 - 1. Columns have the first half, as in the paper's code (order "xy"); timm's and DINOv3's give it to rows.
"""

from __future__ import annotations

from dataclasses import dataclass

from whorl.encodings.config import added, choices, of_host
from whorl.encodings.grid import ACROSS, COLUMN, DOWN, ROW, check_grid
from whorl.encodings.rope import Rotary
from whorl.encodings.spectrum import Spectrum, rope_frequencies


@dataclass(frozen=True)
class OfGrid(Rotary):
    """What encodings share that turn half of the pairs by columns and half by rows.

    base   of the frequencies base^(-4t/d), in radians per patch
    order  "xy": the first half of the pairs goes by columns; "ij": by rows, as timm and DINOv3 have it
    """

    base: float | None = of_host(100.0)
    order: str = "xy"

    on_grid = True

    def __post_init__(self) -> None:
        super().__post_init__()
        choices("order", self.order, ("xy", "ij"))

    def kept(self, frequencies: tuple[float, ...], axis: int) -> tuple[float, ...]:
        """The frequencies of the pairs that go by an axis, changed where a pair shall not rotate."""
        return frequencies

    def spectrum(self, head_dim: int) -> Spectrum:
        pairs = pairs_per_axis(head_dim, self.name)
        frequencies = rope_frequencies(self.argument("base"), 2 * pairs)
        axes = (COLUMN, ROW) if self.order == "xy" else (ROW, COLUMN)
        values = tuple(f for axis in axes for f in self.kept(frequencies, axis))
        return Spectrum(values, head_dim, axes=tuple(axis for axis in axes for _ in range(pairs)))


def pairs_per_axis(head_dim: int, encoding: str) -> int:
    """A quarter of a head's channels. Raises ValueError where that is no whole number."""
    if head_dim < 4 or head_dim % 4:
        raise ValueError(
            f"{encoding} gives half of the pairs of channels to rows and half to columns, and needs a head dim that is "
            f"a multiple of 4, got {head_dim}; choose another number of heads, or euclidean-alibi"
        )
    return head_dim // 4


@dataclass(frozen=True)
class AxialRoPE(OfGrid):
    """Turns half of the pairs of channels by the column of a patch and half by its row, so that a logit depends on
    how far apart two patches are along both. In a larger image rows and columns go on, past those of training. (arXiv
    2403.13298)

    base   as in `OfGrid`
    order  as in `OfGrid`
    scale  rows and columns, as 16@16, to which those of any image are scaled: a larger one has finer steps between the
           same ends, as EVA-02 has it (arXiv 2303.11331)
    """

    scale: tuple[int, int] | None = added(None)

    name = "axial-rope"
    title = "RoPE on a grid: half of the pairs turn by columns, half by rows"
    paper = "2403.13298"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale is not None:
            object.__setattr__(self, "scale", check_grid("scale", self.scale))

    def spectrum(self, head_dim: int) -> Spectrum:
        spectrum = super().spectrum(head_dim)
        if self.scale is None:
            return spectrum
        sides, shares = {ROW: self.scale[0], COLUMN: self.scale[1]}, {ROW: DOWN, COLUMN: ACROSS}
        values = (f * sides[axis] for f, axis in zip(spectrum.frequencies, spectrum.axes, strict=True))
        return Spectrum(tuple(values), head_dim, axes=tuple(shares[axis] for axis in spectrum.axes))
