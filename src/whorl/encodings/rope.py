"""RoPE, rotary position embedding. Su et al., RoFormer, arXiv 2104.09864, Eq. 14-16.

Pair i of q and k turns by position x base^(-2i/d), so q.k depends on the distance alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from whorl.encodings.base import Effect, Encoding, Rotate, Shape, check_base
from whorl.encodings.spectrum import Spectrum, check_head_dim, rope_frequencies


@dataclass(frozen=True)
class Rotary(Encoding):
    """What all rotary encodings share: their one effect is to turn by their spectrum."""

    kinds = ("rotate",)

    def spectrum(self, head_dim: int) -> Spectrum:
        """The frequencies at this head dim. Raises ValueError for an odd head dim."""
        raise NotImplementedError

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        return (Rotate(self.spectrum(shape.head_dim)),)


@dataclass(frozen=True)
class RoPE(Rotary):
    """Every pair turns, at base^(-2i/d) radians per token (arXiv 2104.09864)."""

    base: float = 10000.0

    name = "rope"
    title = "rotary position embedding: every pair turns"
    paper = "2104.09864"

    def __post_init__(self) -> None:
        check_base(self.base)

    def spectrum(self, head_dim: int) -> Spectrum:
        check_head_dim(head_dim, self.name)
        return Spectrum(rope_frequencies(self.base, head_dim), head_dim)
