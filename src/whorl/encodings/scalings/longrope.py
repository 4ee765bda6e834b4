"""LongRoPE. Ding et al., arXiv 2402.13753: theta_i / short_factor[i] up to L tokens, theta_i / long_factor[i] past it.

cos and sin are multiplied by sqrt(1 + ln s / ln L) at every length. The lists come from a search, not done here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from whorl.encodings.config import number_list, of_host, require_positive_int
from whorl.encodings.scalings.base import Scaling, original_length
from whorl.encodings.spectrum import Spectrum

FLOAT32_MAX = (2 - 2**-23) * 2.0**127


def amplitude_of(factor: float, original: float) -> float:
    """What cos and sin are multiplied by at `factor` times the original length (tokens, at least 2); 1 for no factor
    above 1."""
    return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0


@dataclass(frozen=True)
class LongRoPE(Scaling):
    """Every frequency divided by its own number: one list up to the original length, one past it (arXiv 2402.13753).

    cos and sin are multiplied by sqrt(1 + ln(factor) / ln(original)), or by `attention_factor` in place of `factor`.
    The lists have one number per pair, joined by "@" in the notation.
    A number past float32 (3.4e38) stops its pair, as it does in stock's float32 tables.
    """

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    factor: float | None = None
    original: int | None = of_host(known="train_length")
    attention_factor: float | None = None

    name = "longrope"
    title = "every frequency divided by its own searched factor, one list up to the original length, one past it"
    paper = "2402.13753"
    example = "longrope:short_factor=1@1,long_factor=1.5@4,factor=4,original=4096"

    def __post_init__(self) -> None:
        super().__post_init__()
        for argument in ("short_factor", "long_factor"):
            numbers = number_list(argument, getattr(self, argument), "1@1.5@4")
            if not numbers or not all(0 < number < math.inf for number in numbers):
                raise ValueError(f"{argument} must be finite numbers above 0, at least one, got {numbers}")
            object.__setattr__(self, argument, numbers)
        if len(self.short_factor) != len(self.long_factor):
            raise ValueError(
                f"short_factor and long_factor need one number per pair each, got {len(self.short_factor)} and "
                f"{len(self.long_factor)}"
            )
        if self.original == 1:
            raise ValueError("original must be at least 2 tokens (its logarithm divides), got 1")
        if (self.factor is None) == (self.attention_factor is None):
            raise ValueError(
                "longrope needs factor (cos and sin are multiplied by sqrt(1 + ln(factor) / ln(original))) or "
                f"attention_factor in its place, and one of them; got factor={self.factor} and "
                f"attention_factor={self.attention_factor}"
            )

    @property
    def length_dependent(self) -> bool:
        return self.short_factor != self.long_factor

    @property
    def amplitude(self) -> float:
        """What cos and sin are multiplied by."""
        if self.factor is None:
            return self.attention_factor or 1.0
        return amplitude_of(self.factor, original_length(self))

    def __call__(self, spectrum: Spectrum) -> Spectrum:
        return self._divided(spectrum, "short_factor")

    def at(self, spectrum: Spectrum, length: int) -> Spectrum:
        require_positive_int("length", length, " tokens")
        return self._divided(spectrum, "long_factor" if length > original_length(self) else "short_factor")

    def same_up_to(self, length: int) -> float:
        require_positive_int("length", length, " tokens")
        return original_length(self) if self.length_dependent and length <= original_length(self) else math.inf

    def _divided(self, spectrum: Spectrum, argument: str) -> Spectrum:
        factors = getattr(self, argument)
        if len(factors) != len(spectrum.frequencies):
            raise ValueError(
                f"{argument} has {len(factors)} numbers, and this spectrum has {len(spectrum.frequencies)} pairs; "
                "give one number per pair"
            )
        divided = (f / by if by <= FLOAT32_MAX else 0.0 for f, by in zip(spectrum.frequencies, factors, strict=True))
        return replace(spectrum.with_frequencies(tuple(divided)), amplitude=spectrum.amplitude * self.amplitude)
