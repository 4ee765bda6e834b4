"""p-RoPE. Barbero et al., "Round and Round We Go!", ICLR 2025, arXiv 2410.06205.

The floor(p d/2) fastest pairs keep their frequency, with the exponent over the full head dim, and the
slowest get no rotation: p = 0 is NoPE, p = 1 is RoPE. `keep="slowest"` is the paper's reversed variant.
"""

from __future__ import annotations

from dataclasses import dataclass

from whorl.encodings.config import choices, of_host, require_number
from whorl.encodings.rope import Rotary
from whorl.encodings.spectrum import Spectrum, keep, rope_frequencies


@dataclass(frozen=True)
class PRoPE(Rotary):
    """Rotates the fastest fraction p of the pairs; the others, the slow ones, carry content. HoPE cuts by the
    training length, p-RoPE by a share: p = 0 is NoPE, and p = 1 is RoPE. (arXiv 2410.06205)

    p         the share of the pairs that turns
    base      as in `RoPE`
    keep      which of them: "fastest", or "slowest", the paper's reversed variant
    fraction  as in `RoPE`; p is taken of the pairs in that share of the head
    """

    p: float = 0.75
    base: float | None = of_host(10000.0)
    keep: str = "fastest"
    fraction: float | None = of_host()

    name = "p-rope"
    title = "the fastest fraction p of the pairs turns"
    paper = "2410.06205"

    def __post_init__(self) -> None:
        require_number("p", self.p)
        if not 0 <= self.p <= 1:
            raise ValueError(f"p is the fraction of pairs that turn and must be in [0, 1], got {self.p}; try p=0.75")
        super().__post_init__()
        choices("keep", self.keep, ("fastest", "slowest"))

    def spectrum(self, head_dim: int) -> Spectrum:
        width = self.width(head_dim)
        pairs = width // 2
        count = pairs_of_share(self.p, width)
        kept = range(count) if self.keep == "fastest" else range(pairs - count, pairs)
        return Spectrum(keep(rope_frequencies(self.argument("base"), width), kept), head_dim)


def pairs_of_share(p: float, width: int) -> int:
    """floor(p width / 2), the pairs that turn where a share p of all pairs does, as the paper and stock round it."""
    return int(p * width // 2)
