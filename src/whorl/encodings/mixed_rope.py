"""Mixed RoPE for images. Heo et al., RoPE-ViT, ECCV 2024, arXiv 2403.13298, section 3.3.

Pair t of a head turns by x f_x[t] + y f_y[t] radians for the patch in column x and row y. All f are learned, in each
layer and head, without weight decay. They start as the axial frequencies, base^(-4t/d) for t = 0 .. d/4 - 1, along two
directions at a right angle: those of a head are turned by one random angle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from whorl.encodings.angles import AngleModule, cos_sin_of, exact
from whorl.encodings.axial_rope import pairs_per_axis
from whorl.encodings.config import check_base, check_flag
from whorl.encodings.effects import Effect, Score, Shape
from whorl.encodings.grid import COLUMN, ROW
from whorl.encodings.rope import OfPairs
from whorl.encodings.spectrum import rope_frequencies


class MixedAngles(AngleModule):
    """The frequencies of each head along x and y, [2, heads, pairs], in radians per patch.

    transformers' Trainer leaves out of weight decay what is called a bias. timm's optimizers leave out what has one
    dimension or a name that ends in ".bias", and so would not: name it to them.
    """

    causal = False
    axis = "all"
    axes = 2

    def __init__(self, shape: Shape, base: float, rotate: bool) -> None:
        super().__init__(shape.layout)
        self.rotate = rotate
        along = torch.tensor(rope_frequencies(base, shape.head_dim // 2), dtype=torch.float64)
        turns = torch.rand(shape.heads, 1, generator=shape.generator(), dtype=torch.float64) * (2 * math.pi * rotate)
        x, y = turns.cos() * along, turns.sin() * along
        self.frequency_bias = nn.Parameter(torch.stack([torch.cat([x, -y], -1), torch.cat([y, x], -1)]).float())

    @torch.no_grad()
    def start_from(self, frequencies: torch.Tensor) -> None:
        """Takes a host's own, [2, heads, pairs] along x and y."""
        self.frequency_bias.copy_(frequencies)

    def turning(
        self, positions: torch.Tensor, state: torch.Tensor | None, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        of_y, of_x = self.along().unsqueeze(-2)  # [heads, 1, pairs]
        x, y = (exact(positions[:, None, :, axis, None]) for axis in (COLUMN, ROW))
        return cos_sin_of(x * of_x + y * of_y, dtype)

    def along(self) -> torch.Tensor:
        return exact(self.frequency_bias).flip(0)


@dataclass(frozen=True)
class MixedRoPE(OfPairs):
    """Turns each pair by rows and columns together, in a direction of the image and at a speed that each layer and
    head learns. At first they are axial RoPE's, turned by a random angle in each head. (arXiv 2403.13298)

    base    of the frequencies that it starts with
    rotate  whether each head starts in directions of its own, which are the model's where it has learned some; false:
            as `axial-rope` of this base
    """

    base: float = 10.0
    rotate: bool = True

    name = "mixed-rope"
    title = "RoPE on a grid with learned frequencies along rows and columns, in each layer and head"
    paper = "2403.13298"
    on_grid = True

    def __post_init__(self) -> None:
        check_base(self.base)
        object.__setattr__(self, "rotate", check_flag("rotate", self.rotate))

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        pairs_per_axis(shape.head_dim, self.name)
        return (Score(MixedAngles(shape, self.base, self.rotate)),)
