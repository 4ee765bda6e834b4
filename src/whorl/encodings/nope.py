"""NoPE, no positional encoding. Kazemnejad et al., arXiv 2305.19466, theorem 1: a causal mask lets a decoder count.

logit(i, j) = q_i.k_j / sqrt(d) for j <= i. Logits that are all alike give the first token the weight 1 / (i + 1).
"""

from __future__ import annotations

from dataclasses import dataclass

from whorl.encodings.base import Encoding
from whorl.encodings.effects import Effect, Shape


@dataclass(frozen=True)
class NoPE(Encoding):
    """Adds, turns and biases nothing: the causal mask alone tells a query which tokens come before it. A query that
    averages over the keys that it sees can count them, and so tell where it is. (arXiv 2305.19466)"""

    name = "nope"
    title = "nothing: the causal mask alone orders the tokens"
    paper = "2305.19466"
    kinds = ()
    by_order = True

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        return ()
