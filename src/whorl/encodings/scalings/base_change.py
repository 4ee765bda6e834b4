"""ABF, another base under the same exponents. Xiong et al., arXiv 2309.16039; Code Llama: theta_i (b / base)^(2i/d)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from whorl.encodings.scalings.base import Scaling, geometric
from whorl.encodings.spectrum import Spectrum


@dataclass(frozen=True)
class BaseChange(Scaling):
    """Another base under the same exponents (arXiv 2309.16039).

    The spectrum's own base b is read off its frequencies. The pairs that turn are those that turned under b.
    """

    base: float

    name = "base-change"
    title = "another base under the same exponents (ABF)"
    paper = "2309.16039"
    example = "base-change:base=500000"

    def __call__(self, spectrum: Spectrum) -> Spectrum:
        if not spectrum.turning:
            return spectrum
        _, step = geometric(spectrum, self.name)
        change = step - 2 * math.log(self.base) / spectrum.width
        frequencies = tuple(f * math.exp(i * change) for i, f in enumerate(spectrum.frequencies))
        return spectrum.with_frequencies(frequencies)
