"""An explicit list of frequencies, for a spectrum that no named encoding gives (a scaled checkpoint's, say).

Pair i turns by position x values[i]: RoFormer, arXiv 2104.09864, Eq. 14-15, with theta_i as given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from whorl.encodings.config import added, number_list, require_number
from whorl.encodings.rope import Rotary
from whorl.encodings.spectrum import Spectrum


@dataclass(frozen=True)
class Frequencies(Rotary):
    """Turns each pair at the radians per token that are given for it. It says any spectrum that has no name, a
    checkpoint's or one of your own. (arXiv 2104.09864, any theta)

    values     up to head_dim / 2 numbers, 0 for a pair that does not rotate, joined by "@"; channels past the pairs
               pass through
    amplitude  what cos and sin are multiplied by (YaRN's attention factor)
    axes       which axis of a position each pair goes by, from 0, where positions have several
    """

    values: tuple[float, ...]
    amplitude: float = 1.0
    axes: tuple[int, ...] = added(())

    name = "frequencies"
    title = "an explicit list, radians per token for each pair"
    paper = "2104.09864"
    example = "frequencies:values=1@0.1@0.01"

    def __post_init__(self) -> None:
        values = number_list("values", self.values, "1@0.1@0.01")
        if not values or not all(math.isfinite(v) and v >= 0 for v in values):
            raise ValueError(f"values must be finite, not negative and at least one (radians per token), got {values}")
        require_number("amplitude", self.amplitude)
        if not math.isfinite(self.amplitude):
            raise ValueError(f"amplitude must be finite (cos and sin are multiplied by it), got {self.amplitude}")
        axes = number_list("axes", self.axes, "0@0@1") if self.axes != () else ()
        if axes and (len(axes) != len(values) or not all(axis >= 0 and axis.is_integer() for axis in axes)):
            raise ValueError(f"axes must be {len(values)} whole numbers from 0, one for each value, got {self.axes}")
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "axes", tuple(map(int, axes)))

    def spectrum(self, head_dim: int) -> Spectrum:
        if 2 * len(self.values) > head_dim:
            raise ValueError(
                f"{len(self.values)} frequencies turn {2 * len(self.values)} channels, and this host lets "
                f"{head_dim} turn; give at most {head_dim // 2}"
            )
        return Spectrum(self.values, head_dim, float(self.amplitude), self.axes)
