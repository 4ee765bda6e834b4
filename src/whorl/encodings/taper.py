"""Clipped RoPE (CoPE), the soft one: slow pairs turn ever slower, down to a stop. arXiv 2602.05258.

theta_k w_k for the k-th of the n slow pairs, w_k = (1 + cos(pi k / (n - 1))) / 2, k = 0 .. n-1: what is weighted are
frequencies, and cos and sin stay as large as they were. The paper's code has the last 20 of 64 pairs as the slow ones,
whatever base and length; here they are those that HoPE would still. (Not the contextual CoPE of 2405.18719.)
"""

from __future__ import annotations

from dataclasses import dataclass

from whorl.encodings.config import of_host, require_positive, require_positive_int
from whorl.encodings.rope import Rotary
from whorl.encodings.spectrum import Spectrum, rope_frequencies, tapered


@dataclass(frozen=True)
class Taper(Rotary):
    """Pairs whose wavelength exceeds `cut` times `train_length` tokens slow down to a stop, along half a cosine.

    `train_length`, `base`, `fraction` and `cut` as in `HoPE`, which stops all of those pairs. Of a spectrum that is
    given or scaled, the scaling `soft-clip` does the same. (arXiv 2602.05258)
    """

    train_length: int | None = of_host()
    base: float | None = of_host(10000.0)
    fraction: float | None = of_host()
    cut: float = 1.0

    name = "taper"
    title = "pairs whose full turn does not fit in the training length slow down to a stop along half a cosine"
    paper = "2602.05258"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train_length is not None:
            require_positive_int("train_length", self.train_length, " tokens")
        require_positive("cut", self.cut, "times the training length")

    def spectrum(self, head_dim: int) -> Spectrum:
        width = self.width(head_dim)
        if self.train_length is None:
            raise ValueError(
                "taper needs the length that the model is trained at, and none was given; "
                "try Taper(train_length=4096), or taper:train_length=4096 on the command line"
            )
        frequencies = rope_frequencies(self.argument("base"), width)
        return Spectrum(tapered(frequencies, self.cut * self.train_length), head_dim)
