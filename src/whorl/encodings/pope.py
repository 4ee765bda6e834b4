"""PoPE, polar coordinate position embedding. Gopalakrishnan et al., ICML 2026, arXiv 2509.10534.

logit(m, n) = sum_c softplus(q_c) softplus(k_c) cos((n - m) theta_c + delta_c), theta_c = base^(-c/d), over all d
channels: content says how much (a magnitude), position where (a phase). The learned delta_c, per head, lie in
[-2 pi, 0] and start at 0. The host's own scale, 1/sqrt(d), stays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from whorl.encodings.angles import angles_of, numbers
from whorl.encodings.biases import in_full
from whorl.encodings.config import of_host
from whorl.encodings.effects import Effect, Score, Shape
from whorl.encodings.rope import OfPairs
from whorl.encodings.scores import At, ScoreModule, of_heads
from whorl.encodings.spectrum import rope_frequencies
from whorl.encodings.within import Within
from whorl.numerics import math_dtype


class Polar(ScoreModule):
    """Each of the first channels becomes two, its magnitude times cos and sin of its phase; the others pass through.

    A delta that is stepped out of its range comes back: at the bound, where they start, a clamp's gradient would vanish
    for good.
    """

    causal = False

    def __init__(self, frequencies: tuple[float, ...], heads: int) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.delta = nn.Parameter(torch.zeros(heads, len(frequencies)))

    def inputs(self, q: torch.Tensor, k: torch.Tensor, at: At) -> tuple[torch.Tensor, torch.Tensor]:
        frequencies = numbers(self.frequencies, q)
        delta = Within.apply(in_full(self.delta), -2 * math.pi, 0.0)[None, :, None]
        of_q, of_k = angles_of(at.query_positions, frequencies), angles_of(at.key_positions, frequencies) + delta
        return _polar(q, of_q), _polar(of_heads(k, delta.shape[1]), of_k)


def _polar(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    width, dtype = angles.shape[-1], math_dtype(x.dtype)
    magnitude = nn.functional.softplus(x[..., :width].to(dtype))
    parts = [magnitude * angles.cos().to(dtype), magnitude * angles.sin().to(dtype)]
    return torch.cat([*(part.to(x.dtype) for part in parts), x[..., width:]], -1)


@dataclass(frozen=True)
class PoPE(OfPairs):
    """Makes of each channel a magnitude, which content decides, and a phase, which the position decides. A head of d
    channels has d frequencies where RoPE has d/2, and q and k are twice as wide in their product.
    (arXiv 2509.10534)

    base      as in `RoPE`
    fraction  the share of a head's channels that are so, the first ones
    """

    base: float | None = of_host(10000.0)
    fraction: float | None = of_host()

    name = "pope"
    title = "each channel a magnitude whose phase is the position's, with a learned offset per head"
    paper = "2509.10534"

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        width = self.width(shape.head_dim)
        return (Score(Polar(rope_frequencies(self.argument("base"), 2 * width), shape.heads)),)
