"""T5's relative bias. Raffel et al., arXiv 1910.10683, section 2.1.

A learned number per head and distance bucket: exact buckets up to half of them, then logarithmic ones up to
`max_distance`, past which all distances share the last. A bidirectional host gives half of the buckets to later keys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from whorl.encodings.base import Bias, Effect, Encoding, RelativeBias, Shape, in_full, require_positive_int


def buckets(distance: torch.Tensor, num_buckets: int, max_distance: int, bidirectional: bool) -> torch.Tensor:
    """The bucket (0 .. num_buckets - 1) of each signed distance, query position - key position, in tokens."""
    first = torch.zeros_like(distance)
    if bidirectional:
        num_buckets //= 2
        first = (distance < 0).long() * num_buckets
        distance = distance.abs()
    distance = distance.clamp(min=0)
    exact = num_buckets // 2
    scale = (num_buckets - exact) / math.log(max_distance / exact)
    logarithmic = exact + ((distance.clamp(min=1) / exact).log() * scale).long()
    return first + torch.where(distance < exact, distance, logarithmic.clamp(max=num_buckets - 1))


class BucketBias(RelativeBias):
    """A learned table [num_buckets, heads] looked up by distance bucket."""

    def __init__(self, heads: int, num_buckets: int, max_distance: int, bidirectional: bool) -> None:
        super().__init__()
        self.num_buckets, self.max_distance, self.bidirectional = num_buckets, max_distance, bidirectional
        self.weight = nn.Parameter(torch.zeros(num_buckets, heads))

    def of_distance(self, distance: torch.Tensor) -> torch.Tensor:
        bucket = buckets(distance, self.num_buckets, self.max_distance, self.bidirectional)
        return torch.nn.functional.embedding(bucket, in_full(self.weight)).movedim(-1, 0)


@dataclass(frozen=True)
class T5Bias(Encoding):
    """A learned bias per head and distance bucket, one table for all layers (arXiv 1910.10683).

    The logits keep the host's own scale (T5 itself has none). Buckets start at zero.
    """

    num_buckets: int = 32
    max_distance: int = 128

    name = "t5"
    title = "a learned bias per head and logarithmic distance bucket"
    paper = "1910.10683"
    kinds = ("bias",)

    def __post_init__(self) -> None:
        require_positive_int("num_buckets", self.num_buckets)
        require_positive_int("max_distance", self.max_distance)
        if self.num_buckets < 4 or self.num_buckets % 4:
            raise ValueError(f"num_buckets must be a multiple of 4, got {self.num_buckets}; T5's is 32")
        if self.max_distance <= self.num_buckets // 2:
            raise ValueError(
                f"max_distance must exceed num_buckets / 2 = {self.num_buckets // 2} (the distances that have a bucket "
                f"of their own), got {self.max_distance}; T5 has 32 buckets and 128"
            )

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        module = BucketBias(shape.heads, self.num_buckets, self.max_distance, shape.bidirectional)
        return (Bias(module, shared=True),)
