"""HoPE, high-frequency rotary position encoding. Chen et al., ACL 2025, arXiv 2410.21216.

Pair i turns iff one full turn fits in the training length L: 2 pi / theta_i <= L. The others keep their
channels as position-independent ones: score = sum_{i<K} q_i R((n-m) theta_i) k_i + sum_{i>=K} q_i k_i.
(Not the HoPE of 2509.05218, hyperbolic, nor that of 2505.20444, for vision-language models.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from whorl.encodings.base import check_base, require_positive_int
from whorl.encodings.rope import Rotary
from whorl.encodings.spectrum import Spectrum, check_head_dim, rope_frequencies


@dataclass(frozen=True)
class HoPE(Rotary):
    """Pairs whose wavelength is at most `train_length` tokens turn; the rest are position-independent.

    `train_length` (tokens) is the length that the model is trained at, not the length of a run. It may be
    left out where a comparison fills it in; a spectrum cannot be had without it. (arXiv 2410.21216)
    """

    train_length: int | None = None
    base: float = 10000.0

    name = "hope"
    title = "high-frequency RoPE: a pair turns if its full turn fits in the training length"
    paper = "2410.21216"

    def __post_init__(self) -> None:
        check_base(self.base)
        if self.train_length is not None:
            require_positive_int("train_length", self.train_length, " tokens")

    def with_train_length(self, train_length: int) -> HoPE:
        return self if self.train_length is not None else replace(self, train_length=train_length)

    def spectrum(self, head_dim: int) -> Spectrum:
        check_head_dim(head_dim, self.name)
        if self.train_length is None:
            raise ValueError(
                "hope needs the length that the model is trained at, and none was given; "
                "try HoPE(train_length=4096), or hope:train_length=4096 on the command line"
            )
        slowest = 2 * math.pi / self.train_length
        frequencies = rope_frequencies(self.base, head_dim)
        return Spectrum(tuple(f if f >= slowest else 0.0 for f in frequencies), head_dim)
