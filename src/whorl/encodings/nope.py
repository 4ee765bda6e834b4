"""NoPE: no positional encoding; a causal mask alone lets a decoder count. Kazemnejad et al., arXiv 2305.19466."""

from __future__ import annotations

from dataclasses import dataclass

from whorl.encodings.base import Encoding
from whorl.encodings.effects import Effect, Shape


@dataclass(frozen=True)
class NoPE(Encoding):
    """Nothing is added, turned or biased (arXiv 2305.19466)."""

    name = "nope"
    title = "nothing: the causal mask alone orders the tokens"
    paper = "2305.19466"
    kinds = ()
    by_order = True

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        return ()
