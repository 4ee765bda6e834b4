"""Scalable softmax, SSMax. Nakanishi, arXiv 2501.19399.

A query that sees n keys has its logits multiplied by s ln n, with s learned per head and layer: n^(s z) takes the place
of e^z in the softmax, and a key that stands out does so among any number of others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from whorl.encodings.base import Encoding
from whorl.encodings.biases import in_full
from whorl.encodings.config import of_host
from whorl.encodings.effects import Effect, Scale, Shape
from whorl.encodings.log_n import check_length


class LearnedLogarithm(nn.Module):
    """s ln n, with s [heads]."""

    axis = "any"  # of the positions: it does not look at them

    def __init__(self, heads: int, start: float) -> None:
        super().__init__()
        self.s = nn.Parameter(torch.full((heads,), start))

    def forward(self, counts: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """[batch or 1, heads, queries] for counts [batch or 1, queries]; a query that sees no key (padding) is as with
        one."""
        s = in_full(self.s)
        return s[:, None] * counts[:, None].clamp(min=1).to(s.dtype).log()


@dataclass(frozen=True)
class SSMax(Encoding):
    """Multiplies the logits of a query that sees n keys by s ln n, with an s that each head learns. So a key that
    stands out does so among any number of others. (arXiv 2501.19399)

    train_length  tokens; s starts at 1 over the mean of ln n up to there, where the factor is 1 on average: 0.168 at
                  the paper's 1,024
    """

    train_length: int | None = of_host(1024)

    name = "ssmax"
    title = "scalable softmax: logits times s ln n for n keys, s learned per head"
    paper = "2501.19399"
    kinds = ("scale",)
    by_order = True

    def __post_init__(self) -> None:
        check_length(self.name, self.train_length, "a mean of ln n up to train_length")

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        length = self.argument("train_length")
        return (Scale(LearnedLogarithm(shape.heads, length / math.lgamma(length + 1)), shared=False),)
