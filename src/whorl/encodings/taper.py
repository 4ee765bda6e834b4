"""Clipped RoPE (CoPE), the soft one: slow pairs turn ever slower, down to a stop. arXiv 2602.05258.

theta_k w_k for the k-th of the n slow pairs, w_k = (1 + cos(pi k / (n - 1))) / 2, k = 0 .. n-1: what is weighted are
frequencies, and cos and sin stay as large as they were. The paper's code has the last 20 of 64 pairs as the slow ones,
whatever base and length; here they are those that HoPE does not rotate. (Not the contextual CoPE of 2405.18719.)
"""

from __future__ import annotations

from dataclasses import dataclass

from whorl.encodings.rope import ByTrainLength
from whorl.encodings.spectrum import tapered


@dataclass(frozen=True)
class Taper(ByTrainLength):
    """Slows pairs that make no full turn within the training length down to a stop, along half a cosine. It is HoPE's
    cut without an edge: the first pairs past it keep most of their speed. (arXiv 2602.05258)

    train_length  the tokens that the model is trained at, not the length of a run
    base          as in `RoPE`
    fraction      as in `RoPE`; the cut is made in the pairs that turn
    cut           a pair keeps its frequency if its wavelength is at most so many training lengths

    Of a spectrum that is given or scaled, the scaling `soft-clip` does the same.
    """

    name = "taper"
    title = "pairs whose full turn does not fit in the training length slow down to a stop along half a cosine"
    paper = "2602.05258"

    def kept(self, frequencies: tuple[float, ...], length: float) -> tuple[float, ...]:
        return tapered(frequencies, length)
