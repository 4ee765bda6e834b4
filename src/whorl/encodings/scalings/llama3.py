"""Llama 3.1's scaling. Grattafiori et al., arXiv 2407.21783, and Meta's code.

theta_i where lambda_i < L/high, theta_i / s where lambda_i > L/low, and between them
(1-a) theta_i / s + a theta_i with a = (L/lambda_i - low) / (high - low).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from whorl.encodings.config import of_host, require_positive
from whorl.encodings.scalings.base import Scaling, original_length
from whorl.encodings.spectrum import Spectrum


@dataclass(frozen=True)
class Llama3(Scaling):
    """Fast pairs kept, slow pairs divided by the factor, a blend between (arXiv 2407.21783).

    A pair is fast from `high_freq_factor` turns in the original length on, and slow below `low_freq_factor`. Llama 3.1
    has factor 8, low 1, high 4 and original 8192 (3.2: factor 32). Where low is high (Llama 4 Scout), there is nothing
    between: a step, and a pair right at it is kept (Meta's code refuses such numbers, and stock gives NaN for that one
    pair).
    """

    factor: float
    original: int | None = of_host(known="train_length")
    low_freq_factor: float = 1
    high_freq_factor: float = 4

    name = "llama3"
    title = "short wavelengths kept, long ones' frequencies divided by the factor, smooth between"
    paper = "2407.21783"
    example = "llama3:factor=8,original=8192"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("low_freq_factor", self.low_freq_factor, "turns within the original length")
        require_positive("high_freq_factor", self.high_freq_factor, "turns within the original length")
        if self.high_freq_factor < self.low_freq_factor:
            raise ValueError(
                f"high_freq_factor must not be below low_freq_factor, got {self.high_freq_factor} and "
                f"{self.low_freq_factor}; Llama 3.1's are 4 and 1"
            )

    def __call__(self, spectrum: Spectrum) -> Spectrum:
        original, low, high = original_length(self), self.low_freq_factor, self.high_freq_factor

        def scaled(frequency: float) -> float:
            turns = original * frequency / (2 * math.pi)
            if turns >= high:
                return frequency
            kept = 0.0 if turns <= low else (turns - low) / (high - low)
            return (1 - kept) * frequency / self.factor + kept * frequency

        return spectrum.with_frequencies(tuple(map(scaled, spectrum.frequencies)))
