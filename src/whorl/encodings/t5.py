"""T5's relative bias. Raffel et al., arXiv 1910.10683, section 2.1.

A learned number per head and distance bucket: exact buckets up to half of them, then logarithmic ones up to
`max_distance`, past which all distances share the last. A bidirectional host gives half of the buckets to later keys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from whorl.encodings.base import Encoding
from whorl.encodings.biases import RelativeBias, bucketed, in_full
from whorl.encodings.config import require_positive_int
from whorl.encodings.effects import Bias, Effect, Shape


def buckets(distance: torch.Tensor, num_buckets: int, max_distance: int, bidirectional: bool) -> torch.Tensor:
    """The bucket (0 .. num_buckets - 1) of each signed distance, query position - key position, in tokens.

    Borders are exact: a distance on one belongs to the bucket that begins there. The reference code takes logarithms in
    float32, and may put a distance beside the border into its neighbour: in transformers 84 tokens of 36 buckets to 392
    are one too low, and 762 of 16 to 1,461 one too high. At T5's own settings (32 to 128) all distances agree.
    """
    return _within(distance, borders(num_buckets // (1 + bidirectional), max_distance), bidirectional)


def _within(distance: torch.Tensor, ends: tuple[int, ...], bidirectional: bool) -> torch.Tensor:
    if not bidirectional:
        return bucketed(distance.clamp(min=0), ends)
    return (distance < 0).long() * (len(ends) + 1) + bucketed(distance.abs(), ends)


def borders(num_buckets: int, max_distance: int) -> tuple[int, ...]:
    """The least distance of each bucket but the first: e = num_buckets // 2 of them one apart, then logarithmic.

    Of n = num_buckets - e logarithmic ones the k-th begins at the least d with n log(d / e) >= k log(max_distance / e),
    that is d^n >= max_distance^k e^(n - k). Where float64 lies near a whole number, whole numbers decide.
    """
    exact = num_buckets // 2
    logarithmic = num_buckets - exact
    found = list(range(1, exact + 1))
    for k in range(1, logarithmic):
        divisor = math.gcd(k, logarithmic)
        n, m = logarithmic // divisor, k // divisor
        border = exact * (max_distance / exact) ** (m / n)
        least = round(border)
        if abs(border - least) > 1e-9 * border:
            least = math.ceil(border)
        elif least**n < max_distance**m * exact ** (n - m):
            least += 1
        found.append(least)
    return tuple(found)


class BucketBias(RelativeBias):
    """A learned table [num_buckets, heads] looked up by distance bucket."""

    def __init__(self, heads: int, num_buckets: int, max_distance: int, bidirectional: bool) -> None:
        super().__init__()
        self.num_buckets, self.bidirectional = num_buckets, bidirectional
        self.borders = borders(num_buckets // (1 + bidirectional), max_distance)
        self.weight = nn.Parameter(torch.zeros(num_buckets, heads))

    def of_distance(self, distance: torch.Tensor) -> torch.Tensor:
        bucket = _within(distance, self.borders, self.bidirectional)
        return torch.nn.functional.embedding(bucket, in_full(self.weight)).movedim(-1, 0)


@dataclass(frozen=True)
class T5Bias(Encoding):
    """Adds to each logit a number that each head learns for the distance, told exactly near by and in ever wider
    buckets further on. Past the last border all distances are alike; one table serves all layers and starts at
    zero. (arXiv 1910.10683)

    num_buckets   how many numbers a head has; half of them for later keys in an encoder
    max_distance  tokens from which on all distances share the last bucket

    The logits keep the host's own scale (T5 itself has none).
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
        self._check_distance(self.num_buckets // 4, "num_buckets / 4", "of a host that sees both ways")

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        if not shape.bidirectional:
            self._check_distance(self.num_buckets // 2, "num_buckets / 2", "of a causal host")
        module = BucketBias(shape.heads, self.num_buckets, self.max_distance, shape.bidirectional)
        return (Bias(module, shared=True),)

    def _check_distance(self, exact: int, how: str, host: str) -> None:
        if self.max_distance <= exact:
            raise ValueError(
                f"max_distance must exceed {how} = {exact} (the distances {host} that have a bucket of their own), got "
                f"{self.max_distance}; T5 has 32 buckets and 128"
            )
