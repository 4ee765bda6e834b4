"""HoPE on a grid. After Chen et al., HoPE, ACL 2025, arXiv 2410.21216, and RoPE-ViT's axial RoPE, arXiv 2403.13298.

HoPE's rule along each side of an image: a pair of axial RoPE turns if a full turn fits in the training grid along the
pair's axis, 2 pi / theta <= rows (or columns). The others keep their channels as position-independent ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from whorl.encodings.axial_rope import OfGrid
from whorl.encodings.config import of_host, require_positive
from whorl.encodings.grid import check_grid
from whorl.encodings.spectrum import fully_turning


@dataclass(frozen=True)
class HoPE2D(OfGrid):
    """Rotates only those pairs of axial RoPE that make a full turn within the training grid along their axis. What
    training has not shown a whole turn of is left to the content. (after arXiv 2410.21216)

    base   as in `OfGrid`
    order  as in `OfGrid`
    grid   rows and columns of patches at which the model is trained, as 14@14
    cut    how many times the grid a wavelength may be long; 1 is HoPE's rule
    """

    grid: tuple[int, int] | None = of_host()
    cut: float = 1.0

    name = "hope-2d"
    title = "HoPE on a grid: a pair of axial-rope turns if its full turn fits in the training grid along its axis"
    paper = "2410.21216"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("cut", self.cut, "times the training grid")
        if self.grid is not None:
            object.__setattr__(self, "grid", check_grid("grid", self.grid))

    def kept(self, frequencies: tuple[float, ...], axis: int) -> tuple[float, ...]:
        grid = self.needed("grid", "the grid of patches that the model is trained at", (14, 14))
        return fully_turning(frequencies, self.cut * grid[axis])
