"""LieRE, Lie rotational position encodings. Ostmeier et al., ICML 2025, arXiv 2406.10322. For positions of any axes.

q and k of the token at p are multiplied by R(p) = exp(sum_a p_a A_a), one learned skew-symmetric matrix A_a for each
axis, so that R(p) turns all channels of a block at once and keeps their length. With blocks of two channels it is RoPE
with learned frequencies along each axis.

Matrices of several axes do not commute in general: R(p)^T R(q) is then not R(q - p), and changes where both tokens
move. Along one axis it is relative, as RoPE. Entries above the diagonal start uniform in 0 .. 2 pi, and positions go
from 0 to 1 along the side of the training grid. In a larger image they go on past 1, and a patch stays as wide as it
was; the official code has it there up to 1 / side narrower.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from whorl.encodings.angles import exact
from whorl.encodings.config import choices, of_host, require_positive, require_positive_int
from whorl.encodings.effects import Effect, Score, Shape
from whorl.encodings.rope import OfPairs
from whorl.encodings.scores import At, ScoreModule, of_heads
from whorl.numerics import math_dtype

PER = ("head", "layer", "model")


class Generators(ScoreModule):
    """The entries above the diagonal of A [axes, heads or 1, blocks, block (block - 1) / 2], row by row, in radians per
    `unit` of a position.

    The authors train without weight decay; transformers' Trainer leaves out what is called a bias.
    """

    causal = False
    axis = "all"

    def __init__(self, shape: Shape, unit: float, block: int, heads: int) -> None:
        super().__init__()
        self.unit, self.block, self.axes = unit, block, shape.axes
        sizes = (shape.axes, heads, shape.head_dim // block, block * (block - 1) // 2)
        self.generator_bias = nn.Parameter(2 * math.pi * torch.rand(sizes, generator=shape.generator()))

    def rotations(self, positions: torch.Tensor, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        """R [B or 1, heads or 1, T, blocks, block, block] of positions [B or 1, T, axes], in this dtype.

        Along one axis it is made in float64: a text goes on for many a unit, where an image ends soon.
        """
        entries = torch.einsum("bta,ahnc->bhtnc", exact(positions) / self.unit, exact(self.generator_bias))
        entries = entries if self.axes == 1 else entries.to(dtype)
        row = torch.arange(self.block, device=entries.device)
        column = row[:, None]
        first, last = torch.minimum(row, column), torch.maximum(row, column)
        where = first * (2 * self.block - first - 1) // 2 + last - first - 1
        sign = (row > column).to(entries.dtype) - (row < column).to(entries.dtype)
        generators = entries[..., where.clamp(min=0)] * sign
        return torch.linalg.matrix_exp(generators.contiguous()).to(dtype)

    def inputs(self, q: torch.Tensor, k: torch.Tensor, at: At) -> tuple[torch.Tensor, torch.Tensor]:
        dtype = math_dtype(q.dtype)
        of_q = self.rotations(at.query_positions, dtype)
        of_k = of_q if at.same_tokens else self.rotations(at.key_positions, dtype)
        return self._turned(q, of_q), self._turned(of_heads(k, of_q.shape[1]), of_k)

    def _turned(self, x: torch.Tensor, rotations: torch.Tensor) -> torch.Tensor:
        blocks = rotations.shape[3]
        width = blocks * self.block
        turned = rotations @ x[..., :width].to(rotations.dtype).unflatten(-1, (blocks, self.block))[..., None]
        both = turned.flatten(-3).to(x.dtype)
        return both if x.shape[-1] == width else torch.cat([both, x[..., width:]], -1)


@dataclass(frozen=True)
class LieRE(OfPairs):
    """Turns blocks of channels of q and k by learned rotations, as far as the position along each axis says. What axial
    and mixed RoPE do with pairs of channels, it does with larger blocks; along more than one axis it is not relative.
    (arXiv 2406.10322)

    unit   the coordinate that counts as 1: that of the last patch along the longer side of the training grid, of the
           last token in training, or of the farthest point
    block  channels that turn together; all of a head's where it is not given. Each block of a token takes block x block
           numbers, so that large images want small blocks
    per    what has rotations of its own: each "head" of each layer, each "layer", or the "model"
    """

    unit: float | None = of_host(known="span")
    block: int | None = None
    per: str = "head"

    name = "liere"
    title = "turns blocks of channels by learned rotations along each axis, the exponentials of matrices"
    paper = "2406.10322"
    not_relative_along_several = "rotations along several axes do not commute"

    def __post_init__(self) -> None:
        if self.unit is not None:
            require_positive("unit", self.unit, "a coordinate")
        if self.block is not None:
            require_positive_int("block", self.block, " channels")
            if self.block < 2:
                raise ValueError(f"block must be at least 2, since a channel alone cannot turn, got {self.block}")
        choices("per", self.per, PER)

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        unit = self.needed("unit", "the coordinate that counts as 1", 13)
        block = shape.head_dim if self.block is None else self.block
        if block > shape.head_dim:
            raise ValueError(f"block={block} is more than the {shape.head_dim} channels of a head that turn")
        heads = shape.heads if self.per == "head" else 1
        return (Score(Generators(shape, unit, block, heads), shared=self.per == "model"),)
