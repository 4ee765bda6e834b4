"""ALiBi on the grid of an image, as CROMA has it: Fuller et al., NeurIPS 2023, arXiv 2311.00566, section 3.

logit(i, j) = q_i.k_j / sqrt(d) - slope_h |p_i - p_j|, with ALiBi's slopes, for patches at p = (row, column)

The distance is Euclidean, and one patch is its unit: it is `euclidean-alibi` by the name that it has for images.
"""

from __future__ import annotations

from dataclasses import dataclass

from whorl.encodings.base import Encoding
from whorl.encodings.effects import Bias, Effect, Shape
from whorl.encodings.euclidean_alibi import EuclideanBias
from whorl.encodings.grid import check_axes


@dataclass(frozen=True)
class ALiBi2D(Encoding):
    """Takes from each logit a number that grows with the distance between two patches, steeply in some heads and hardly
    in others. It is `euclidean-alibi` in patches. (arXiv 2311.00566)"""

    name = "alibi-2d"
    title = "ALiBi on a grid: a linear penalty on the Euclidean distance in patches"
    paper = "2311.00566"
    kinds = ("bias",)
    on_grid = True

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        check_axes(self.name, shape)
        return (Bias(EuclideanBias(shape.heads, unit=1.0), shared=True),)
