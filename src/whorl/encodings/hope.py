"""HoPE, high-frequency rotary position encoding. Chen et al., ACL 2025, arXiv 2410.21216.

Pair i turns iff one full turn fits in the training length L: 2 pi / theta_i <= L. The others keep their
channels as position-independent ones: score = sum_{i<K} q_i R((n-m) theta_i) k_i + sum_{i>=K} q_i k_i.
LeRoPE (2607.10134) finds the pairs that matter most at wavelengths of about 2.2 L, which that cut
does not rotate: hence `cut`. (Not the HoPE of 2509.05218, hyperbolic, nor that of 2505.20444, for vision-language
models.)
"""

from __future__ import annotations

from dataclasses import dataclass

from whorl.encodings.config import added
from whorl.encodings.rope import ByTrainLength
from whorl.encodings.spectrum import fully_turning


@dataclass(frozen=True)
class HoPE(ByTrainLength):
    """Rotates only the pairs that make a full turn within the training length; the others carry content alone,
    whatever the distance. So past that length no pair is at an angle that training has not shown.
    (arXiv 2410.21216)

    train_length  the tokens that the model is trained at, not the length of a run
    base          as in `RoPE`
    fraction      as in `RoPE`; the cut is made in the pairs that turn
    cut           a pair turns if its wavelength is at most so many training lengths; 1 is the paper's rule
    """

    cut: float = added(1.0)

    name = "hope"
    title = "high-frequency RoPE: a pair turns if its full turn fits in the training length"
    paper = "2410.21216"

    def kept(self, frequencies: tuple[float, ...], length: float) -> tuple[float, ...]:
        return fully_turning(frequencies, length)
