"""Clipped RoPE (CoPE), the soft one: slow pairs turn ever slower, down to a stop. arXiv 2602.05258.

theta_k w_k for the k-th of the n slow pairs, w_k = (1 + cos(pi k / (n - 1))) / 2, k = 0 .. n-1: what is weighted are
frequencies, and cos and sin stay as large as they were. The paper's code has the last 20 of 64 pairs as the slow ones,
whatever base and length; here they are those that HoPE would still. (Not the contextual CoPE of 2405.18719.)
"""

from __future__ import annotations

from dataclasses import dataclass

from whorl.encodings.rope import ByTrainLength
from whorl.encodings.spectrum import tapered


@dataclass(frozen=True)
class Taper(ByTrainLength):
    """Pairs whose wavelength exceeds `cut` times `train_length` tokens slow down to a stop, along half a cosine.

    `train_length`, `base`, `fraction` and `cut` as in `HoPE`, which stops all of those pairs. Of a spectrum that is
    given or scaled, the scaling `soft-clip` does the same. (arXiv 2602.05258)
    """

    name = "taper"
    title = "pairs whose full turn does not fit in the training length slow down to a stop along half a cosine"
    paper = "2602.05258"

    def kept(self, frequencies: tuple[float, ...], length: float) -> tuple[float, ...]:
        return tapered(frequencies, length)
