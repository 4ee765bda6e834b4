"""HoPE, high-frequency rotary position encoding. Chen et al., ACL 2025, arXiv 2410.21216.

Pair i turns iff one full turn fits in the training length L: 2 pi / theta_i <= L. The others keep their
channels as position-independent ones: score = sum_{i<K} q_i R((n-m) theta_i) k_i + sum_{i>=K} q_i k_i.
LeRoPE (2607.10134) finds the pairs that matter most at wavelengths of about 2.2 L, which that cut stills: hence `cut`.
(Not the HoPE of 2509.05218, hyperbolic, nor that of 2505.20444, for vision-language models.)
"""

from __future__ import annotations

from dataclasses import dataclass

from whorl.encodings.config import added, of_host, require_positive, require_positive_int
from whorl.encodings.rope import Rotary
from whorl.encodings.spectrum import Spectrum, fully_turning, rope_frequencies


@dataclass(frozen=True)
class HoPE(Rotary):
    """Pairs whose wavelength is at most `cut` times `train_length` tokens turn; the rest are position-independent.

    `train_length` (tokens) is the length that the model is trained at, not the length of a run; a spectrum cannot be
    had without it. `base` and `fraction` as in `RoPE`: the cut is made in the pairs that turn. What is unset is the
    model's own, or in a comparison from scratch the run's training length. `cut` is ours; 1 is the paper's rule.
    (arXiv 2410.21216)
    """

    train_length: int | None = of_host()
    base: float | None = of_host(10000.0)
    fraction: float | None = of_host()
    cut: float = added(1.0)

    name = "hope"
    title = "high-frequency RoPE: a pair turns if its full turn fits in the training length"
    paper = "2410.21216"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train_length is not None:
            require_positive_int("train_length", self.train_length, " tokens")
        require_positive("cut", self.cut, "times the training length")

    def spectrum(self, head_dim: int) -> Spectrum:
        width = self.width(head_dim)
        if self.train_length is None:
            raise ValueError(
                "hope needs the length that the model is trained at, and none was given; "
                "try HoPE(train_length=4096), or hope:train_length=4096 on the command line"
            )
        frequencies = rope_frequencies(self.argument("base"), width)
        return Spectrum(fully_turning(frequencies, self.cut * self.train_length), head_dim)
