"""GRAPE-A, additive group representational position encoding, gated by query and key. Zhang et al., arXiv 2512.07805.

logit(i, j) = q_i.k_j / sqrt(d) - (i - j) omega m_h (g(v.q_i / sqrt(d)) + g(u.k_j / sqrt(d))), g = softplus

m_h are ALiBi's slopes, omega > 0 is learned per head, and u and v are directions that are learned per head. A head's
penalty on distance is ALiBi's, times what query and key ask for. Here it is four channels more: with w = omega m_h,
q: [i g, i, g, 1], k: [-w, -w g, w j, w j g].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import normalize, softplus

from whorl.encodings.alibi import slopes
from whorl.encodings.base import Encoding
from whorl.encodings.biases import constants, in_full
from whorl.encodings.effects import Effect, Score, Shape
from whorl.encodings.scores import At, ScoreModule, of_heads, refuse_encoders


class GatedSlopes(ScoreModule):
    """ALiBi's slopes, gated; u and v [heads, channels of a head], drawn from N(0, 1 / channels), are used at length 1.

    `omega` is softplus of what is learned, and 1 at the start.
    """

    def __init__(self, heads: int, channels: int, generator: torch.Generator) -> None:
        super().__init__()
        self.slopes = slopes(heads)
        self.u, self.v = (nn.Parameter(torch.randn(heads, channels, generator=generator) / channels**0.5) for _ in "uv")
        self.omega = nn.Parameter(torch.full((heads,), math.log(math.expm1(1.0))))

    def channels(self, q: torch.Tensor, k: torch.Tensor, at: At) -> tuple[torch.Tensor, torch.Tensor]:
        k = of_heads(k, q.shape[1])
        omega = softplus(in_full(self.omega)) * constants(self.slopes, q.dtype, q.device)
        of_q, of_k = (self._gate(x, w) for x, w in ((q, self.v), (k, self.u)))
        # counted from the first query: far out in a text, products of positions would round the distance away
        start = at.query_positions[:, :1]
        i, j = ((p - start).to(q.dtype)[:, None, :, None] for p in (at.query_positions, at.key_positions))
        w = omega.view(-1, 1, 1).to(q.dtype).expand_as(of_k)
        return (
            torch.cat([i * of_q, i.expand_as(of_q), of_q, torch.ones_like(of_q)], -1),
            torch.cat([-w, -w * of_k, w * j, w * j * of_k], -1),
        )

    def _gate(self, x: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
        """softplus of each token's part along its head's direction, [batch, heads, tokens, 1]."""
        along = x @ normalize(in_full(direction), dim=-1)[:, :, None].to(x.dtype)
        return softplus(along * x.shape[-1] ** -0.5)


@dataclass(frozen=True)
class GrapeA(Encoding):
    """Takes from each logit a penalty on distance, ALiBi's slope times gates that the query and the key open. So
    content decides how much distance counts. (arXiv 2512.07805)"""

    name = "grape-a"
    title = "a linear penalty on distance, gated by query and key"
    paper = "2512.07805"
    kinds = ("score",)

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        refuse_encoders(self, shape, "would raise the logits of keys after the query")
        return (Score(GatedSlopes(shape.heads, shape.channels, shape.generator())),)
