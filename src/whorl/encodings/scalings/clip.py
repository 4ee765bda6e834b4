"""Clipping: pairs with a wavelength above a number of tokens do not rotate, or slow down to a stop. arXiv 2602.05258.

The paper is CoPE's, Clipped RoPE (not the contextual CoPE): its soft clipping lowers frequencies along half a cosine.
"""

from __future__ import annotations

from dataclasses import dataclass

from whorl.encodings.scalings.base import Scaling
from whorl.encodings.spectrum import Spectrum, fully_turning, tapered


@dataclass(frozen=True)
class Clip(Scaling):
    """Pairs whose wavelength exceeds `wavelength` tokens do not rotate (the paper's hard clipping, arXiv 2602.05258).

    The rule of HoPE: `rope~clip:wavelength=512` has the spectrum of `hope:train_length=512`. The code of 2602.05258
    names a number of pairs instead, the last 20 of 64.
    """

    wavelength: float

    name = "clip"
    title = "pairs with a wavelength above this many tokens do not rotate"
    paper = "2602.05258"
    example = "clip:wavelength=512"

    def __call__(self, spectrum: Spectrum) -> Spectrum:
        return spectrum.with_frequencies(fully_turning(spectrum.frequencies, self.wavelength))


@dataclass(frozen=True)
class SoftClip(Scaling):
    """CoPE's taper: the frequencies of slow pairs fall to 0 along half a cosine (arXiv 2602.05258).

    The band is the n turning pairs whose wavelength exceeds `wavelength` tokens, in order: the k-th gets
    theta (1 + cos(pi k / (n-1))) / 2, so the first keeps its frequency and the last does not rotate (a lone pair keeps
    its own). The paper's code has this taper on the last 20 of 64 pairs; a band by wavelength is ours, and any
    `wavelength` between those of the 44th and the 45th pair gives the code's own.
    """

    wavelength: float

    name = "soft-clip"
    title = "pairs with a wavelength above this many tokens slow down to a stop along half a cosine"
    paper = "2602.05258"
    example = "soft-clip:wavelength=512"

    def __call__(self, spectrum: Spectrum) -> Spectrum:
        return spectrum.with_frequencies(tapered(spectrum.frequencies, self.wavelength))
