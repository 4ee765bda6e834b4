"""What every scaling is: a config, like an encoding, that maps one spectrum to another."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from whorl.encodings.config import Config, check_base, require_number, require_positive, require_positive_int
from whorl.encodings.spectrum import Spectrum, decay

GEOMETRIC = 1e-5  # how far from base^(-2i/d) a frequency may lie: float32 tables lie within 2e-6


def _check_factor(factor: Any) -> None:
    require_number("factor", factor)
    if not 1 <= factor < math.inf:
        raise ValueError(
            f"factor must be a finite number of at least 1 (how many times longer the context becomes), got {factor}"
        )


# The arguments that several scalings have mean the same in all of them, and make sense alike.
CHECKS: dict[str, Callable[[Any], None]] = {
    "factor": _check_factor,
    "original": lambda value: require_positive_int("original", value, " tokens"),
    "attention_factor": lambda value: require_positive("attention_factor", value, "times cos and sin"),
    "wavelength": lambda value: require_positive("wavelength", value, "tokens"),
    "base": check_base,
}


@dataclass(frozen=True)
class Scaling(Config):
    """Base of every scaling. An `original` length that is unset is the training length of what is scaled."""

    def __post_init__(self) -> None:
        """Refuses arguments of `CHECKS` that make no sense; None is one that is unset."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in CHECKS and not (value is None and field.default is None):
                CHECKS[field.name](value)

    def __call__(self, spectrum: Spectrum) -> Spectrum:
        """The scaled spectrum; of one that depends on the length, that up to the original length."""
        raise NotImplementedError

    def at(self, spectrum: Spectrum, length: int) -> Spectrum:
        """The scaled spectrum for a context of `length` tokens."""
        require_positive_int("length", length, " tokens")
        return self(spectrum)

    @property
    def length_dependent(self) -> bool:
        """Whether `at` gives different spectra at different lengths."""
        return False

    def same_up_to(self, length: int) -> float:
        """The longest context with the spectrum that one of `length` tokens has; infinite where all longer ones do."""
        require_positive_int("length", length, " tokens")
        return math.inf


def geometric(spectrum: Spectrum, name: str) -> tuple[float, float]:
    """(a, s) of a spectrum whose turning pairs have theta_i = a exp(-s i); RoPE's are 1 and 2 ln(base) / d.

    Raises ValueError, in the name of the scaling that asks, for a spectrum that does not fall so.
    """
    turning, frequencies, step = spectrum.turning, spectrum.frequencies, decay(spectrum)
    if step is None:
        raise ValueError(
            f"{name} reads the base off two turning pairs, and this spectrum has {len(turning)}; "
            "try linear, or more pairs"
        )
    first = frequencies[turning[0]] * math.exp(step * turning[0])
    for k in turning:
        expected = first * math.exp(-step * k)
        if step <= 0 or abs(frequencies[k] - expected) > GEOMETRIC * expected:
            raise ValueError(
                f"{name} needs frequencies that fall as base^(-2i/{spectrum.width}), and these have no one base "
                f"(pair {k} turns at {frequencies[k]:.6g} radians per token); put {name} first, or leave it out"
            )
    return first, step


def original_length(scaling: Any) -> int:
    """A scaling's `original`, in tokens. Raises ValueError where it is unset."""
    if scaling.original is None:
        raise ValueError(
            f"{scaling.name} needs original, the length in tokens that the model was trained at, and none was given; "
            f"try {scaling.example}"
        )
    return scaling.original
