"""YaRN, and NTK by parts, of which it is made. Peng et al., arXiv 2309.00071, section 3.

A pair that turns often within the original length keeps its frequency theta_i, one that turns seldom gets theta_i / s,
and a ramp leads from one to the other. YaRN also multiplies cos and sin by 0.1 ln s + 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from whorl.encodings.config import check_flag, of_host, require_number, require_positive
from whorl.encodings.scalings.base import Scaling, geometric, original_length
from whorl.encodings.spectrum import Spectrum


@dataclass(frozen=True)
class NTKByParts(Scaling):
    """Pairs that turn at least beta_fast times in the original length are kept, those below beta_slow times divided.

    Between them a ramp, linear in the pair's index, as YaRN's code and stock have it (the paper's text ramps in the
    number of turns): see `divided`. (bloc97; arXiv 2309.00071.)
    """

    factor: float
    original: int | None = of_host(known="train_length")
    beta_fast: float = 32
    beta_slow: float = 1
    truncate: bool = True

    name = "ntk-by-parts"
    title = "fast pairs kept, slow pairs divided by the factor, a ramp between"
    paper = "2309.00071"
    example = "ntk-by-parts:factor=4,original=2048"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("beta_fast", self.beta_fast, "turns within the original length")
        require_positive("beta_slow", self.beta_slow, "turns within the original length")
        if self.beta_fast < self.beta_slow:
            raise ValueError(
                f"beta_fast must not be below beta_slow (turns within the original length), got {self.beta_fast} and "
                f"{self.beta_slow}; YaRN's are 32 and 1"
            )
        object.__setattr__(self, "truncate", check_flag("truncate", self.truncate))

    def __call__(self, spectrum: Spectrum) -> Spectrum:
        original_length(self)  # refused even where nothing turns
        if not spectrum.turning:
            return spectrum
        blended = zip(spectrum.frequencies, self.divided(spectrum), strict=True)
        return spectrum.with_frequencies(tuple(f / self.factor * r + f * (1 - r) for f, r in blended))

    def divided(self, spectrum: Spectrum) -> list[float]:
        """The share of each pair's frequency that is divided by the factor: 0 is kept, 1 divided.

        Linear in the pair's index, from that with beta_fast turns in the original length to that with beta_slow,
        clamped to 0 .. width - 1 as in YaRN's code; `truncate` rounds them outwards to whole indices first.

        Where no pair lies between them, the paper decides: pairs that all turn less than beta_slow times are divided,
        and pairs that all turn more than beta_fast times are kept. YaRN's code and stock clamp without asking, and
        there do something else: too slow, all pairs are kept (or the first alone, where the index rounds up to 0); fast
        enough, all are divided where they lie below the clamped end. Only lengths of a few tokens, or tiny bases, come
        to that.
        """
        first, step = geometric(spectrum, self.name)

        def index(turns: float) -> float:
            """The index, whole or not, of the pair that makes this many turns in the original length."""
            return math.log(original_length(self) * first / (turns * 2 * math.pi)) / step

        low, high = index(self.beta_fast), index(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        start, end = max(low, 0), min(high, spectrum.width - 1)

        def share(i: int) -> float:
            if i <= low:
                return 0.0
            return 1.0 if i >= high else min(max((i - start) / (end - start), 0.0), 1.0)

        return [share(i) for i in range(len(spectrum.frequencies))]


@dataclass(frozen=True)
class YaRN(NTKByParts):
    """NTK by parts, and cos and sin multiplied by 0.1 ln(factor) + 1 (arXiv 2309.00071).

    attention_factor: what to multiply by instead.
    mscale, mscale_all_dim: DeepSeek's m(mscale) / m(mscale_all_dim) instead, m(x) = 0.1 x ln(factor) + 1. Unset, they
    are 1 and 0, as in DeepSeek's code. (Stock ignores one given without the other. Its DeepSeek models also multiply
    their attention's own scale by m(mscale_all_dim)^2; that is the host's, not the encoding's.)
    """

    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None

    name = "yarn"
    title = "NTK by parts, and attention sharpened by 0.1 ln(factor) + 1"
    paper = "2309.00071"
    example = "yarn:factor=4,original=2048"

    def __post_init__(self) -> None:
        super().__post_init__()
        for argument in ("mscale", "mscale_all_dim"):
            value = getattr(self, argument)
            if value is None:
                continue
            require_number(argument, value)
            if not 0 <= value < math.inf:
                raise ValueError(f"{argument} must be finite and not negative, got {value}; DeepSeek's are around 1")
            if self.attention_factor is not None:
                raise ValueError(f"attention_factor={self.attention_factor} leaves nothing for {argument}; give one")

    @property
    def amplitude(self) -> float:
        """What cos and sin are multiplied by."""
        if self.attention_factor is not None:
            return self.attention_factor
        mscale = 1.0 if self.mscale is None else self.mscale
        grown = 0.1 * math.log(self.factor)
        return (grown * mscale + 1) / (grown * (self.mscale_all_dim or 0.0) + 1)

    def __call__(self, spectrum: Spectrum) -> Spectrum:
        return replace(super().__call__(spectrum), amplitude=spectrum.amplitude * self.amplitude)
