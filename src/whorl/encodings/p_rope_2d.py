"""p-RoPE on a grid. After Barbero et al., "Round and Round We Go!", ICLR 2025, arXiv 2410.06205, and RoPE-ViT's axial
RoPE, arXiv 2403.13298.

Along each axis the floor(p d/4) fastest of the d/4 pairs of axial RoPE turn, and the others do not.
"""

from __future__ import annotations

from dataclasses import dataclass

from whorl.encodings.axial_rope import OfGrid
from whorl.encodings.config import require_number
from whorl.encodings.p_rope import pairs_of_share
from whorl.encodings.spectrum import keep


@dataclass(frozen=True)
class PRoPE2D(OfGrid):
    """Rotates the fastest share of the pairs of axial RoPE along each axis. The others keep their channels for what
    does not depend on places. (after arXiv 2410.06205)

    base   as in `OfGrid`
    order  as in `OfGrid`
    p      the share of an axis's pairs that turns
    """

    p: float = 0.75

    name = "p-rope-2d"
    title = "p-RoPE on a grid: the fastest fraction p of the pairs turns along each axis"
    paper = "2410.06205"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("p", self.p)
        if not 0 <= self.p <= 1:
            raise ValueError(f"p is the fraction of pairs that turn and must be in [0, 1], got {self.p}; try p=0.75")

    def kept(self, frequencies: tuple[float, ...], axis: int) -> tuple[float, ...]:
        return keep(frequencies, range(pairs_of_share(self.p, 2 * len(frequencies))))
