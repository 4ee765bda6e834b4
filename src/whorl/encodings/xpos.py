"""xPos, rotations that decay. Sun et al., "A Length-Extrapolatable Transformer", ACL 2023, arXiv 2212.10554.

Pair t turns as in RoPE and, between a query at m and a key at n, is multiplied by zeta_t^((m - n) / 512),
zeta_t = (2t / d + gamma) / (1 + gamma), gamma = 0.4: fast pairs decay sooner. The official code gives q the factor
zeta^((m - c) / 512) and k zeta^(-(n - c) / 512), with the middle c of the tokens at hand: keys that were cached under
another c come out wrong, and with c far away one factor overflows. Here keys are cached without a factor, and c is near
to each query: of a few queries at a time the first position or the last (of packed texts, one text can end among them
far from where the others begin). So no key that a query sees has a large factor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from whorl.encodings.angles import angles_of, exact, numbers, turned
from whorl.encodings.config import of_host, require_positive
from whorl.encodings.effects import Effect, Score, Shape
from whorl.encodings.rope import OfPairs
from whorl.encodings.scores import At, ScoreModule, refuse_encoders
from whorl.encodings.spectrum import rope_frequencies
from whorl.numerics import math_dtype

TOGETHER = 2048  # queries that have one centre: over so many tokens no factor at the paper's scale exceeds 150
LARGEST = 80.0  # the logarithm of the largest factor, of keys that are hidden and must not be infinite all the same


class DecayingTurns(ScoreModule):
    """Logits of q and k turned, each pair with its decay."""

    scores_anew = True

    def __init__(self, frequencies: tuple[float, ...], gamma: float, scale: float, layout: str) -> None:
        super().__init__()
        count = len(frequencies)
        self.frequencies, self.layout = frequencies, layout
        self.rates = tuple(math.log((t / count + gamma) / (1 + gamma)) / scale for t in range(count))

    def logits(self, s: torch.Tensor, q: torch.Tensor, k: torch.Tensor, at: At) -> torch.Tensor:
        rows = []
        for start in range(0, q.shape[2], TOGETHER):
            few = slice(start, start + TOGETHER)
            positions = at.query_positions[:, few]
            of_q, of_k = (q[:, :, few], positions), (k, at.key_positions)
            low, high = positions.amin(-1, keepdim=True), positions.amax(-1, keepdim=True)
            found = self._about(low, *of_q, *of_k)
            if positions.shape[-1] > 1:
                nearer = (positions - low <= high - positions)[:, None, :, None]
                found = torch.where(nearer, found, self._about(high, *of_q, *of_k))
            rows.append(found)
        return torch.cat(rows, 2)

    def _about(
        self,
        centre: torch.Tensor,
        q: torch.Tensor,
        query_positions: torch.Tensor,
        k: torch.Tensor,
        key_positions: torch.Tensor,
    ) -> torch.Tensor:
        """Logits [B, H, Q, K] by factors about a centre [B or 1, 1], for queries that are not far from it."""
        of_q = self._decayed(q, query_positions, query_positions - centre)
        of_k = self._decayed(k, key_positions, centre - key_positions)
        return of_q @ of_k.transpose(-1, -2)

    def _decayed(self, x: torch.Tensor, positions: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
        """x turned by its positions, and its pairs multiplied by zeta^(distance / scale), both [B or 1, T]."""
        angles = angles_of(positions, numbers(self.frequencies, x))
        factor = (exact(distance)[:, None, :, None] * numbers(self.rates, x)).clamp(-LARGEST, LARGEST).exp()
        cos, sin = ((wave * factor).to(math_dtype(x.dtype)) for wave in (angles.cos(), angles.sin()))
        return turned(x, cos, sin, self.layout)


@dataclass(frozen=True)
class XPos(OfPairs):
    """Turns as RoPE and multiplies each pair by a number that falls with the distance, sooner in fast pairs. So far
    keys are met by slow pairs alone; for causal models. (arXiv 2212.10554)

    base      as in `RoPE`
    fraction  as in `RoPE`
    scale     tokens over which pair t decays to zeta_t
    gamma     in zeta_t = (2t / d + gamma) / (1 + gamma); 0 would take the fastest pair away
    """

    base: float | None = of_host(10000.0)
    fraction: float | None = of_host()
    scale: float = 512.0
    gamma: float = 0.4

    name = "xpos"
    title = "RoPE whose pairs decay with distance, the fast ones sooner"
    paper = "2212.10554"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("scale", self.scale, "tokens")
        require_positive("gamma", self.gamma, "of the decay's base")

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        refuse_encoders(self, shape, "multiplies a pair by a number that falls with the distance to earlier keys")
        frequencies = rope_frequencies(self.argument("base"), self.width(shape.head_dim))
        return (Score(DecayingTurns(frequencies, self.gamma, self.scale, shape.layout), shared=True),)
