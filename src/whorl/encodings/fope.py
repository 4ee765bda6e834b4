"""FoPE, Fourier position embedding. Hua et al., ICML 2025, arXiv 2412.17739.

Of RoPE's d/2 pairs the D that turn fully in the training length keep their frequencies. Per head, their cosines and,
apart from them, their sines are mixed into m = min(D, d/4) of each by fixed random matrices [D, m] (almost a selection;
columns sum to 1), and pair i < m is multiplied by the i-th: (a, b) -> (a C_i - b S_i, b C_i + a S_i). As cosines and
sines are mixed apart, logits do not depend on distances alone.

All other pairs get C = S = 1 in the official code, at every position: a turn by 45 degrees that is times sqrt(2), so
that they count twice in a logit. So at least half of the pairs carry no position.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from whorl.encodings.angles import AngleModule, angles_of, cos_sin_of, numbers
from whorl.encodings.biases import in_full
from whorl.encodings.config import of_host, require_number, require_positive_int
from whorl.encodings.effects import Effect, Score, Shape
from whorl.encodings.rope import OfPairs
from whorl.encodings.spectrum import rope_frequencies, turns_fully


class FourierMixture(AngleModule):
    """The mixing matrices of cosines and of sines, [heads, D, m] each: fixed, and saved with the model."""

    causal = False

    def __init__(self, frequencies: tuple[float, ...], pairs: int, gain: float, shape: Shape) -> None:
        super().__init__(shape.layout)
        self.frequencies, self.pairs = frequencies, pairs
        heads, generator = shape.heads, shape.generator()
        self.of_cos = nn.Parameter(_mixture(len(frequencies), pairs, heads, gain, generator), requires_grad=False)
        self.of_sin = nn.Parameter(_mixture(len(frequencies), pairs, heads, gain, generator), requires_grad=False)

    def turning(
        self, positions: torch.Tensor, state: torch.Tensor | None, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        cos, sin = cos_sin_of(angles_of(positions, numbers(self.frequencies, positions)), dtype)
        # fixed for who thaws a whole model too: model.requires_grad_(True)
        return self._mixed(cos, self.of_cos.detach()), self._mixed(sin, self.of_sin.detach())

    def _mixed(self, waves: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        """Waves [B or 1, 1, T, D] through [H, D, m], and 1 for the pairs without: [B or 1, H, T, pairs]."""
        weights = in_full(matrix).to(waves.dtype)
        mixed = waves @ (weights / weights.sum(-2, keepdim=True))
        return nn.functional.pad(mixed, (0, self.pairs - mixed.shape[-1]), value=1.0)


def _mixture(count: int, pairs: int, heads: int, gain: float, generator: torch.Generator) -> torch.Tensor:
    """[heads, D, m]: every ceil(D / m)-th wave, and Xavier's normal noise as the official code has it, whose fans are
    those of a convolution of this shape."""
    kept = min(count, pairs // 2)
    if not kept:
        return torch.zeros(heads, count, 0)
    noise = torch.randn(heads, count, kept, generator=generator)
    step = math.ceil(count / kept)
    matrix = gain * math.sqrt(2 / (kept * (count + heads))) * noise
    for i in range(math.ceil(count / step)):
        matrix[:, i * step, i] += 1
    return matrix


@dataclass(frozen=True)
class FoPE(OfPairs):
    """Gives each head fixed random mixtures of the waves that fit into the training length, where RoPE has one wave
    per pair. The other pairs, at least half, are the same at every position and count twice in a logit, as in the
    official code. (arXiv 2412.17739)

    train_length  the tokens that the model is trained at, not the length of a run
    base          as in `RoPE`
    fraction      as in `RoPE`
    gain          of the noise in the mixtures; 0.3 is the paper's for 60 M parameters (0.4 for 180 M, 0.6 for 1.2 B)

    All layers have the same matrices.
    """

    train_length: int | None = of_host()
    base: float | None = of_host(10000.0)
    fraction: float | None = of_host()
    gain: float = 0.3

    name = "fope"
    title = "per head, fixed mixtures of the waves that fit in the training length, on half of the pairs"
    paper = "2412.17739"
    not_relative = "it mixes cosines and sines apart from one another"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train_length is not None:
            require_positive_int("train_length", self.train_length, " tokens")
        require_number("gain", self.gain)
        if not 0 <= self.gain < math.inf:
            raise ValueError(f"gain must be finite and not negative (of the noise in the mixtures), got {self.gain}")

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        width = self.width(shape.head_dim)
        length = self.needed("train_length", "the length that the model is trained at", 4096)
        waves = tuple(f for f in rope_frequencies(self.argument("base"), width) if turns_fully(f, length))
        return (Score(FourierMixture(waves, width // 2, self.gain, shape), shared=True),)
