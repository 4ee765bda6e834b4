"""FIRE, functional interpolation for relative position encoding. Li et al., ICLR 2024, arXiv 2310.04418.

bias(i, j) = f(psi(i - j) / psi(max(i, L))), psi(x) = ln(|c x| + 1)

f is a network from one number to one per head, with one hidden layer of ReLUs; it, c and the factor of L are learned,
in each layer by itself. i is the query's own position, however many tokens a call holds: with a cache, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from whorl.encodings.base import Encoding
from whorl.encodings.biases import in_full
from whorl.encodings.by_run import ByRun
from whorl.encodings.config import of_host, require_positive_int
from whorl.encodings.effects import Bias, Effect, Shape

EPSILON = 1e-6  # added to the normaliser, as in the official code


class InterpolatedBias(nn.Module):
    """f of the normalised distance, which is in [0, 1] for keys that are not after the query.

    start: L before anything is learned, in tokens.
    """

    def __init__(self, heads: int, width: int, start: float, generator: torch.Generator) -> None:
        super().__init__()
        self.start = start
        self.runs = 2 * width + 1
        self.c = nn.Parameter(torch.tensor([0.1]))
        self.factor = nn.Parameter(torch.ones(1))

        def drawn(*shape: int, inputs: int) -> nn.Parameter:
            """As nn.Linear draws them: U(-1, 1) / sqrt(inputs)."""
            return nn.Parameter((2 * torch.rand(shape, generator=generator) - 1) / inputs**0.5)

        self.w1, self.b1 = drawn(width, inputs=1), drawn(width, inputs=1)
        self.w2, self.b2 = drawn(heads, width, inputs=width), drawn(heads, inputs=width)

    def forward(self, query_positions: torch.Tensor, key_positions: torch.Tensor) -> torch.Tensor:
        """[batch, heads, queries, keys] for positions [batch, queries] and [batch, keys]."""
        return self.network(self.normalised(query_positions.long(), key_positions.long()))

    def normalised(self, query_positions: torch.Tensor, key_positions: torch.Tensor) -> torch.Tensor:
        """psi(i - j) / psi(max(i, L)), [batch, queries, keys]."""
        distance = query_positions[:, :, None] - key_positions[:, None, :]
        return self.psi(distance) / self.normaliser(query_positions)[..., None]

    def psi(self, x: torch.Tensor) -> torch.Tensor:
        """ln(|c x| + 1) of tokens [...]."""
        c = in_full(self.c)
        return (c * x.to(c.dtype)).abs().log1p()

    def normaliser(self, query_positions: torch.Tensor) -> torch.Tensor:
        """psi(max(i, L)) of queries at i [batch, queries]."""
        length = (in_full(self.factor) * self.start).abs()
        return self.psi(torch.maximum(query_positions.to(length.dtype), length)) + EPSILON

    def network(self, x: torch.Tensor) -> torch.Tensor:
        """f, [batch, heads, ...] for numbers [batch, ...]: a line is looked up and evaluated, and no hidden layer is
        made for each query and key."""
        borders, slopes, offsets = self.lines()
        piece = torch.bucketize(x, borders)
        shape = (len(slopes), *x.shape)
        slope, offset = (lines.index_select(1, piece.flatten()).view(shape) for lines in (slopes, offsets))
        return torch.addcmul(offset, slope, x).transpose(0, 1)

    def lines(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """f is linear between the points at which a ReLU begins or ends: those borders [width], ascending; and slopes
        and offsets of the pieces before, between and after them [heads, width + 1]."""
        w1, b1, w2, b2 = map(in_full, (self.w1, self.b1, self.w2, self.b2))
        with torch.no_grad():
            borders = (-b1 / w1).nan_to_num(0.0).clamp(-1.0, 1e6).sort().values
            edges = torch.cat([borders[:1] - 2, borders, borders[-1:] + 2])
            inside = (edges[1:] + edges[:-1]) / 2  # a point of each piece
            open_ = (inside[:, None] * w1 + b1 > 0).to(w1.dtype)  # the units that are not at 0 there
        return borders, w2 @ (open_ * w1).T, w2 @ (open_ * b1).T + b2[:, None]

    def by_run(self, q: torch.Tensor, query_positions: torch.Tensor, least: int, most: int, channels: int) -> ByRun:
        """On a run of distances f is one line of psi, whose slope a query's normaliser divides."""
        normaliser = self.normaliser(query_positions)
        borders, slopes, offsets = self.lines()
        with torch.no_grad():
            psi = self.psi(torch.arange(max(most, -least) + 1, device=q.device))
            before, past = torch.bucketize(torch.stack([psi[0], psi[-1] / normaliser.min()]), borders).tolist()
            within = borders[before:past, None] * normaliser[:, None]
            begin = torch.searchsorted(psi, within, right=True)  # the least distance past each border
        pieces = list(range(past, before - 1, -1))
        farthest = begin.flip(1) - 1
        if least < 0:  # later keys, which are as far away as earlier ones
            pieces += range(before + 1, past + 1)
            farthest = torch.cat([farthest, -begin], 1)
        slope, offset = (lines[:, pieces][None, :, :, None] for lines in (slopes, offsets))
        feature = self.psi(torch.arange(least, most + 1, device=q.device))
        return ByRun(farthest, offset, slope / normaliser[:, None, None], feature)


@dataclass(frozen=True)
class FIRE(Encoding):
    """Adds to each logit what a small network makes of the distance as a share of the query's own position. So texts
    of any length come to the range from 0 to 1, which training has shown. (arXiv 2310.04418)

    train_length  tokens; L starts at half of it, as in the official code, and queries before L divide by L
    width         units in the network's hidden layer
    """

    train_length: int | None = of_host(512)
    width: int = 32

    name = "fire"
    title = "a learned function of the distance, as a share of the query's position"
    paper = "2310.04418"
    kinds = ("bias",)
    not_relative = "it divides a distance by the position of the query"

    def __post_init__(self) -> None:
        require_positive_int("width", self.width)
        if self.train_length is not None:
            require_positive_int("train_length", self.train_length, " tokens")

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        start = self.argument("train_length") / 2
        return (Bias(InterpolatedBias(shape.heads, self.width, start, shape.generator())),)
