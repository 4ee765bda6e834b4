"""The axial RoPE of DINOv3. Simeoni et al., arXiv 2508.10104, as its code has it.

A pair turns by 2 pi c / base^(4t/d) radians, t = 0 .. d/4 - 1, where c is the centre of the patch along y (the first
half of the pairs) or x, with the image from -1 to 1 along both sides. What its code does to the centres in training
(shifts, jitter, rescaling) is left to augmentation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from whorl.encodings.axial_rope import pairs_per_axis
from whorl.encodings.config import of_host
from whorl.encodings.grid import X, Y
from whorl.encodings.rope import Rotary
from whorl.encodings.spectrum import Spectrum, rope_frequencies


@dataclass(frozen=True)
class DINOv3RoPE(Rotary):
    """Turns half of the pairs by y and half by x, where an image goes from -1 to 1 along both sides. A larger image
    has finer steps between the same ends, and none that training has not seen. (arXiv 2508.10104)

    base  of the periods, which are 1 .. base half images
    """

    base: float | None = of_host(100.0)

    name = "dinov3-rope"
    title = "RoPE on a grid whose coordinates go from -1 to 1, whatever the size of the image"
    paper = "2508.10104"
    not_relative = "a patch's coordinates depend on the size of the image"
    on_grid = True

    def spectrum(self, head_dim: int) -> Spectrum:
        pairs = pairs_per_axis(head_dim, self.name)
        values = tuple(2 * math.pi * f for f in rope_frequencies(self.argument("base"), 2 * pairs))
        return Spectrum(2 * values, head_dim, axes=(Y,) * pairs + (X,) * pairs)
