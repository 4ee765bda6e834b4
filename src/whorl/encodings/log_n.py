"""Logits scaled by the logarithm of the number of keys. Chiang and Cholak, ACL 2022, arXiv 2202.12172, section 5.

factor(n) = max(1, ln n / ln L), for a query that sees n keys, and L the training length

As keys are added a softmax spreads out; a factor of ln n keeps its entropy. Divided by ln L and never below 1 (as Qwen
has it), it leaves alone what a model was trained at, and needs no training. It is 1 + ln(n / L) / ln L past L; with a
slope c in the place of 1 / ln L, 1 + c ln(n / L), it is the temperature of DroPE (arXiv 2512.12167, appendix C.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from whorl.encodings.base import Encoding
from whorl.encodings.config import added, of_host, require_positive, require_positive_int
from whorl.encodings.effects import Effect, Scale, Shape


class LogarithmOfCounts(nn.Module):
    """max(1, ln n / ln L), or with a slope c max(1, 1 + c ln(n / L)); one number for all heads."""

    axis = "any"  # of the positions: it does not look at them

    def __init__(self, train_length: int, slope: float | None = None) -> None:
        super().__init__()
        self.train_length, self.slope = train_length, slope

    def forward(self, counts: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """[batch or 1, 1, queries] for counts [batch or 1, queries]."""
        if self.slope is None:
            factor = counts.float().log() / math.log(self.train_length)
        else:
            factor = 1 + self.slope * (counts.float() / self.train_length).log()
        return factor.clamp(min=1.0)[:, None]


def check_length(name: str, train_length: int | None, divisor: str) -> None:
    """Refuses a training length by whose logarithms nothing can be divided."""
    if train_length is None:
        return
    require_positive_int("train_length", train_length, " tokens")
    if train_length == 1:
        raise ValueError(f"{name} divides by {divisor}, which must be at least 2, got 1")


@dataclass(frozen=True)
class LogN(Encoding):
    """Multiplies the logits of a query that sees n keys by ln n / ln L, where n is past the training length L. Over
    more keys a softmax spreads out, and this keeps it as sharp as it was; up to L nothing changes.
    (arXiv 2202.12172)

    train_length  L in tokens
    slope         the factor past L is 1 + slope ln(n / L); unset, the slope is 1 / ln L
    """

    train_length: int | None = of_host(512)
    slope: float | None = added(None)

    name = "log-n"
    title = "logits times ln n / ln L for n keys past the training length L"
    paper = "2202.12172"
    kinds = ("scale",)
    by_order = True

    def __post_init__(self) -> None:
        check_length(self.name, self.train_length, "the logarithm of train_length")
        if self.slope is not None:
            require_positive("slope", self.slope, "for each unit of ln(n / train_length)")

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        return (Scale(LogarithmOfCounts(self.argument("train_length"), self.slope)),)
