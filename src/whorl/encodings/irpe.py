"""iRPE, image relative position encoding, in a row and on a grid. Wu et al., arXiv 2107.14222, sections 3.2 and 3.3.

A distance x = i - j falls into a bucket by the piecewise index function, exact near by and logarithmic further on:

    g(x) = round(x)                                                                          for |x| <= alpha
    g(x) = sign(x) min(beta, round(alpha + ln(|x| / alpha) / ln(gamma / alpha) (beta - alpha)))   beyond

cut to a whole number (alpha = 1.9, beta = 3.8, gamma = 15.2 give the seven buckets -3 .. 3). A bucket has a number that
is added to the logit after scaling (bias mode), or vectors that meet the content of the query, of the key, or are added
to the value (contextual mode). All start at zero. As the official code does it, bias mode does not divide by the
scale's square root as equation 12 would.

On a grid, for y rows and x columns between two patches, and b the last bucket (3 of these):

    product       the bucket of (g(y), g(x)), of (2 b + 1)^2
    cross         those of g(y) and of g(x), of 2 b + 1 each, whose numbers or vectors are added up
    euclidean     that of g(round(sqrt(y^2 + x^2))), of b + 1
    quantization  that of g(y^2 + x^2), of b + 1: the official code does not quantize

and one more (of cross, one for rows and one for columns) for pairs of which a token is no patch (a class token).
A query's table ("q") has the row of query - key, as the paper writes it; the official code takes key - query there.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from whorl.encodings.base import Encoding
from whorl.encodings.biases import RelativeBias, bucketed, in_full
from whorl.encodings.config import choices, require_number
from whorl.encodings.effects import Bias, Effect, Score, Shape
from whorl.encodings.grid_buckets import AXES, GridBias, GridBuckets, GridVectors
from whorl.encodings.relative_vectors import RelativeVectors


def index(x: int, alpha: float, beta: float, gamma: float) -> int:
    """g(x) for x >= 0."""
    if x <= alpha:
        return x
    return int(min(beta, round(alpha + math.log(x / alpha) / math.log(gamma / alpha) * (beta - alpha))))


@cache
def borders(alpha: float, beta: float, gamma: float, squared: bool) -> tuple[int, ...]:
    """The least distance of each bucket but that of 0: where g, of the distance or of its square, reaches 1, 2, ..."""
    farthest = math.ceil(max(alpha, gamma)) + 1
    return tuple(
        bisect_left(range(farthest), number, key=lambda x: index(x * x if squared else x, alpha, beta, gamma))
        for number in range(1, index(farthest, alpha, beta, gamma) + 1)
    )


@dataclass(frozen=True)
class Buckets:
    """Which bucket a distance is in, 0 .. count - 1: in order, those of later keys first where they are told apart."""

    borders: tuple[int, ...]
    directed: bool

    @property
    def count(self) -> int:
        return len(self.borders) * (2 if self.directed else 1) + 1

    @property
    def changes(self) -> tuple[int, ...]:
        """The distances at which another bucket begins than that of the one before, ascending."""
        return tuple(sorted({*self.borders, *(1 - border for border in self.borders)}))

    def of(self, distance: torch.Tensor) -> torch.Tensor:
        far = bucketed(distance.abs(), self.borders)
        return len(self.borders) + far * distance.sign() if self.directed else far


class BucketedBias(RelativeBias):
    """A number per bucket, [buckets, heads or 1]."""

    def __init__(self, heads: int, buckets: Buckets) -> None:
        super().__init__()
        self.buckets = buckets
        self.weight = nn.Parameter(torch.zeros(buckets.count, heads))

    def of_distance(self, distance: torch.Tensor) -> torch.Tensor:
        return nn.functional.embedding(self.buckets.of(distance), in_full(self.weight)).movedim(-1, 0)


class BucketedVectors(RelativeVectors):
    """Vectors per bucket."""

    def __init__(self, on: str, heads: int, channels: int, buckets: Buckets) -> None:
        super().__init__(on, heads, (buckets.count,), channels, buckets.changes)
        self.buckets = buckets

    def row(self, distance: torch.Tensor) -> torch.Tensor:
        return self.buckets.of(distance)


@dataclass(frozen=True)
class IRPE(Encoding):
    """Sorts distances into a few buckets, exact near by and wider further on, and lets the query's content meet a
    vector of the bucket. In bias mode a bucket has a number instead; all are learned and start at zero.
    (arXiv 2107.14222)

    method  "product" tells earlier keys from later ones; "euclidean" does not; nor does "quantization", which takes the
            square of the distance, as the official code has it. On a grid "product" has a bucket for each pair of
            distances by rows and by columns, and "cross", which is for grids alone, adds up one for each
    mode    "contextual" or "bias"
    on      what vectors meet: "k" (the table of keys, which queries meet), "q", "v", or several, as "qkv"
    heads   "shared" by the heads of a layer, or "own"
    alpha   up to so many tokens, or patches, each distance has a bucket
    beta    the number of the last bucket
    gamma   tokens, or patches, at which the last bucket is reached
    """

    method: str = "product"
    mode: str = "contextual"
    on: str = "k"
    heads: str = "shared"
    alpha: float = 1.9
    beta: float = 3.8
    gamma: float = 15.2

    name = "irpe"
    title = "a learned vector (or number) per bucket of distance, which the query's content is weighed with"
    paper = "2107.14222"
    kinds = ("score", "bias")

    def __post_init__(self) -> None:
        choices("method", self.method, ("product", "cross", "euclidean", "quantization"))
        choices("mode", self.mode, ("contextual", "bias"))
        choices("on", self.on, ("k", "q", "v", "qk", "kv", "qv", "qkv"))
        choices("heads", self.heads, ("shared", "own"))
        for argument in ("alpha", "beta", "gamma"):
            require_number(argument, getattr(self, argument))
        if not (0 < self.alpha <= self.beta and self.alpha < self.gamma < 1e9 and self.beta >= 1):
            raise ValueError(
                f"irpe needs 0 < alpha <= beta, alpha < gamma and beta of at least 1 (a bucket beside that of 0), got "
                f"alpha={self.alpha}, beta={self.beta}, gamma={self.gamma}; the paper's are as 1 : 2 : 8"
            )
        if self.mode == "bias" and self.on != "k":
            raise ValueError(f"on={self.on} says what vectors meet, and mode=bias has none; leave out one of them")

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        heads = shape.heads if self.heads == "own" else 1
        if shape.axes == 1:
            row = self._in_a_row(shape.bidirectional)
            if self.mode == "bias":
                return (Bias(BucketedBias(heads, row)),)
            return (Score(BucketedVectors(self.on, heads, shape.channels, row)),)
        if shape.axes != AXES:
            raise ValueError(
                f"{self} goes by one distance, or by rows and columns, and a position has {shape.axes} axes"
            )
        grid = GridBuckets(self.method, borders(self.alpha, self.beta, self.gamma, squared=False))
        if self.mode == "bias":
            return (Bias(GridBias(heads, grid)),)
        return (Score(GridVectors(self.on, heads, shape.channels, grid)),)

    def _in_a_row(self, bidirectional: bool) -> Buckets:
        if self.method == "cross":
            raise ValueError(
                "irpe:method=cross adds up rows and columns, and these tokens stand in one row; try product"
            )
        found = borders(self.alpha, self.beta, self.gamma, self.method == "quantization")
        return Buckets(found, directed=self.method == "product" and bidirectional)
