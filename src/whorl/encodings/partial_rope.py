"""Partial rotary, as in GPT-J, GPT-NeoX, Phi and GLM (formulas: review of arXiv 2410.06205).

The first `fraction` x d channels turn as a small RoPE of their own, exponent over that reduced width, so the
slowest frequencies stay; the other channels pass through. Not p-RoPE, whose exponent runs over the full d.
"""

from __future__ import annotations

from dataclasses import dataclass

from whorl.encodings.config import of_host
from whorl.encodings.rope import Rotary
from whorl.encodings.spectrum import Spectrum, rope_frequencies


@dataclass(frozen=True)
class PartialRoPE(Rotary):
    """Turns the first part of each head's channels as a RoPE of their own and gives the others no positions. Unlike
    p-RoPE it keeps slow pairs: over the smaller width its frequencies fall as far. (GPT-NeoX, arXiv 2204.06745)

    fraction  the share of a head's channels that turns
    base      as in `RoPE`
    """

    fraction: float | None = of_host(0.25, known="part")
    base: float | None = of_host(10000.0)

    name = "partial-rope"
    title = "the first fraction of the channels turns, as a smaller RoPE"
    paper = "2204.06745"

    def spectrum(self, head_dim: int) -> Spectrum:
        return Spectrum(rope_frequencies(self.argument("base"), self.width(head_dim)), head_dim)
