"""Partial rotary, as in GPT-J, GPT-NeoX, Phi and GLM (formulas: review of arXiv 2410.06205).

The first `fraction` x d channels turn as a small RoPE of their own, exponent over that reduced width, so the
slowest frequencies stay; the other channels pass through. Not p-RoPE, whose exponent runs over the full d.
"""

from __future__ import annotations

from dataclasses import dataclass

from whorl.encodings.base import check_base, require_number
from whorl.encodings.rope import Rotary
from whorl.encodings.spectrum import Spectrum, check_head_dim, rope_frequencies


@dataclass(frozen=True)
class PartialRoPE(Rotary):
    """The first `fraction` of a head's channels turn, exponent over their own width (GPT-NeoX, arXiv 2204.06745)."""

    fraction: float = 0.25
    base: float = 10000.0

    name = "partial-rope"
    title = "the first fraction of the channels turns, as a smaller RoPE"
    paper = "2204.06745"

    def __post_init__(self) -> None:
        require_number("fraction", self.fraction)
        if not 0 <= self.fraction <= 1:
            raise ValueError(f"fraction is the share of channels that turn and must be in [0, 1], got {self.fraction}")
        check_base(self.base)

    def spectrum(self, head_dim: int) -> Spectrum:
        check_head_dim(head_dim, self.name)
        width = int(head_dim * self.fraction)
        if width % 2:
            raise ValueError(
                f"partial-rope with fraction={self.fraction} turns {width} of {head_dim} channels, an odd number "
                f"that cannot be paired; try fraction={(width - 1) / head_dim:g} or {(width + 1) / head_dim:g}"
            )
        return Spectrum(rope_frequencies(self.base, width) if width else (), head_dim)
