"""Position interpolation. Chen et al., arXiv 2306.15595, Eq. 3: theta_i / s."""

from __future__ import annotations

from dataclasses import dataclass

from whorl.encodings.scalings.base import Scaling
from whorl.encodings.spectrum import Spectrum


@dataclass(frozen=True)
class Linear(Scaling):
    """Every frequency divided by the factor, as if every position were (arXiv 2306.15595)."""

    factor: float

    name = "linear"
    title = "position interpolation: every frequency divided by the factor"
    paper = "2306.15595"
    example = "linear:factor=2"

    def __call__(self, spectrum: Spectrum) -> Spectrum:
        return spectrum.with_frequencies(tuple(f / self.factor for f in spectrum.frequencies))
