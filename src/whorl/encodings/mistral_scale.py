"""The temperature of attention of Ministral 3 and Mistral 4: Llama 4's, counted from another token.

factor(m) = 1 + beta ln(1 + floor(m / original)), for the query at position m

It is 1 up to the original length, where Llama 4's takes its first step one token earlier.
"""

from __future__ import annotations

from dataclasses import dataclass

from whorl.encodings.base import Encoding
from whorl.encodings.config import of_host, require_number, require_positive_int
from whorl.encodings.effects import Effect, Scale, Shape
from whorl.encodings.llama4_scale import Steps


@dataclass(frozen=True)
class MistralScale(Encoding):
    """Multiplies a query's logits by a number that grows with the logarithm of its position, in steps of the length
    that the model was trained at first. Within that length nothing changes. (Mistral, after arXiv 2501.19399)

    original  tokens: the length that the model was trained at first
    beta      by how much the factor grows; `llama_4_scaling_beta` in Mistral's configs
    """

    original: int | None = of_host(8192, "train_length")
    beta: float = 0.1

    name = "mistral-scale"
    title = "logits times 1 + 0.1 ln(1 + steps of the original length), as in Ministral 3"
    paper = "2501.19399"
    kinds = ("scale",)
    not_relative = "it goes by the query's own position"

    def __post_init__(self) -> None:
        if self.original is not None:
            require_positive_int("original", self.original, " tokens")
        require_number("beta", self.beta)

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        return (Scale(Steps(self.argument("original"), self.beta, ahead=0)),)
